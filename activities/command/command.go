// Package command is the toolchain that configures and builds a kernel by any
// commands: make, dune, cargo, a script of the project's own. Package tree runs them
// and checks the kernel.
package command

import (
	"context"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/tree"
)

// Kind is the name of this toolchain in morgana.yaml.
const Kind = "command"

// Options of the toolchain. Paths are relative to the source folder, use slashes, and may
// not lead out of it. docs/schema writes the comments into the table of
// docs/toolchains/command.md.
type Options struct {
	// Configure are the commands of stage configure. A command is a list of a program and
	// its arguments. No shell interprets it; for shell syntax, give the words sh, -c and
	// the script. A program with a slash in its name ("./configure") is a file of the
	// source; any other program is looked up in PATH.
	Configure [][]string `json:"configure,omitempty"`
	// Build are the commands of stage build, at least one, written as in configure.
	Build [][]string `json:"build"`
	// Kernel is the file that the build makes, as "dist/hello.xen".
	Kernel string `json:"kernel"`
	// Files are files of the tree that travel with the kernel, made by the build
	// or part of the source. Later stages know them by the last part of their
	// path, which must be different for each.
	Files []string `json:"files,omitempty"`
	// Env are variables for all commands. They are in the deploy's history in the
	// clear, so they are not for secrets.
	Env map[string]string `json:"env,omitempty"`
	// Timeout is how long the commands of each stage may take, as "90m". Default: "1h".
	Timeout string `json:"timeout,omitempty" example:"30m"`
}

// Toolchain implements [step.Toolchain] and [step.Needer]. It is safe for
// concurrent use.
type Toolchain struct{ *tree.Toolchain }

var (
	_ step.Toolchain = (*Toolchain)(nil)
	_ step.Needer    = (*Toolchain)(nil)
)

// New makes the toolchain of a site. It starts nothing.
func New(site step.Site) *Toolchain { return &Toolchain{tree.New(site, Kind, read)} }

// Needs implements [step.Needer]. A project names its own commands; these are the tools
// that most projects use.
func (*Toolchain) Needs(context.Context) []step.Need {
	var all []step.Need
	e := tree.EnvironOf(nil)
	for _, program := range []string{"make", "gcc", "ld"} {
		n := e.Need("build with toolchain "+Kind, program)
		n.Optional = true
		all = append(all, n)
	}
	return all
}
