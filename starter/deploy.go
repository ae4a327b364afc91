package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/source"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// deployFlags are the flags of "morgana deploy".
type deployFlags struct {
	targets                            []string
	all, detach, keep, force, takeOver bool
}

func (c *cli) deployCommand() *cobra.Command {
	var f deployFlags
	cmd := &cobra.Command{
		Use:   "deploy",
		Short: "Take the app from source to a booted machine",
		Long: `Deploy the app of morgana.yaml, and show how it goes. If the image is the one
that runs already, the machine is left as it is. If the deploy fails, its
resources are removed and the machine that ran before still runs.

Ctrl-C stops the watching, not the deploy: the same command attaches again.`,
		Example: `  morgana deploy
  morgana deploy --target dev --target prod    # built once, deployed to each
  morgana deploy -f examples/hello --set dev.memory=128
  morgana deploy --detach && morgana status
  morgana deploy -o json | jq .`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.deploy(cmd.Context(), f) },
	}
	c.targetFlags(cmd, &f)
	cmd.Flags().BoolVarP(&f.detach, "detach", "d", false, "do not wait for the end")
	cmd.Flags().BoolVar(&f.keep, "keep", false, "leave the pieces of a failed deploy, for debugging")
	cmd.Flags().BoolVar(&f.force, "force", false, "make a new machine even if the image is unchanged")
	cmd.Flags().BoolVar(&f.takeOver, "take-over", false, "replace an app of the same name that was deployed from another project")
	return cmd
}

// targetFlags adds the flags of commands that read targets of morgana.yaml as deploy does.
func (c *cli) targetFlags(cmd *cobra.Command, f *deployFlags) {
	c.projectFlags(cmd)
	config.SourceFlag(cmd.Flags())
	cmd.Flags().StringArrayVar(&c.set, "set", nil, "override a target's option: --set dev.memory=128 (repeatable)")
	cmd.Flags().StringSliceVarP(&f.targets, "target", "t", nil, "target of morgana.yaml (repeatable; may be left out if there is one)")
	cmd.Flags().BoolVar(&f.all, "all", false, "every target of morgana.yaml")
}

// prepared is a project that can be deployed, and the server.
type prepared struct {
	project *config.Project
	targets []config.Target
	kernel  *prebuilt
	to      *connection
}

// prepare checks the input and connects. The caller closes to.
func (c *cli) prepare(ctx context.Context, f deployFlags) (r prepared, err error) {
	if r.project, err = c.project(); err != nil {
		return r, err
	}
	if r.targets, err = pick(r.project, f.targets, f.all); err != nil {
		return r, err
	}
	if err = r.project.CheckInput(); err != nil {
		return r, err
	}
	if r.kernel, err = openKernel(r.project); err != nil {
		return r, err
	}
	r.to, err = c.connect(ctx, true)
	return r, err
}

func (c *cli) deploy(ctx context.Context, f deployFlags) error {
	r, err := c.prepare(ctx, f)
	if err != nil {
		return err
	}
	defer r.to.Close()
	project, targets, to := r.project, r.targets, r.to
	if err := to.needWorker(ctx, project, targets...); err != nil {
		return err
	}
	origin, err := c.upload(ctx, to.settings, project, r.kernel, putInto)
	if err != nil {
		if ctx.Err() != nil {
			return errDetached
		}
		return err
	}
	show := c.screen()
	defer show.close()
	failed, names := make([]error, len(targets)), make([]string, len(targets))
	var all sync.WaitGroup
	for i, t := range targets {
		names[i] = project.App + "/" + t.Name
		all.Go(func() {
			follow := &follower{to: to, project: project, target: t, show: show}
			failed[i] = follow.deploy(ctx, request(project, t, origin, f), f.detach)
		})
	}
	all.Wait()
	show.close()
	return c.verdict(ctx, names, failed)
}

// verdict prints every failure, with its name if there are several, and returns one error
// for the exit status.
func (c *cli) verdict(ctx context.Context, names []string, failed []error) error {
	status := 0
	for i, err := range failed {
		switch {
		case err == nil, errors.Is(err, errDetached):
			continue
		case errors.Is(err, errTold):
			status = max(status, 1)
			continue
		}
		f, name := workflows.Failure(err), ""
		if len(names) > 1 {
			name = names[i] + ": "
		}
		writeFailure(c.err, name, f)
		if status = max(status, 1); f.Kind.UserError() {
			status = 2
		}
	}
	switch {
	case status == 2:
		return errToldMine
	case status == 1:
		return errTold
	case ctx.Err() != nil:
		c.say("detached: the deploy goes on; morgana deploy attaches again, morgana status tells how it stands")
		return errDetached
	}
	return nil
}

// pick returns the targets with these names, or all.
func pick(p *config.Project, names []string, all bool) ([]config.Target, error) {
	var known []string
	for _, t := range p.Targets {
		known = append(known, t.Name)
	}
	switch {
	case all && len(names) > 0:
		return nil, step.Invalid("--target", "leave one of them out", "%s and --all exclude each other", strings.Join(names, ", "))
	case all || len(names) == 0 && len(p.Targets) == 1:
		return p.Targets, nil
	case len(names) == 0:
		return nil, step.Invalid("", "choose by --target ("+strings.Join(known, ", ")+"), or --all", "%s has %d targets", p.File, len(known))
	}
	var picked []config.Target
	for _, name := range names {
		t, err := p.Target(name)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(picked, func(have config.Target) bool { return have.Name == name }) {
			picked = append(picked, t)
		}
	}
	return picked, nil
}

func request(p *config.Project, t config.Target, origin step.Origin, f deployFlags) workflows.DeployRequest {
	if origin.Archive != nil || origin.Git != nil {
		expect(&origin, p, t)
	}
	return workflows.DeployRequest{
		Spec: step.Spec{
			Tags:      step.Tags{App: p.App, Target: t.Name},
			Kind:      t.Kind,
			Options:   t.Options,
			Toolchain: p.Toolchain,
			Origin:    origin,
		},
		Route: p.Route(t), Policy: t.Policy, Keep: f.keep, Force: f.force, TakeOver: f.takeOver,
	}
}

// expect sets the ABIs and devices of a kernel that is not built yet, as far as they are
// known. The devices of a source in git are not known yet.
func expect(origin *step.Origin, p *config.Project, t config.Target) {
	_, configured := t.Steps[step.Configure]
	_, built := t.Steps[step.Build]
	if configured || built {
		return
	}
	source.Expect(origin, p.Toolchain, t.Kind)
	if folder, err := os.OpenRoot(p.Source); err == nil { // it is empty for a source in git
		source.ExpectDevices(origin, p.Toolchain, t.Kind, folder)
		_ = folder.Close() // only read
	}
}

// update sends the Deployment of a name an update and waits for the answer. If start is set
// and none runs, it starts one. While no answer comes it calls say with the reason.
func (to *connection) update(ctx context.Context, name, verb string, start bool, args []any, answer any, say func(string)) error {
	app, target, _ := strings.Cut(name, "/")
	id := workflows.DeploymentID(app, target)
	o := client.UpdateWorkflowOptions{UpdateName: verb, Args: args, WaitForStage: client.WorkflowUpdateStageCompleted}
	begin := to.NewWithStartWorkflowOperation(workflows.DeploymentOptions(app, target), "Deployment", workflows.DeploymentState{})
	err := to.watched(ctx, id, say, func() (err error) {
		var handle client.WorkflowUpdateHandle
		if start {
			handle, err = to.UpdateWithStartWorkflow(ctx, client.UpdateWithStartWorkflowOptions{StartWorkflowOperation: begin, UpdateOptions: o})
		} else {
			o.WorkflowID = id
			handle, err = to.UpdateWorkflow(ctx, o)
		}
		if err == nil {
			err = handle.Get(ctx, answer)
		}
		return err
	})
	var stuck *serviceerror.WorkflowNotReady
	switch {
	case ctx.Err() != nil:
		return errDetached
	case lost(err):
		return to.refused("ask "+id, err)
	case errors.As(err, &stuck):
		return &step.Error{Op: "ask " + id, Err: errors.New("its workflow cannot go on"),
			Hint: "the worker's log and the UI say why; a worker of another version than the one that began it is the usual cause"}
	case !start && absent(err):
		return notDeployed(name, nil)
	}
	return err
}
