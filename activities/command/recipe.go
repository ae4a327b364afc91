package command

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/tree"
)

func read(spec step.Spec) (tree.Recipe, error) {
	var o Options
	if err := step.Decode(spec.Toolchain.Options, &o, o.check); err != nil {
		return tree.Recipe{}, err
	}
	timeout, err := tree.Timeout("timeout", o.Timeout)
	if err != nil {
		return tree.Recipe{}, err
	}
	product := tree.Product{Kernel: o.Kernel}
	for _, f := range o.Files {
		product.Files = append(product.Files, tree.File{Path: f, Name: path.Base(f)})
	}
	return tree.Recipe{
		Configure:   commands(o.Configure),
		Build:       commands(o.Build),
		Product:     product,
		CheckSource: o.checkSource,
		Env:         o.Env,
		Timeout:     timeout,
	}, nil
}

func commands(argvs [][]string) []tree.Command {
	var all []tree.Command
	for _, argv := range argvs {
		all = append(all, tree.Command{Argv: argv})
	}
	return all
}

// check returns the error of wrong options, nil if there is none.
func (o *Options) check() error {
	if len(o.Build) == 0 {
		return step.Invalid("build", "as in: build: [[make]]", "no command is given")
	}
	if err := checkCommands("configure", o.Configure); err != nil {
		return err
	}
	if err := checkCommands("build", o.Build); err != nil {
		return err
	}
	if err := tree.CheckPath("kernel", o.Kernel); err != nil {
		return err
	}
	seen := map[string]bool{}
	for i, f := range o.Files {
		field := fmt.Sprintf("files[%d]", i)
		if err := tree.CheckPath(field, f); err != nil {
			return err
		}
		if seen[path.Base(f)] {
			return step.Invalid(field, "files are known by the last part of their path: each needs its own", "another file is named %q as well", path.Base(f))
		}
		seen[path.Base(f)] = true
	}
	return tree.CheckEnv("env", o.Env)
}

func checkCommands(field string, commands [][]string) error {
	for i, argv := range commands {
		at := fmt.Sprintf("%s[%d]", field, i)
		if len(argv) == 0 || argv[0] == "" {
			return step.Invalid(at, `a command is a list of a program and its arguments, as ["make", "-j4"]`, "names no program")
		}
		for j, arg := range argv {
			if strings.ContainsRune(arg, 0) {
				return step.Invalid(fmt.Sprintf("%s[%d]", at, j), "", "has a NUL byte")
			}
		}
	}
	return nil
}

// checkSource refuses a source that lacks the first command's program, if its name has a
// slash. Earlier commands may make the programs of later ones.
func (o *Options) checkSource(root *os.Root) error {
	field, first := "build[0]", o.Build[0][0]
	if len(o.Configure) > 0 {
		field, first = "configure[0]", o.Configure[0][0]
	}
	if !strings.Contains(first, "/") || filepath.IsAbs(first) {
		return nil
	}
	info, err := root.Stat(filepath.FromSlash(first))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return step.Invalid(field, "a file that .gitignore names is not taken along", "the source has no %s", first)
	case err != nil:
		return step.Invalid(field, "it has to be a program inside the source folder", "%s cannot be run: %w", first, tree.Cause(err))
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return step.Invalid(field, "chmod +x "+first, "%s is not executable", first)
	}
	return nil
}
