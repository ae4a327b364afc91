package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/config/mirari"
	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

// importFlags are the flags of "morgana import".
type importFlags struct {
	app, dir string
	force    bool
}

func (c *cli) importCommand() *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use:   "import [FILE|FOLDER]",
		Short: "Turn a mirari .conf into a morgana.yaml and a config.ml",
		Long: `Read the .conf of mirari, which built MirageOS applications in 2013, and write
a morgana.yaml for toolchain mirage and a sketch of the config.ml that MirageOS 4
wants; its xl- lines become a target xen. In a folder (default: the current one)
it reads the one file named *.conf.

A line without a counterpart today, or with a different one, is printed and becomes
a comment in the morgana.yaml. The program itself is yours to port.`,
		Example: "  morgana import app.conf\n  morgana import old/app --dir new/app",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return c.importConf(filepath.Clean(strings.Join(args, "")), f)
		},
	}
	cmd.Flags().StringVar(&f.app, "app", "", "the app's name (default: the file's)")
	cmd.Flags().StringVar(&f.dir, "dir", "", "folder to write to, made if it is missing (default: the .conf's)")
	cmd.Flags().BoolVar(&f.force, "force", false, "overwrite files that are there")
	return cmd
}

func (c *cli) importConf(path string, f importFlags) error {
	path, err := findConf(path)
	if err != nil {
		return err
	}
	if f.app == "" {
		f.app = nameFrom(strings.TrimSuffix(filepath.Base(path), ".conf"))
	}
	if err := step.CheckName("--app", f.app); err != nil {
		return err
	}
	conf, err := readConf(path)
	if err != nil {
		return err
	}
	if f.dir == "" {
		f.dir = filepath.Dir(path)
	}
	if err := place(conf, filepath.Dir(path), f.dir); err != nil {
		return err
	}
	files := []newFile{
		{filepath.Join(f.dir, config.Filename), conf.Project(f.app)},
		{filepath.Join(f.dir, "config.ml"), conf.Sketch(f.app)},
	}
	if err := writeNew(files, f.force); err != nil {
		return err
	}
	c.imported(files, conf.Notes)
	return nil
}

func (c *cli) imported(files []newFile, notes []mirari.Note) {
	var paths []string
	for _, file := range files {
		paths = append(paths, file.path)
	}
	if c.output == "json" {
		c.emit(struct {
			Event string        `json:"event"`
			Files []string      `json:"files"`
			Notes []mirari.Note `json:"notes"`
		}{"imported", paths, notes})
		return
	}
	for _, n := range notes {
		c.print("%s", n)
	}
	c.say("wrote %s: look them over, port the program to unikernel.ml, then run morgana deploy", strings.Join(paths, " and "))
}

// findConf returns path if it is a file, or the one .conf in the folder path.
func findConf(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		e := config.Unreadable(path, err)
		e.Hint = cmp.Or(e.Hint, "name the .conf of a mirari project, or its folder")
		return "", e
	}
	if !info.IsDir() {
		return path, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return "", config.Unreadable(path, err)
	}
	var found []string
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".conf" && !e.IsDir() {
			found = append(found, e.Name())
		}
	}
	switch len(found) {
	case 0:
		return "", &step.Error{Kind: step.NotFound, Err: fmt.Errorf("no .conf in %s", path), Hint: "name the file: morgana import app.conf"}
	case 1:
		return filepath.Join(path, found[0]), nil
	}
	return "", step.Invalid("", "name one: "+strings.Join(found, ", "), "%d files named *.conf in %s", len(found), path)
}

func readConf(path string) (*mirari.Conf, error) {
	data, err := files.Read(path, mirari.MaxBytes)
	if err != nil {
		return nil, config.Unreadable(path, err)
	}
	return mirari.Parse(filepath.Base(path), data)
}

// place rewrites the paths of the fs- folders, from the folder of the .conf to the new
// one. It adds a note about a folder that is missing, or that is not packed because it is
// outside of the new folder.
func place(conf *mirari.Conf, from, to string) error {
	whole, err := filepath.Abs(to)
	if err != nil {
		return err
	}
	for i := range conf.FS {
		f := &conf.FS[i]
		dir := f.Dir
		if !filepath.IsAbs(dir) {
			if dir, err = filepath.Abs(filepath.Join(from, dir)); err != nil {
				return err
			}
		}
		rel, err := filepath.Rel(whole, dir)
		if err != nil {
			return err
		}
		f.Dir = rel
		if !filepath.IsLocal(rel) {
			conf.Note(f.Line, "fs-"+f.Name, "%s is outside of the folder that is packed and built: move it in, and correct config.ml", rel)
		} else if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			conf.Note(f.Line, "fs-"+f.Name, "there is no folder %s yet", rel)
		}
	}
	return nil
}

type newFile struct {
	path    string
	content []byte
}

// writeNew writes all files. Without force it writes none if one of them exists.
func writeNew(files []newFile, force bool) error {
	for _, f := range files {
		if _, err := os.Lstat(f.path); err == nil && !force {
			return &step.Error{Kind: step.Conflict, Op: f.path, Err: errors.New("exists already"), Hint: "choose another --dir, or pass --force to overwrite it"}
		}
	}
	for _, f := range files {
		err := os.MkdirAll(filepath.Dir(f.path), 0o755)
		if err == nil {
			err = os.WriteFile(f.path, f.content, 0o644)
		}
		if err != nil {
			return &step.Error{Kind: step.InvalidSpec, Op: "write " + f.path, Err: err}
		}
	}
	return nil
}
