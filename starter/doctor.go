package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/step"
)

func (c *cli) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor [KIND...]",
		Short: "Say what this host can build, package and run",
		Long: `Say what this host can build, package and run, which tools are missing for the rest,
and how to install them. It installs nothing. It may run tools to test them, which
takes seconds.

It looks at the host it runs on: run it on each host with a worker. Each kind of
toolchain and target is
  ready       nothing is missing
  in part     its main purpose works, but not every other one
  not usable  its main purpose does not work yet
A need is marked optional if the kind works without it, with fewer choices or less
well.

Exit status: 0 if Temporal, store and state folder can be used and at least one
toolchain and one target are ready, or in part; 1 if not. With KINDs only these
are looked at, and all of them must be ready.`,
		Example: "  morgana doctor\n  morgana doctor mirage qemu    # can this host do that?\n  morgana doctor -o json | jq 'select(.usable != \"ready\")'",
		RunE:    func(cmd *cobra.Command, kinds []string) error { return c.doctor(cmd.Context(), kinds) },
	}
}

// The values of checkup.Usable.
const (
	ready  = "ready"
	inPart = "in part"
	not    = "not usable"
)

// checkup is the result for one kind, or for Morgana itself. It is a line of "morgana
// doctor -o json".
type checkup struct {
	// Role is "toolchain", "target" or "morgana"; Kind is empty for the last. Role is empty
	// for the kind "source".
	Role  string      `json:"role"`
	Kind  string      `json:"kind,omitempty"`
	Needs []step.Need `json:"needs"`
	// Usable is "ready", "in part" or "not usable".
	Usable string `json:"usable"`
}

func (k checkup) name() string { return strings.TrimSpace(k.Role + " " + k.Kind) }

// judge sets Usable. The purpose of the first need is the kind's essential one: if any
// need of that purpose is missing, the kind is not usable.
func (k *checkup) judge() {
	k.Usable = ready
	for _, n := range k.Needs {
		switch {
		case n.Found != "" || n.Optional:
		case n.For == k.Needs[0].For || k.Role == "morgana":
			k.Usable = not
			return
		default:
			k.Usable = inPart
		}
	}
}

func (c *cli) doctor(ctx context.Context, kinds []string) error {
	settings, err := config.LoadSettings(c.flags)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	known, worker := c.kindNeeds(ctx, settings)
	own := checkup{Role: "morgana", Needs: append([]step.Need{c.temporalNeed(ctx, settings), worker}, placeNeeds(ctx, settings)...)}
	if worker.Found != "" {
		if err := knownKinds(kinds, known); err != nil {
			return err
		}
	}
	all := []checkup{own}
	for _, r := range known {
		if len(kinds) == 0 || slices.Contains(kinds, r.Kind) {
			all = append(all, r)
		}
	}
	for i := range all {
		all[i].judge()
	}
	install := installs(all)
	if c.output == "json" {
		for _, k := range all {
			c.emit(k)
		}
	} else {
		writeCheckups(c.out, all, install)
	}
	if problem := verdictOf(all, kinds); problem != "" {
		c.say("%s", problem)
		return errTold
	}
	return nil
}

func knownKinds(kinds []string, all []checkup) error {
	var known []string
	for _, r := range all {
		known = append(known, r.Kind)
	}
	for _, k := range kinds {
		if !slices.Contains(known, k) {
			return step.Invalid("", step.OneOf(k, known...), "unknown kind %q", k)
		}
	}
	return nil
}

// verdictOf says in one line why this host cannot deploy, or which of the kinds is
// not ready; "" if all is well.
func verdictOf(all []checkup, kinds []string) string {
	best := map[string]bool{}
	var lacking []string
	for _, k := range all {
		best[k.Role] = best[k.Role] || k.Usable != not
		if k.Kind != "" && k.Usable != ready {
			lacking = append(lacking, k.name())
		}
	}
	switch {
	case !best["morgana"]:
		return "this host cannot deploy: see morgana above"
	case len(kinds) > 0 && len(lacking) > 0:
		return "not ready: " + strings.Join(lacking, ", ")
	case len(kinds) > 0:
		return ""
	}
	for _, role := range []string{"toolchain", "target"} {
		if !best[role] {
			return "this host cannot deploy: no " + role + " can be used"
		}
	}
	return ""
}

// installs returns the commands that install the missing tools: one apt-get for all
// Debian packages, then the commands that follow apt-get in the fixes.
func installs(all []checkup) (commands []string) {
	var names, then []string
	for _, k := range all {
		for _, n := range k.Needs {
			if n.Found == "" {
				packages, after := aptPackages(n.Fix)
				names = append(names, packages...)
				if after != "" {
					then = append(then, after)
				}
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	slices.Sort(then)
	return append([]string{"sudo apt-get install -y " + strings.Join(slices.Compact(names), " ")}, slices.Compact(then)...)
}

// aptPackages reads "[sudo ]apt-get install [-y] NAME...[ && THEN]". names is nil if fix
// is another command.
func aptPackages(fix string) (names []string, then string) {
	fix, then, _ = strings.Cut(fix, " && ")
	rest, ok := strings.CutPrefix(strings.TrimPrefix(fix, "sudo "), "apt-get install ")
	if !ok || strings.ContainsAny(rest, ";&|,()") {
		return nil, ""
	}
	for _, word := range strings.Fields(rest) {
		if !strings.HasPrefix(word, "-") {
			names = append(names, word)
		}
	}
	return names, then
}

func writeCheckups(out io.Writer, all []checkup, install []string) {
	for _, k := range all {
		_, _ = fmt.Fprintf(out, "%s: %s\n", k.name(), k.Usable) // unwritten returns its error
		w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
		for _, n := range k.Needs {
			state, found := "ok", n.Found
			if found == "" {
				state, found = "missing", n.Why
				if n.Optional {
					state = "optional"
				}
				if packages, _ := aptPackages(n.Fix); n.Fix != "" && packages == nil {
					found = strings.TrimPrefix(found+"; "+n.Fix, "; ")
				}
			}
			_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", state, n.For, n.What, cleanLine(found))
		}
		_ = w.Flush()
	}
	if len(install) > 0 {
		_, _ = fmt.Fprintf(out, "\nto install what is missing:\n  %s\n", strings.Join(install, "\n  "))
	}
}

// missing returns an unmet need with err as the reason.
func missing(purpose, what string, err error) step.Need {
	n := step.Need{For: purpose, What: what, Why: err.Error()}
	if e := (*step.Error)(nil); errors.As(err, &e) {
		n.Fix = e.Hint
	}
	return n
}
