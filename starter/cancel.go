package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/morgana-deploy/morgana/workflows"
)

func (c *cli) cancelCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cancel [APP[/TARGET]]",
		Short: "Cancel the running deploy, not the machine",
		Long: `Cancel the running and the queued deploys of an app, and wait until the running
one has removed what it had made. The machine that ran before still runs. Without
a name the app is that of morgana.yaml. If no deploy runs, cancel says so.

Ctrl-C stops the waiting, not the cancel. The exit status is 1 if the deploy
succeeded before it could be cancelled, or left something behind.`,
		Example: "  morgana cancel\n  morgana cancel hello/dev\n  morgana cancel hello/dev -o json | jq .cancelled",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.cancel(cmd.Context(), strings.Join(args, ""))
		},
	}
	c.projectFlags(cmd)
	return cmd
}

func (c *cli) cancel(ctx context.Context, which string) error {
	to, names, err := c.named(ctx, which, nil, true)
	if err != nil {
		return err
	}
	defer to.Close()
	if err := to.needWorker(ctx, nil); err != nil {
		return err
	}
	return c.each(ctx, names, "cancel", func(name string) error {
		var out workflows.CancelResult
		if err := to.update(ctx, name, workflows.UpdateCancel, false, nil, &out, c.waiting(name)); err != nil {
			return err
		}
		return c.cancelled(name, out)
	})
}

// cancelled prints the result of a cancel. It returns errTold if the deploy was not
// cancelled or left something behind.
func (c *cli) cancelled(name string, out workflows.CancelResult) error {
	if c.output == "json" {
		c.emit(struct {
			about
			workflows.CancelResult
		}{aboutOf("cancelled", name), out})
	} else {
		for _, generation := range out.Cancelled {
			c.print("%s: cancelled the deploy of generation %d", name, generation)
		}
		for _, r := range out.Removed {
			c.print("%s: removed %s", name, cleanLine(r))
		}
		switch {
		case out.Succeeded > 0:
			c.print("%s: generation %d was deployed before it could be cancelled", name, out.Succeeded)
		case len(out.Cancelled) == 0:
			c.print("%s: no deploy runs, so there is nothing to cancel", name)
		}
		for _, left := range out.Left {
			c.say("warning: %s: %s", name, cleanLine(left))
		}
	}
	if out.Succeeded > 0 || len(out.Left) > 0 {
		return errTold
	}
	return nil
}
