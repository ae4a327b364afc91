package tree

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/morgana-deploy/morgana/step"
)

// debian maps well-known tools to their Debian packages.
var debian = map[string]string{
	"ar": "binutils", "as": "binutils", "ld": "binutils", "objcopy": "binutils", "strip": "binutils",
	"autoreconf": "autoconf", "bison": "bison", "cargo": "cargo", "cc": "gcc", "clang": "clang",
	"cmake": "cmake", "dune": "ocaml-dune", "g++": "g++", "gcc": "gcc", "git": "git", "go": "golang-go",
	"ld.lld": "lld", "m4": "m4", "make": "make", "meson": "meson", "nasm": "nasm", "ninja": "ninja-build",
	"ocaml": "ocaml", "ocamlfind": "ocaml-findlib", "opam": "opam", "patch": "patch",
	"pkg-config": "pkg-config", "python3": "python3", "rsync": "rsync", "rustc": "rustc",
}

// LookPath finds a program in the PATH of e, or fails with [os.ErrNotExist]. A name with a
// slash is returned as it is.
func (e Environ) LookPath(program string) (string, error) {
	if strings.Contains(program, "/") {
		return program, nil
	}
	for _, dir := range e.path() {
		if p := filepath.Join(dir, program); executable(p) {
			return p, nil
		}
	}
	return "", notInstalled(program)
}

// path returns the folders of PATH. A relative one is left out: it would mean the tree for
// a command and another folder here.
func (e Environ) path() []string {
	return slices.DeleteFunc(filepath.SplitList(e.Get("PATH")), func(dir string) bool { return !filepath.IsAbs(dir) })
}

// notInstalled is the [os.ErrNotExist] of a program that is not in PATH.
type notInstalled string

func (p notInstalled) Error() string        { return string(p) + " is not installed" }
func (p notInstalled) Is(target error) bool { return target == os.ErrNotExist }

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// checkPrograms returns an error (Unsupported) for the first program that this host lacks.
func (w *work) checkPrograms(host string) error {
	for _, c := range slices.Concat(w.Configure, w.Build) {
		program := c.Argv[0]
		_, err := w.environ.LookPath(program)
		if err == nil && (!filepath.IsAbs(program) || executable(program)) {
			continue
		}
		hint := fmt.Sprintf("install it or start the worker with a PATH that has it; a program of the source is written with a slash, as ./%s",
			filepath.Base(program))
		if pkg, ok := debian[program]; ok {
			hint = install(os.Geteuid(), pkg) + ", or start the worker with a PATH that has it"
		}
		return &step.Error{Kind: step.Unsupported, Op: "look for build tools on " + host,
			Err: notInstalled(program), Hint: hint}
	}
	return nil
}

// Need says for morgana doctor whether a program is in the PATH of e.
func (e Environ) Need(purpose, program string) step.Need {
	n := step.Need{For: purpose, What: program}
	if path, err := e.LookPath(program); err == nil {
		n.Found = path
	} else {
		n.Fix = install(os.Geteuid(), cmp.Or(debian[program], program))
	}
	return n
}

// install is the command with which a user installs a package.
func install(euid int, pkg string) string {
	if euid != 0 {
		return "sudo apt-get install " + pkg
	}
	return "apt-get install " + pkg
}
