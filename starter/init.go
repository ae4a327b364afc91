package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

func (c *cli) initCommand() *cobra.Command {
	var app, kernel, kind string
	var force bool
	cmd := &cobra.Command{
		Use:   "init [FOLDER]",
		Short: "Write a morgana.yaml to start from",
		Long: `Write a commented morgana.yaml into FOLDER (default: the current one). With
--kernel it deploys a kernel that exists already, with the devices of its Solo5 manifest.
Otherwise mirage builds one if FOLDER has MirageOS's config.ml, and make if not. Without
--kind the target's kind follows the kernel's bytes and, as mirage names them, its name:
a .virtio is for qemu, a .xen for xen, a .spt or .hvt and a Linux program for local.`,
		Example: "  morgana init\n  morgana init --app web --kernel dist/web.xen\n  morgana init --kind ec2",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			folder := "."
			if len(args) == 1 {
				folder = args[0]
			}
			return c.init(folder, app, kernel, kind, force)
		},
	}
	cmd.Flags().StringVar(&app, "app", "", "the app's name (default: the folder's)")
	cmd.Flags().StringVar(&kernel, "kernel", "", "deploy this kernel file as it is")
	cmd.Flags().StringVar(&kind, "kind", "", "the kind of the target (default: that of the kernel, else qemu)")
	cmd.Flags().BoolVar(&force, "force", false, "overwrite a morgana.yaml that is there")
	return cmd
}

func (c *cli) init(folder, app, kernel, kind string, force bool) error {
	whole, err := filepath.Abs(folder)
	if err != nil {
		return err
	}
	if info, err := os.Stat(whole); err != nil || !info.IsDir() {
		return &step.Error{Kind: step.NotFound, Err: fmt.Errorf("%s is no folder", folder), Hint: "create it first: mkdir -p " + folder}
	}
	if app == "" {
		app = nameFrom(filepath.Base(whole))
	}
	if err := step.CheckName("--app", app); err != nil {
		return err
	}
	t := config.Template{App: app, Toolchain: "command", Kernel: app, Kind: "qemu"}
	if kernel != "" {
		if info, err := os.Stat(kernel); err == nil && !info.Mode().IsRegular() {
			return step.Invalid("--kernel", "name a kernel file", "%s is not a regular file", kernel)
		}
		found := identify(kernel)
		t.Toolchain, t.Kernel, t.Kind = config.Prebuilt, fromFolder(whole, kernel), kindFor(kernel, found.ABIs)
		t.Solo5 = slices.ContainsFunc(found.ABIs, func(abi string) bool { return strings.HasPrefix(abi, "solo5-") })
		for _, d := range found.Devices {
			if d.Type == image.NetBasic {
				t.Networks = append(t.Networks, d.Name)
			} else {
				t.Disks = append(t.Disks, d.Name)
			}
		}
	}
	if t.Kind = cmp.Or(kind, t.Kind); kernel == "" {
		source := readConfig(filepath.Join(whole, mirageConfig))
		if mirageForm.MatchString(source) {
			t.Toolchain, t.Solo5 = mirage, true
			target := image.MirageTarget(t.Kind)
			if t.Networks, t.Disks = image.MirageDevices(source, target); target == "unix" {
				t.Networks = nil // it uses the host's network
			}
		}
	}
	if err := step.CheckName("--kind", t.Kind); err != nil {
		return err
	}
	path := filepath.Join(folder, config.Filename)
	mode := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if force {
		mode = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	file, err := os.OpenFile(path, mode, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return &step.Error{Kind: step.Conflict, Op: path, Err: errors.New("exists already"), Hint: "edit it, or pass --force to overwrite it"}
	}
	if err != nil {
		return err
	}
	_, err = file.Write(t.YAML())
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	c.say("wrote %s: look it over, then run morgana deploy", path)
	if _, err := os.Stat(kernel); kernel != "" && errors.Is(err, fs.ErrNotExist) {
		c.say("%s does not exist: build it before you deploy", kernel)
	}
	if ours := kinds("target"); !slices.Contains(ours, t.Kind) {
		c.say("kind %s is not one of Morgana's own (%s): a worker of yours must serve it", t.Kind, step.OneOf(t.Kind, ours...))
	}
	return nil
}

// kindFor returns the kind of target for a kernel file. It is the kind that the file's
// extension names (as .virtio), unless the kernel's ABIs exclude it. Otherwise it is the
// first kind that boots the kernel, or qemu if there is none.
func kindFor(kernel string, abis []string) string {
	byName := image.Targets(image.MirageABIs(strings.TrimPrefix(filepath.Ext(kernel), ".")))
	byBytes := image.Targets(abis)
	for _, kind := range byName {
		if len(byBytes) == 0 || slices.Contains(byBytes, kind) {
			return kind
		}
	}
	return append(byBytes, "qemu")[0]
}

// mirageForm matches OCaml that uses module Mirage, as MirageOS's config.ml does.
var mirageForm = regexp.MustCompile(`(?m)\bopen\s+Mirage\b|\bMirage\.`)

// identify reads a kernel file. The result is empty if the file does not exist or is no
// kernel.
func identify(kernel string) image.Info {
	file, info, err := files.Open(kernel)
	if err != nil {
		return image.Info{}
	}
	defer func() { _ = file.Close() }()           // read only
	found, _ := image.Identify(file, info.Size()) // deploy reports the error
	return found
}

// fromFolder makes a path that is relative to the current folder relative to folder.
func fromFolder(folder, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	if whole, err := filepath.Abs(path); err == nil {
		if rel, err := filepath.Rel(folder, whole); err == nil {
			return rel
		}
	}
	return path
}

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// nameFrom makes an app's name from the name of a folder or file.
func nameFrom(folder string) string {
	name := strings.TrimLeft(notInNames.ReplaceAllString(strings.ToLower(folder), "-"), "-0123456789")
	name = strings.TrimRight(name[:min(len(name), 40)], "-")
	if name == "" {
		return "app"
	}
	return name
}

// mirage is the toolchain for a folder with MirageOS's config.ml.
const (
	mirage       = "mirage"
	mirageConfig = "config.ml"
)

// readConfig reads a config.ml, "" if it cannot be read.
func readConfig(path string) string {
	text, err := files.Read(path, 1<<20)
	if err != nil {
		return ""
	}
	return string(text)
}
