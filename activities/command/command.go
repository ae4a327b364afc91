// Package command is the toolchain that configures and builds a kernel by any
// commands: make, dune, cargo, a script of the project's own. How they are run
// and what is made sure of is package build's.
package command

import (
	"context"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/tree"
)

// Kind is the name of this toolchain in morgana.yaml.
const Kind = "command"

// Options of the toolchain. Paths are relative to the source folder, use
// slashes, and may not lead out of it.
type Options struct {
	// Configure is the commands of stage configure, each a list of a program
	// and its arguments. No shell reads them: for one, write
	// ["sh", "-c", "..."]. A program named with a slash ("./configure") is the
	// source's own, any other is looked up in PATH. Default: none.
	Configure [][]string `json:"configure,omitempty"`
	// Build is the commands of stage build, at least one, as in Configure.
	Build [][]string `json:"build"`
	// Kernel is the file that the build makes, as "dist/hello.xen".
	Kernel string `json:"kernel"`
	// Files travel with the kernel, known by the last part of their path, which
	// must differ from the others'. They may be a part of the source.
	Files []string `json:"files,omitempty"`
	// Env is added to the environment of all commands. It is kept in the
	// deploy's history in the clear and so is not for secrets.
	Env map[string]string `json:"env,omitempty"`
	// Timeout bounds the commands of each stage, as "90m". Default "1h".
	Timeout string `json:"timeout,omitempty"`
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

// Needs implements [step.Needer]. A project names its own commands, so these
// are but what most projects use.
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
