package command

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/morgana-deploy/morgana/step"
)

// debian is the package of well-known tools, where it is not named after them.
var debian = map[string]string{
	"ar": "binutils", "as": "binutils", "ld": "binutils", "objcopy": "binutils", "strip": "binutils",
	"autoreconf": "autoconf", "bison": "bison", "cargo": "cargo", "cc": "gcc", "clang": "clang",
	"cmake": "cmake", "dune": "ocaml-dune", "g++": "g++", "gcc": "gcc", "git": "git", "go": "golang-go",
	"ld.lld": "lld", "m4": "m4", "make": "make", "meson": "meson", "nasm": "nasm", "ninja": "ninja-build",
	"ocaml": "ocaml", "ocamlfind": "ocaml-findlib", "opam": "opam", "patch": "patch",
	"pkg-config": "pkg-config", "python3": "python3", "rsync": "rsync", "rustc": "rustc",
}

// lookup finds the program that argv[0] names. One with a slash is the tree's
// and is left as it is, to be taken from there.
func lookup(name string, env environ) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(env.get("PATH")) {
		// Relative entries of PATH would mean the tree or the worker's own
		// folder, depending on who looks.
		if p := filepath.Join(dir, name); filepath.IsAbs(p) && executable(p) {
			return p, nil
		}
	}
	return "", os.ErrNotExist
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// checkPrograms says which program this host lacks, before anything long.
func (r *recipe) checkPrograms(host string) error {
	for _, argv := range r.commands() {
		_, err := lookup(argv[0], r.environ)
		if err == nil && (!filepath.IsAbs(argv[0]) || executable(argv[0])) {
			continue
		}
		hint := fmt.Sprintf("install it or start the worker with a PATH that has it; a program of the source is written with a slash, as ./%s",
			filepath.Base(argv[0]))
		if pkg, ok := debian[argv[0]]; ok {
			hint = fmt.Sprintf("apt-get install %s, or start the worker with a PATH that has it", pkg)
		}
		return &step.Error{Kind: step.Unsupported, Op: "look for build tools on " + host,
			Err: fmt.Errorf("%s is not installed", argv[0]), Hint: hint}
	}
	return nil
}

// checkOwnProgram says if the first command is to come from the source and is
// not there. A later one may be made by those before it.
func (r *recipe) checkOwnProgram() error {
	first := r.commands()[0][0]
	if !strings.Contains(first, "/") || filepath.IsAbs(first) {
		return nil
	}
	field := "build[0]"
	if len(r.options.Configure) > 0 {
		field = "configure[0]"
	}
	info, err := os.Stat(filepath.Join(r.rollout.tree(), first))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return invalid(field, "the source has no "+first, "a file that .gitignore names is not taken along")
	case err != nil:
		return failed("look for "+first, r.rollout.tree(), err)
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return invalid(field, first+" is not executable", "chmod +x "+first)
	}
	return nil
}

func (r *recipe) commands() [][]string {
	return append(append([][]string(nil), r.options.Configure...), r.options.Build...)
}
