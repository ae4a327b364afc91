package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

func (c *cli) rollbackCommand() *cobra.Command {
	var request workflows.RollbackRequest
	var detach bool
	cmd := &cobra.Command{
		Use:   "rollback [APP[/TARGET]]",
		Short: "Boot an earlier generation's image",
		Long: `Boot the image of an earlier generation, as a new generation, and show how it goes.
Nothing is built, and nothing is sent that the target has. The machine that runs is
removed when the new one is ready. Without --to the generation is the newest one before
that has another image and was not rolled back itself.

The target's key keep in morgana.yaml says how many generations can be booted. Without
a name the deployment is that of the app in morgana.yaml.

Ctrl-C stops the watching, not the rollback: while it goes on, the same command
attaches again.`,
		Example: "  morgana rollback\n  morgana history hello/dev && morgana rollback hello/dev --to 3",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("to") && request.To < 1 {
				return step.Invalid("--to", "1 or more; see morgana history", "%d is no generation", request.To)
			}
			return c.rollback(cmd.Context(), strings.Join(args, ""), request, detach)
		},
	}
	c.projectFlags(cmd)
	cmd.Flags().IntVar(&request.To, "to", 0, "generation whose image is booted")
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "do not wait for the end")
	return cmd
}

func (c *cli) rollback(ctx context.Context, which string, request workflows.RollbackRequest, detach bool) error {
	to, app, target, err := c.one(ctx, which, false)
	if err != nil {
		return err
	}
	defer to.Close()
	if err := to.needWorker(ctx, nil); err != nil {
		return err
	}
	name := app + "/" + target
	show := c.screen()
	defer show.close()
	follow := &follower{to: to, show: show}
	err = follow.run(ctx, step.Tags{App: app, Target: target}, detach, func(accepted *workflows.Accepted, say func(string)) error {
		return to.update(ctx, name, workflows.UpdateRollback, false, []any{request}, accepted, say)
	})
	show.close()
	if errors.Is(err, errDetached) {
		c.say("detached: the rollback goes on; morgana status %s tells how it stands", name)
		return err
	}
	return c.verdict(ctx, []string{name}, []error{err})
}

// rollbackOf returns ", the image of generation 2" for a rollback to 2, "" for a deploy.
func rollbackOf(of int) string {
	if of == 0 {
		return ""
	}
	return fmt.Sprintf(", the image of generation %d", of)
}
