// Package mirage is the toolchain of MirageOS 4: mirage configure, make depends
// and make build, in a tree of its own for each rollout (package tree).
//
// The opam root and its switch belong to the host's administrator. The toolchain
// installs nothing there by itself, but make depends installs the packages that a
// unikernel needs in the switch. One make depends at a time uses a switch.
//
// The exit status of make build proves nothing: it is 0 when the dune files have been
// overwritten (by mirage describe, say) and nothing is built. The kernel is the one
// file in dist/ that has the target's extension. dist/ and mirage/ are removed from
// the source first, so this build made every file in them.
package mirage

import (
	"context"
	"os"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/tree"
)

// Kind is the name of this toolchain in morgana.yaml.
const Kind = "mirage"

// Options of the toolchain. docs/schema writes the comments into the table of
// docs/toolchains/mirage.md.
type Options struct {
	// Target is the -t of mirage configure: unix, macosx, xen, qubes, virtio,
	// hvt, spt, muen, genode, unikraft-firecracker or unikraft-qemu. Default: by
	// the kind of the deploy's target, as virtio for qemu.
	Target string `json:"target,omitempty"`
	// Keys are configuration keys of config.ml and options of mirage configure:
	// {net: direct} is --net=direct, {no-dhcp: null} is --no-dhcp. Arguments
	// that the unikernel reads when it boots (as --ipv4) are not keys: write them
	// in the target's args.
	Keys map[string]*Value `json:"keys,omitempty"`
	// Config is the path of config.ml in the source folder. Default: "config.ml".
	Config string `json:"config,omitempty"`
	// Switch is the opam switch to build in: a name, or the absolute path of a
	// local one. Default: the one that opam switch show names for the worker.
	Switch string `json:"switch,omitempty"`
	// Depends is whether to run make depends. Write false for a source that has
	// its duniverse folder, and a switch that has the packages. Default: true.
	Depends *bool `json:"depends,omitempty"`
	// Env are variables for all commands. They are in the deploy's history in the
	// clear, so they are not for secrets.
	Env map[string]string `json:"env,omitempty"`
	// Timeout is how long the commands of each stage may take, as "90m", without
	// the wait for the switch. Default: "1h".
	Timeout string `json:"timeout,omitempty" example:"30m"`
}

// Toolchain implements [step.Toolchain] and [step.Needer]. It is safe for
// concurrent use.
//
// The kernel's files are manifest.json (Solo5's, of every target but unix,
// macosx and Unikraft's) and xl.in (target xen): mirage/manifest.json and
// mirage/NAME.xl.in of the tree.
type Toolchain struct{ *tree.Toolchain }

var (
	_ step.Toolchain = (*Toolchain)(nil)
	_ step.Needer    = (*Toolchain)(nil)
)

// New makes the toolchain of a site. It starts nothing.
func New(site step.Site) *Toolchain { return &Toolchain{tree.New(site, Kind, read)} }

// Needs implements [step.Needer].
func (*Toolchain) Needs(ctx context.Context) []step.Need {
	found, err := look(ctx, tree.EnvironOf(nil))
	if err != nil {
		return []step.Need{{For: purpose, What: "opam", Why: err.Error(), Fix: "opam switch show"}}
	}
	return found.needs
}

func read(spec step.Spec) (tree.Recipe, error) {
	var o Options
	if err := step.Decode(spec.Toolchain.Options, &o); err != nil {
		return tree.Recipe{}, err
	}
	if err := o.complete(spec.Kind); err != nil {
		return tree.Recipe{}, err
	}
	timeout, err := tree.Timeout("timeout", o.Timeout)
	if err != nil {
		return tree.Recipe{}, err
	}
	configure := []string{"mirage", "configure", "-t", o.Target}
	if o.Config != defaultConfig {
		configure = append(configure, "-f", o.Config)
	}
	r := tree.Recipe{
		Configure:   []tree.Command{inSwitch(append(configure, o.keyArgs()...)...)},
		Build:       []tree.Command{inSwitch("make", "build")},
		Find:        o.find,
		Accept:      o.accept,
		Refused:     o.refused,
		Discard:     []string{o.beside("dist"), o.beside("mirage"), "_build"},
		CheckSource: func(root *os.Root) error { return checkConfig(root, o.Config) },
		Inspect:     o.inspect,
		// opam must not ask: no user is there to answer.
		Env:     map[string]string{"OPAMYES": "1", "OPAMCOLOR": "never"},
		Timeout: timeout,
	}
	if *o.Depends {
		depends := inSwitch("make", "depends")
		depends.Exclusive = "switch $OPAMSWITCH"
		r.Configure = append(r.Configure, depends)
		// make depends chooses among the packages that opam knows.
		r.Refresh = []tree.Command{{Argv: []string{"opam", "update", "--repositories"}, Exclusive: depends.Exclusive}}
	}
	if o.Switch != "" {
		r.Env[switchVar] = o.Switch
	}
	for name, value := range o.Env {
		r.Env[name] = value
	}
	return r, nil
}

// inSwitch returns a command that runs in the environment of the opam switch, whichever
// switch the worker itself was started in.
func inSwitch(argv ...string) tree.Command {
	return tree.Command{Argv: append([]string{"opam", "exec", "--"}, argv...)}
}
