package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

func (c *cli) historyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "history [APP[/TARGET]]",
		Short: "List the generations of a deployment",
		Long: `List the last 50 generations of a deployment, the oldest first: when each was asked
for, from what it was made, why, and how it ended. The images of those marked with *
are registered: morgana rollback boots them without a build.

Without a name the deployment is that of the app in morgana.yaml.`,
		Example: "  morgana history\n  morgana history hello/dev -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.history(cmd.Context(), strings.Join(args, ""))
		},
	}
	c.projectFlags(cmd)
	return cmd
}

// generationLine is a line of "morgana history -o json".
type generationLine struct {
	App    string `json:"app"`
	Target string `json:"target"`
	workflows.Generation
}

func (c *cli) history(ctx context.Context, which string) error {
	to, app, target, err := c.one(ctx, which, true)
	if err != nil {
		return err
	}
	defer to.Close()
	all, err := to.history(ctx, app, target)
	if err != nil {
		return err
	}
	if c.output == "json" {
		for _, g := range all {
			c.emit(generationLine{app, target, g})
		}
		return nil
	}
	w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "GENERATION\tWHEN\tFROM\tDIGEST\tWHY\tEND") // Flush returns the error
	for _, g := range all {
		_, _ = fmt.Fprintln(w, strings.Join(generationCells(g), "\t"))
	}
	return w.Flush()
}

// history asks a Deployment, also one that has ended, for its generations.
func (to *connection) history(ctx context.Context, app, target string) (all []workflows.Generation, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := to.query(ctx, workflows.DeploymentID(app, target), "", workflows.QueryHistory, &all); err != nil {
		return nil, notDeployed(app+"/"+target, err)
	}
	return all, nil
}

func generationCells(g workflows.Generation) []string {
	number := fmt.Sprint(g.Generation)
	if g.Kept {
		number += " *"
	}
	why := string(g.Why)
	if g.Of != 0 {
		why = fmt.Sprintf("%s to %d", why, g.Of)
	}
	from := cmp.Or(g.Project, g.Folder, "-")
	if g.Git != nil {
		from = g.Git.String()
	}
	cells := []string{number, g.Asked.Local().Format(time.DateTime), strings.TrimSuffix(from+" @ "+shortCommit(g.Commit), " @ "),
		cmp.Or(fmt.Sprintf("%.12s", g.Digest), "-"), why, generationEnd(g)}
	for i := range cells {
		cells[i] = cleanLine(cells[i])
	}
	return cells
}

// generationEnd says how a generation stands: "replaced by 3", "failed: build: ...".
func generationEnd(g workflows.Generation) string {
	end := string(g.End)
	switch {
	case g.Failure != "":
		end += ": " + g.Failure
	case g.End == workflows.EndUnchanged:
		end += fmt.Sprintf(", %d is kept", g.By)
	case g.By != 0 && g.End != workflows.EndCancelled:
		end += fmt.Sprintf(" by %d", g.By)
	}
	if g.Restarts > 0 {
		end += fmt.Sprintf(", restarts: %d", g.Restarts)
	}
	return end
}

// one connects and returns the one deployment that which names: APP/TARGET, or APP or
// nothing if only one fits. If ended is set, a full name may be that of a deployment that
// does not run.
func (c *cli) one(ctx context.Context, which string, ended bool) (to *connection, app, target string, err error) {
	if app, target, err = splitName(which); err != nil {
		return nil, "", "", err
	}
	if target != "" && ended {
		to, err = c.connect(ctx, false)
		return to, app, target, err
	}
	to, names, err := c.named(ctx, which, nil, false)
	if err != nil {
		return nil, "", "", err
	}
	if len(names) != 1 {
		to.Close()
		return nil, "", "", step.Invalid("", "name one: "+strings.Join(names, ", "), "%d deployments fit", len(names))
	}
	app, target, _ = strings.Cut(names[0], "/")
	return to, app, target, nil
}
