package mirage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/tree"
)

const (
	// switchVar makes every opam command use a switch.
	switchVar = "OPAMSWITCH"
	purpose   = "build with toolchain " + Kind
	// oldest is the first major version of mirage whose Makefile fetches dependencies into
	// the tree.
	oldest = 4
	// initialise is the hint: it makes an opam root, a switch with a compiler, and mirage.
	initialise = "opam init && opam install mirage"
)

// host is the state of opam on this host.
type host struct {
	// needs are in order: each depends on those before it.
	needs   []step.Need
	name    string // of the switch
	version string // of mirage
}

// inspect refuses a host that lacks a needed tool. It sets the switch's name for all
// commands: without a name opam may choose a switch by the folder that it runs in.
func (o *Options) inspect(ctx context.Context, e tree.Environ) (tree.Facts, error) {
	h, err := look(ctx, e)
	if err != nil {
		return tree.Facts{}, fmt.Errorf("look at opam: %w", err)
	}
	for _, n := range h.needs {
		if n.Found == "" {
			return tree.Facts{}, &step.Error{Kind: step.Unsupported, Field: "toolchain",
				Err: errors.New(cmp.Or(n.Why, n.What+" is not installed")), Hint: n.Fix}
		}
	}
	installed, err := lookPackages(ctx, e, h.name, o.packages())
	if err != nil {
		return tree.Facts{}, fmt.Errorf("look at opam: %w", err)
	}
	bin, err := lookBin(ctx, e, h.name)
	if err != nil {
		return tree.Facts{}, fmt.Errorf("look at opam: %w", err)
	}
	return tree.Facts{
		Env:       map[string]string{switchVar: h.name},
		Tools:     []string{"mirage " + h.version},
		Bin:       bin,
		Sets:      []string{"OPAM_SWITCH_PREFIX", "CAML_LD_LIBRARY_PATH", "OCAML_TOPLEVEL_PATH"},
		Installed: installed,
	}, nil
}

// packages returns patterns of the switch's packages that a kernel of the target depends
// on: compilers, and libraries that it is linked to. All other packages are in the tree.
// Packages of other targets are left out, because make depends of another unikernel may
// install them at any time.
func (o *Options) packages() []string {
	all := []string{"ocaml", "ocaml-variants", "ocaml-option-*", "dune"}
	switch o.Target {
	case "unix", "macosx":
		return all
	case "unikraft-firecracker", "unikraft-qemu":
		return append(all, "ocaml-unikraft*", "unikraft*")
	}
	return append(all, "ocaml-solo5*", "solo5*")
}

// lookBin returns the folder of the switch's programs, which opam exec puts before PATH.
func lookBin(ctx context.Context, e tree.Environ, name string) (string, error) {
	bin, err := e.Output(ctx, "opam", "var", "--switch="+name, "bin")
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", fmt.Errorf("opam var --switch=%s bin: %s", name, cmp.Or(lastLine(exit.Stderr), exit.Error()))
	}
	return bin, err
}

// lookPackages lists the switch's packages that match patterns, as "solo5.0.9.1". The list
// may be empty before make depends. It uses no network.
func lookPackages(ctx context.Context, e tree.Environ, name string, patterns []string) ([]string, error) {
	text, err := e.Output(ctx, append([]string{"opam", "list", "--switch=" + name, "--installed", "--short", "--columns=package"}, patterns...)...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, fmt.Errorf("opam list --switch=%s: %s", name, cmp.Or(lastLine(exit.Stderr), exit.Error()))
	}
	all := strings.Fields(text)
	slices.Sort(all)
	return all, err
}

// look lists the needs of the toolchain and asks opam about them. It stops at the first
// need that is missing, because the later ones depend on it. An error means that opam did
// not answer.
func look(ctx context.Context, e tree.Environ) (host, error) {
	var h host
	add := func(n step.Need) bool {
		n.For = purpose
		h.needs = append(h.needs, n)
		return n.Found != ""
	}
	if !add(e.Need(purpose, "make")) {
		return h, nil
	}
	opam := e.Need(purpose, "opam")
	if opam.Found == "" { // the rest depends on it
		opam.Why = "opam is not installed"
		opam.Fix += " && " + initialise
	}
	if !add(opam) {
		return h, nil
	}
	name, err := e.Output(ctx, "opam", "switch", "show")
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return h, err
	}
	root := cmp.Or(e.Get("OPAMROOT"), filepath.Join(e.Get("HOME"), ".opam"))
	initialised := step.Need{What: "opam root", Found: root}
	// opam init writes this file, so it is there if opam failed for another reason.
	if _, statErr := os.Stat(filepath.Join(root, "config")); err != nil && statErr != nil {
		initialised = step.Need{What: "opam root", Why: "opam has not been initialised: there is no " + filepath.Join(root, "config"),
			Fix: initialise}
	}
	if !add(initialised) {
		return h, nil
	}
	if err != nil {
		name = "" // there is none; standard error says so
	}
	chosen, err := lookSwitch(ctx, e, name)
	if err != nil {
		return h, err
	}
	if !add(chosen) {
		return h, nil
	}
	h.name = name
	mirage, err := lookMirage(ctx, e, name)
	if err != nil {
		return h, err
	}
	h.version = mirage.Found
	add(mirage)
	return h, nil
}

// lookSwitch checks that the switch exists: opam switch show also prints the name of a
// switch that does not. The name "" means that no switch is set.
func lookSwitch(ctx context.Context, e tree.Environ, name string) (step.Need, error) {
	need := step.Need{What: "opam switch"}
	if name == "" {
		need.Why = "opam has no current switch"
		need.Fix = "opam switch create default ocaml-base-compiler && opam install mirage; or name one that exists with option switch"
		return need, nil
	}
	text, err := e.Output(ctx, "opam", "switch", "list", "--short")
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return need, err
	}
	all := strings.Fields(text)
	if slices.Contains(all, name) {
		need.Found = name
		return need, nil
	}
	need.Why = "opam has no switch " + name
	if len(all) > 0 {
		need.Why += ", only " + strings.Join(all, ", ")
	}
	need.Fix = fmt.Sprintf("opam switch create %s ocaml-base-compiler && opam install --switch=%[1]s mirage", name)
	return need, nil
}

// lookMirage finds the version of the mirage that commands in the switch run.
func lookMirage(ctx context.Context, e tree.Environ, name string) (step.Need, error) {
	install := "opam install --switch=" + name + " mirage"
	need := step.Need{What: "mirage", Fix: install}
	version, err := e.Output(ctx, "opam", "exec", "--switch="+name, "--", "mirage", "--version")
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		need.Why = "mirage is not installed in opam switch " + name
		if bin, err := lookBin(ctx, e, name); err == nil {
			if _, err := os.Stat(filepath.Join(bin, "mirage")); err == nil {
				need.Why = fmt.Sprintf("mirage of opam switch %s does not run: %s", name, cmp.Or(lastLine(exit.Stderr), exit.Error()))
				need.Fix = "opam reinstall --switch=" + name + " mirage"
			}
		}
		return need, nil
	case err != nil:
		return need, err
	}
	version = strings.TrimPrefix(lastLine([]byte(version)), "v")
	major, _, _ := strings.Cut(version, ".")
	// The version of a development build may not be a number, and is accepted.
	if n, err := strconv.Atoi(major); err == nil && n < oldest {
		need.Why = fmt.Sprintf("mirage %s of opam switch %s is too old: toolchain %s wants %d or later", version, name, Kind, oldest)
		need.Fix = "opam update && opam upgrade --switch=" + name + " mirage"
		return need, nil
	}
	need.Found = cmp.Or(version, "unknown")
	return need, nil
}

func lastLine(text []byte) string {
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.TrimSpace(all[len(all)-1])
}
