package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

func (c *cli) destroyCommand() *cobra.Command {
	var targets []string
	var forget bool
	cmd := &cobra.Command{
		Use:   "destroy [APP[/TARGET]]",
		Short: "Remove the machine and its image",
		Long: `Remove the machines and images of an app, found by their tags, and end its
deployment. A running deploy is cancelled first. Without a name the app is that of
morgana.yaml, and leftovers without a deployment are removed as well. If a
resource cannot be removed, the deployment goes on and destroy can be tried again;
--forget ends it all the same and lists the resources that are left.`,
		Example: "  morgana destroy\n  morgana destroy hello/dev\n  morgana destroy hello/dev --forget    # its host is gone for good",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.destroy(cmd.Context(), strings.Join(args, ""), targets, forget)
		},
	}
	c.projectFlags(cmd)
	cmd.Flags().StringArrayVar(&c.set, "set", nil, "override a target's option where leftovers are looked for that no deployment knows of")
	cmd.Flags().StringSliceVarP(&targets, "target", "t", nil, "target of morgana.yaml (default: all)")
	cmd.Flags().BoolVar(&forget, "forget", false, "end the deployment even if something of it cannot be removed")
	return cmd
}

func (c *cli) destroy(ctx context.Context, which string, targets []string, forget bool) error {
	requests := map[string]workflows.DestroyRequest{}
	if which != "" && len(targets) > 0 {
		return step.Invalid("", "name one as APP/TARGET", "--target is for the app of morgana.yaml, not for %s", which)
	}
	if which == "" {
		project, err := c.project()
		if err != nil {
			return err
		}
		picked, err := pick(project, targets, len(targets) == 0)
		if err != nil {
			return err
		}
		settings, err := config.LoadSettings(c.flags)
		if err != nil {
			return err
		}
		origin := originOf(ctx, settings, project)
		for _, t := range picked {
			r := request(project, t, origin, deployFlags{})
			requests[project.App+"/"+t.Name] = workflows.DestroyRequest{Spec: r.Spec, Route: r.Route}
		}
	}
	to, names, err := c.named(ctx, which, requests, true)
	if err != nil {
		return err
	}
	defer to.Close()
	if err := to.needWorker(ctx, nil); err != nil {
		return err
	}
	return c.each(ctx, names, "destroy", func(name string) error {
		request := requests[name]
		request.Forget = forget
		// With a Spec, from morgana.yaml, it finds the leftovers of a deployment that does not run.
		start := request.Spec.App != ""
		var removed workflows.DestroyResult
		err := to.update(ctx, name, workflows.UpdateDestroy, start, []any{request}, &removed, c.waiting(name))
		if err == nil {
			c.destroyed(name, removed)
		}
		return err
	})
}

// each calls do, which is the command named command, for every name. It goes on after an
// error and returns one error for the exit status.
func (c *cli) each(ctx context.Context, names []string, command string, do func(name string) error) error {
	slices.Sort(names)
	failed := make([]error, len(names))
	for i, name := range names {
		err := do(name)
		switch {
		case err != nil && ctx.Err() != nil:
			c.say("detached: the %s goes on; morgana %[1]s waits for it again, morgana status tells how it stands", command)
			return err
		case err != nil && len(names) == 1:
			return err
		case err != nil && c.output == "json" && !errors.Is(err, errTold):
			app, target, _ := strings.Cut(name, "/")
			c.emit(event{Event: "error", App: app, Target: target, Error: failureJSON(workflows.Failure(err))})
		}
		failed[i] = err
	}
	return c.verdict(ctx, names, failed)
}

// waiting returns a function that shows why a deployment does not answer.
func (c *cli) waiting(name string) func(note string) {
	return func(note string) {
		if c.output == "json" {
			app, target, _ := strings.Cut(name, "/")
			c.emit(event{Time: time.Now(), Event: "waiting", App: app, Target: target, Note: note})
			return
		}
		c.say("%s: %s", name, cleanLine(note))
	}
}

// about begins a line of -o json about a deployment.
type about struct {
	Event  string `json:"event"`
	App    string `json:"app"`
	Target string `json:"target"`
}

func aboutOf(event, name string) about {
	app, target, _ := strings.Cut(name, "/")
	return about{event, app, target}
}

func (c *cli) destroyed(name string, d workflows.DestroyResult) {
	if c.output == "json" {
		c.emit(struct {
			about
			workflows.DestroyResult
		}{aboutOf("destroyed", name), d})
		return
	}
	for _, left := range d.Left {
		c.say("warning: %s: %s", name, cleanLine(left))
	}
	for _, generation := range d.Cancelled {
		c.print("%s: cancelled the deploy of generation %d", name, generation)
	}
	if len(d.Removed) == 0 && len(d.Left) == 0 {
		c.print("%s: nothing to remove", name)
		return
	}
	for _, r := range d.Removed {
		c.print("%s: removed %s", name, cleanLine(r))
	}
}

// named connects and returns the names of the deployments to act on. which is the
// argument: APP, APP/TARGET or empty. If it is empty and requests is not nil, named
// returns the names in requests. Otherwise it returns the deployments of that app and
// target, or of the app in morgana.yaml.
func (c *cli) named(ctx context.Context, which string, requests map[string]workflows.DestroyRequest, start bool) (*connection, []string, error) {
	app, target, err := splitName(which)
	if err != nil {
		return nil, nil, err
	}
	if app == "" && requests == nil {
		project, err := c.project()
		if err != nil {
			return nil, nil, err
		}
		app = project.App
	}
	to, err := c.connect(ctx, start)
	if err != nil {
		return nil, nil, err
	}
	var names []string
	if requests != nil && app == "" {
		for name := range requests {
			names = append(names, name)
		}
		return to, names, nil
	}
	lines, err := to.deployments(ctx, app, target, false)
	if err == nil && len(lines) == 0 {
		err = notDeployed(strings.TrimSuffix(app+"/"+target, "/"), nil)
	}
	if err != nil {
		to.Close()
		return nil, nil, err
	}
	for _, l := range lines {
		if l.App == app {
			names = append(names, l.App+"/"+l.Target)
		}
	}
	return to, names, nil
}

func notDeployed(name string, err error) error {
	if err == nil || absent(err) {
		return &step.Error{Kind: step.NotFound, Err: fmt.Errorf("%s is not deployed", name), Hint: "see morgana status"}
	}
	return &step.Error{Op: "ask " + name, Err: config.Innermost(err),
		Hint: "a worker must run to answer: morgana dev up, or morgana-worker with the same TEMPORAL_* settings"}
}
