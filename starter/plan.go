package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/store"
	"github.com/morgana-deploy/morgana/workflows"
)

func (c *cli) planCommand() *cobra.Command {
	var f deployFlags
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show what a deploy would do",
		Long: `Show what a deploy of the app of morgana.yaml would do: what is built, sent and
created, by which calls, with which permissions, and what it replaces. It makes
nothing: it runs check, and asks the toolchain and the target.

Exit status: 0 there is nothing to do, 3 there is something to do, 2 bad input.`,
		Example: "  morgana plan\n  morgana plan --all -o json | jq .actions\n  morgana plan && echo nothing to do",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.plan(cmd.Context(), f) },
	}
	c.targetFlags(cmd, &f)
	cmd.Flags().BoolVar(&f.force, "force", false, "plan for deploy --force")
	cmd.Flags().BoolVar(&f.takeOver, "take-over", false, "plan for deploy --take-over")
	return cmd
}

// errSomethingToDo makes the exit status 3.
var errSomethingToDo = errors.New("there is something to do")

const somethingToDo = 3 // exit status

// planLine is a line of "morgana plan -o json": the plan of one target.
type planLine struct {
	App    string `json:"app"`
	Target string `json:"target"`
	Kind   string `json:"kind"`
	// Change says that a deploy would do something, Why gives the reason.
	Change bool   `json:"change"`
	Why    string `json:"why,omitempty"`
	// Generation is that of the rollout.
	Generation int         `json:"generation,omitempty"`
	Stages     []planStage `json:"stages,omitempty"`
	Sends      []sending   `json:"sends,omitempty"`
	// Actions are the calls of register and boot.
	Actions     []step.Action `json:"actions,omitempty"`
	Permissions []string      `json:"permissions,omitempty"`
	Replaces    *replaced     `json:"replaces,omitempty"`
	Notes       []string      `json:"notes,omitempty"`
	Error       *failure      `json:"error,omitempty"`
}

// planStage says what a stage would do.
type planStage struct {
	Stage step.Stage `json:"stage"`
	// Run is false if the stage finds its work done.
	Run  bool   `json:"run"`
	Does string `json:"does"`
}

// theKernel is sent for toolchain prebuilt.
const theKernel = "the kernel"

// sending is something that is sent somewhere.
type sending struct {
	What string `json:"what"`
	To   string `json:"to"`
	// Bytes is nil if the size is not known before the build.
	Bytes *int64 `json:"bytes"`
	// About says that Bytes is that of the kernel, and the image has more.
	About bool `json:"about,omitempty"`
}

// replaced is the machine that the new one replaces.
type replaced struct {
	Generation int            `json:"generation"`
	Machine    string         `json:"machine"`
	State      step.State     `json:"state,omitempty"`
	Addresses  []step.Address `json:"addresses,omitempty"`
}

func (c *cli) plan(ctx context.Context, f deployFlags) error {
	r, err := c.prepare(ctx, f)
	if err != nil {
		return err
	}
	defer r.to.Close()
	var source *sending
	origin, err := c.upload(ctx, r.to.settings, r.project, r.kernel, func(ctx context.Context, s *store.Store, in io.ReadSeeker) (step.Artifact, error) {
		a, have, err := s.Find(ctx, in)
		if err == nil && !have {
			base, _, _ := strings.Cut(a.URI, "/sha256/")
			source = &sending{What: "the source", To: "store " + base, Bytes: &a.Size}
			if r.kernel != nil {
				source.What = theKernel
			}
		}
		return a, err
	})
	if err != nil {
		return err
	}
	lines, failed := make([]planLine, len(r.targets)), make([]error, len(r.targets))
	names := make([]string, len(r.targets))
	var all sync.WaitGroup
	for i, t := range r.targets {
		names[i] = r.project.App + "/" + t.Name
		all.Go(func() { lines[i], failed[i] = r.to.planOf(ctx, r.project, t, request(r.project, t, origin, f), source) })
	}
	all.Wait()
	if ctx.Err() != nil {
		return errDetached
	}
	todo := false
	for i, l := range lines {
		todo = todo || l.Change
		if err := failed[i]; err != nil {
			l.Error = failureJSON(workflows.Failure(err))
		}
		switch {
		case c.output == "json":
			c.emit(l)
		case l.Error == nil:
			for _, line := range l.text() {
				c.print("%s", line)
			}
		}
	}
	if err := c.verdict(ctx, names, failed); err != nil || !todo {
		return err
	}
	return errSomethingToDo
}

// planOf makes the plan of one target. source is what deploy would put into the store.
func (to *connection) planOf(ctx context.Context, p *config.Project, t config.Target, in workflows.DeployRequest, source *sending) (planLine, error) {
	l := planLine{App: p.App, Target: t.Name, Kind: t.Kind}
	if err := to.needWorker(ctx, p, t); err != nil {
		return l, err
	}
	_, now, err := to.knows(ctx, workflows.DeploymentID(p.App, t.Name))
	if err != nil {
		return l, err
	}
	if err := now.Foreign(in); err != nil {
		return l, err
	}
	l.Generation = now.Generation + 1
	in.Spec.Life, in.Spec.Generation = cmp.Or(now.Life, noLife), l.Generation
	var f workflows.Forecast
	err = to.call(ctx, "Plan", "plan/"+p.App+"/"+t.Name, p.App+" on "+t.Name, workflows.PlanRequest{Deploy: in, Current: now.Current}, &f)
	if err != nil {
		return l, located(p, t, err, false)
	}
	l.fill(in, now, f, source)
	return l, nil
}

// noLife stands for the life of a deployment that does not run yet.
const noLife = "00000000"

// fill completes the plan from the answers.
func (l *planLine) fill(in workflows.DeployRequest, now workflows.DeploymentDetails, f workflows.Forecast, source *sending) {
	for _, u := range f.Unknown {
		l.Notes = append(l.Notes, "not known: "+u)
	}
	for _, stage := range step.Stages {
		for _, s := range in.Route.After[stage] {
			l.Notes = append(l.Notes, fmt.Sprintf("step %s runs after %s; its work is not known", s.Activity, stage))
		}
	}
	if now.Rolling != nil {
		l.Notes = append(l.Notes, fmt.Sprintf("generation %d rolls out now; this plan is for the time before its end", now.Rolling.Spec.Generation))
	}
	l.Why = f.Why
	gone := f.Health != nil && f.Health.State == step.Gone
	if f.Same && gone {
		l.Why = "the machine is gone"
	}
	l.stages(f, gone)
	if h := in.Policy.Health; h != nil {
		l.Stages = append(l.Stages, planStage{step.Probing, !f.Same, "the app is probed for " + h.Window})
	}
	if cur := now.Current; cur != nil && !f.Same {
		m := cur.Machine
		l.Replaces = &replaced{Generation: m.Registration.Spec.Generation, Machine: m.ID, Addresses: m.Addresses}
		if f.Health != nil {
			l.Replaces.State = f.Health.State
		}
	}
	if source != nil {
		l.Sends = append(l.Sends, *source)
		if source.What == theKernel {
			l.Notes = append(l.Notes, "deploy tells whether the kernel fits the options, when it is in the store")
		}
	}
	if !f.Same {
		image := sending{What: "the image", To: "target " + l.Kind, About: true}
		if f.Built != nil && f.Built.Kernel != nil {
			image.Bytes = &f.Built.Kernel.File.Size
		}
		l.Sends = append(l.Sends, image)
		l.actions(f.Actions, now.Life == "")
	}
	if now.Current != nil && asJSON(in.Policy) != asJSON(now.Policy) {
		l.Why = cmp.Or(l.Why, "the policy differs; the machine stays as it is")
	}
	l.Change = l.Why != ""
}

func (l *planLine) stages(f workflows.Forecast, gone bool) {
	add := func(stage step.Stage, run bool, does string) {
		l.Stages = append(l.Stages, planStage{stage, run, does})
	}
	add(step.Check, false, cmp.Or(prefixed("on host ", f.Spec.Host), "target "+l.Kind))
	if o := f.Spec.Origin; o.Git != nil {
		fetched := o.Archive != nil || o.Kernel != nil
		does := cmp.Or(prefixed("commit ", shortCommit(o.Git.Commit)), "resolves the commit") + " of " + o.Git.URL
		l.Stages = slices.Insert(l.Stages, 0, planStage{step.Fetch, !fetched, does})
	}
	toolchain := f.Spec.Toolchain.Kind
	switch b := f.Built; {
	case b != nil && b.Kernel != nil:
		where := ""
		if b.Host != "" {
			where = ", from an earlier build on host " + b.Host
		}
		add(step.Configure, false, "nothing to configure")
		add(step.Build, false, fmt.Sprintf("kernel %s (%s)%s", workflows.Size(b.Kernel.File.Size), strings.Join(b.Kernel.ABIs, ", "), where))
	default:
		where := ""
		if b != nil {
			where = prefixed(", as on host ", b.Host)
		}
		add(step.Configure, true, "by toolchain "+toolchain+where)
		add(step.Build, true, "by toolchain "+toolchain+where)
	}
	switch {
	case f.Same && gone:
		add(step.Package, false, "the image that ran")
		add(step.Register, false, "the target has the image")
		add(step.Boot, true, "the machine is started again")
	case f.Same:
		add(step.Package, false, "the image that runs")
		add(step.Register, false, "the target has the image")
		add(step.Boot, false, "the machine is kept")
	default:
		add(step.Package, true, "an image for target "+l.Kind)
		add(step.Register, true, "the target gets the image")
		add(step.Boot, true, "a new machine")
	}
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// actions adds the target's actions. The tags of a first rollout have no life yet.
func (l *planLine) actions(all []step.Action, first bool) {
	costs := false
	for _, a := range all {
		if first {
			a.Call = strings.ReplaceAll(a.Call, noLife, "<life>")
			a.Why = strings.ReplaceAll(a.Why, noLife, "<life>")
		}
		l.Actions = append(l.Actions, a)
		if a.Permission != "" && !slices.Contains(l.Permissions, a.Permission) {
			l.Permissions = append(l.Permissions, a.Permission)
		}
		costs = costs || strings.Contains(a.Cost, "$")
	}
	switch {
	case costs:
		l.Notes = append(l.Notes, "costs are list prices; this account's own prices, and so its sum for a month, are not known")
	case len(all) > 0:
		l.Notes = append(l.Notes, "no prices are known for kind "+l.Kind)
	}
}

// text returns the plan as lines for people.
func (l *planLine) text() []string {
	name := l.App + "/" + l.Target
	head := fmt.Sprintf("%s: generation %d, %s", name, l.Generation, l.Why)
	if !l.Change {
		head = name + ": nothing to do, the machine runs this image"
	}
	lines := []string{head}
	if r := l.Replaces; r != nil {
		at := prefixed(", at ", step.Addresses(r.Addresses, " "))
		lines = append(lines, fmt.Sprintf("  replaces   generation %d: machine %s%s", r.Generation, r.Machine, at))
	}
	for _, s := range l.Stages {
		mark := "done"
		if s.Run {
			mark = "run"
		}
		lines = append(lines, fmt.Sprintf("  %-9s  %-4s  %s", s.Stage, mark, s.Does))
	}
	for _, s := range l.Sends {
		size := "size not known before the build"
		if s.Bytes != nil {
			size = workflows.Size(*s.Bytes)
			if s.About {
				size = "at least " + size
			}
		}
		lines = append(lines, fmt.Sprintf("  sends      %s to %s: %s", s.What, s.To, size))
	}
	for _, a := range l.Actions {
		line := "  calls      " + a.Call + ": " + a.Why
		if a.Permission != "" && a.Permission != a.Call {
			line += "; needs " + a.Permission
		}
		lines = append(lines, line+prefixed("; costs ", a.Cost))
	}
	if len(l.Permissions) > 0 {
		lines = append(lines, "  needs      "+strings.Join(l.Permissions, ", "))
	}
	for _, n := range l.Notes {
		lines = append(lines, "  note       "+n)
	}
	for i := range lines {
		lines[i] = cleanLine(lines[i])
	}
	return lines
}
