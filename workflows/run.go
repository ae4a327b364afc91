package workflows

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// Request is the input of a Rollout.
type Request struct {
	Spec  step.Spec  `json:"spec"`
	Route step.Route `json:"route"`
	// Policy has all its defaults.
	Policy step.Policy `json:"policy,omitzero"`
	// Current is the running machine, nil if there is none. A rollout that makes
	// the same image keeps it.
	Current *Current `json:"current,omitempty"`
	// Kept are the acts that remove the images of the generations before Current, the
	// newest first.
	Kept undoList `json:"kept,omitempty"`
	// Stale are the undo acts that earlier rollouts could not do; they are tried again.
	Stale []*Undo `json:"stale,omitempty"`
	// Keep leaves the pieces of a failed rollout for debugging.
	Keep bool `json:"keep,omitempty"`
	// Force makes a new machine even if the image is the same.
	Force bool `json:"force,omitempty"`
	// Why is the reason for the rollout.
	Why Why `json:"why,omitempty"`
	// RolledBack are the digests of images that were rolled back. A schedule does not roll
	// them out again.
	RolledBack []string `json:"rolledBack,omitempty"`
	// Of, Image and Kernel are of a rollback: the generation whose image is booted, its
	// image and its kernel.
	Of     int         `json:"of,omitempty"`
	Image  *step.Image `json:"image,omitempty"`
	Kernel []step.File `json:"kernel,omitempty"`
}

// Current is a running machine with its image and the route that made it and can
// destroy it.
type Current struct {
	Machine step.Machine `json:"machine"`
	Image   step.Image   `json:"image"`
	Route   step.Route   `json:"route"`
	// Kernel is the kernel of Image, with the files that came with it.
	Kernel []step.File `json:"kernel,omitempty"`
}

// Outcome is the result of a Rollout.
type Outcome struct {
	Machine step.Machine `json:"machine"`
	Image   step.Image   `json:"image"`
	Kernel  []step.File  `json:"kernel,omitempty"`
	// Unchanged says that the current machine runs the same image and was kept.
	// Machine is then that machine.
	Unchanged bool `json:"unchanged,omitempty"`
	// Left lists the resources that could not be removed. Remains are the acts that would
	// remove them.
	Left    []string `json:"left,omitempty"`
	Remains []*Undo  `json:"remains,omitempty"`
	// Logs are the logs of configure and build, under the names of the stages.
	Logs []step.File `json:"logs,omitempty"`
}

// StageState is the state of a stage of a rollout.
type StageState string

// The states of a stage.
const (
	Waiting StageState = "waiting"
	Running StageState = "running"
	Done    StageState = "done"
	Failed  StageState = "failed"
	// Skipped: a rollback does not need it.
	Skipped StageState = "skipped"
)

// StageStatus is the status of one stage. Started and Ended are zero until then.
type StageStatus struct {
	Stage   step.Stage `json:"stage"`
	State   StageState `json:"state"`
	Started time.Time  `json:"started,omitzero"`
	Ended   time.Time  `json:"ended,omitzero"`
	// Result describes the output in one line: "kernel 91 KiB (pvh), from an earlier
	// build". It is the error's text if the stage failed.
	Result string `json:"result,omitempty"`
	// Log is the output of configure or build, also if the stage failed or was cancelled.
	Log *step.Artifact `json:"log,omitempty"`
}

// RolloutStatus answers a Rollout's query "status".
type RolloutStatus struct {
	Tags step.Tags `json:"tags"`
	// Commit is the [step.Origin.Revision] of the source; of one in git, once it is fetched.
	Commit string `json:"commit,omitempty"`
	// Stages begin with [step.Fetch] if the source is in git, and end with [step.Probing] if
	// the policy has a probe.
	Stages []StageStatus `json:"stages"`
	// Undoing says that the rollout failed and its pieces are being removed.
	Undoing bool `json:"undoing,omitempty"`
}

// anyHost is the host of a step that may run on any host whose worker polls its queue.
const anyHost = ""

// rollout is the state of one Rollout workflow.
type rollout struct {
	ctx    workflow.Context
	in     Request
	undo   undoList
	stale  undoList // acts that failed although the rollout succeeded
	status RolloutStatus
	probed bool // the probe has begun
	// at is the current stage. told is the last value written to MorganaStage.
	at, told step.Stage
}

func begin(ctx workflow.Context, in Request) (*rollout, error) {
	r := &rollout{ctx: ctx, in: in, at: step.Check, told: step.Check, status: RolloutStatus{Tags: in.Spec.Tags, Commit: in.Spec.Origin.Revision()}}
	stages := step.Stages[:]
	if in.Spec.Origin.Git != nil {
		stages = slices.Concat([]step.Stage{step.Fetch}, stages)
	}
	if in.Policy.Health != nil {
		stages = slices.Concat(stages, []step.Stage{step.Probing})
	}
	for _, s := range stages {
		r.status.Stages = append(r.status.Stages, StageStatus{Stage: s, State: Waiting})
	}
	err := workflow.SetQueryHandler(ctx, QueryStatus, func() (RolloutStatus, error) { return r.status, nil })
	if err != nil {
		return nil, err
	}
	r.describe()
	workflow.Go(ctx, r.tellStages)
	return r, err
}

// tellStages writes the current stage to the search attribute after a delay of tellAfter.
// Most stages end sooner, and each write costs the server as much as an activity.
func (r *rollout) tellStages(ctx workflow.Context) {
	for {
		if workflow.Await(ctx, func() bool { return r.at != r.told }) != nil ||
			workflow.Sleep(ctx, tellAfter) != nil || r.tellStage(ctx) != nil {
			return
		}
	}
}

func (r *rollout) tellStage(ctx workflow.Context) error {
	if r.at == r.told {
		return nil
	}
	r.told = r.at
	return workflow.UpsertTypedSearchAttributes(ctx, StageAttribute.ValueSet(string(r.at)))
}

// run runs one stage and the steps inserted after it.
func run[Out, In step.Value](r *rollout, stage step.Stage, host string, in In) (out Out, err error) {
	r.enter(stage)
	out, err = callAll[Out](r.ctx, &r.in.Route, stage, host, in)
	r.leave(stage, out, err)
	return out, err
}

// callAll runs the step of a stage and the steps inserted after it.
func callAll[Out, In step.Value](ctx workflow.Context, route *step.Route, stage step.Stage, host string, in In) (out Out, err error) {
	out, err = call[Out](ctx, *route.Stage(stage), host, stage, in)
	if stage == step.Configure || stage == step.Build {
		err = ofToolchain(err)
	}
	for _, after := range route.After[stage] {
		if err != nil {
			break
		}
		before := out.Of()
		if out, err = call[Out](ctx, after, anyHost, stage, out); err == nil {
			err = blame(after, step.SameOwner("", before, out.Of()))
		}
	}
	return out, err
}

// ofToolchain makes the field of a toolchain's error its path in morgana.yaml.
func ofToolchain(err error) error {
	if f := Failure(err); f != nil && f.Field != "" && f.Field != "toolchain" {
		f.Field = "toolchain." + f.Field
		return Fail(f)
	}
	return err
}

// call runs one step of a stage and checks its result: it may be a third-party step.
func call[Out, In step.Value](ctx workflow.Context, s step.Step, host string, stage step.Stage, in In) (out Out, err error) {
	if err := execute(ctx, s, host, optionsOf(stage), result(in), in, &out); err != nil {
		return out, err
	}
	return out, blame(s, cmp.Or(step.SameOwner(stage, in.Of(), out.Of()), out.Valid()))
}

// blame adds the name of step s to the error that refuses its result.
func blame(s step.Step, err error) error {
	if err == nil {
		return nil
	}
	e := *Failure(err)
	e.Op, e.Field, e.Err = "result of "+s.Activity, "", fmt.Errorf("%s: %w", e.Field, e.Err)
	return Fail(&e)
}

// execute runs one activity by name. [Failure] reads its error.
func execute(ctx workflow.Context, s step.Step, host string, o workflow.ActivityOptions, summary string, in, out any) error {
	o.TaskQueue = s.Queue(host)
	o.Summary = summary
	err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, o), s.Activity, in).Get(ctx, out)
	return failureOf(err, s.Activity, o.TaskQueue)
}

func (r *rollout) enter(stage step.Stage) {
	r.at = stage
	s := r.stage(stage)
	*s = StageStatus{Stage: stage, State: Running, Started: workflow.Now(r.ctx)}
	r.describe()
}

func (r *rollout) leave(stage step.Stage, out any, err error) {
	s := r.stage(stage)
	s.Ended = workflow.Now(r.ctx)
	s.State, s.Result, s.Log = Done, result(out), logOf(out)
	if err != nil {
		s.State, s.Result, s.Log = Failed, Failure(err).Error(), details(err).Log
	}
	r.describe()
}

// logs returns the logs of the stages that have one, under the names of the stages.
func (r *rollout) logs() (all []step.File) {
	for _, s := range r.status.Stages {
		if s.Log != nil {
			all = append(all, step.File{Name: string(s.Stage), Artifact: *s.Log})
		}
	}
	return all
}

// logOf returns the log of a stage's output, nil if it has none.
func logOf(out any) *step.Artifact {
	switch v := out.(type) {
	case step.Source:
		return v.Log
	case step.Kernel:
		return v.Log
	}
	return nil
}

func (r *rollout) stage(stage step.Stage) *StageStatus {
	for i := range r.status.Stages {
		if r.status.Stages[i].Stage == stage {
			return &r.status.Stages[i]
		}
	}
	panic("unknown stage " + stage)
}

// end removes the resources of a failed rollout, and tries the stale acts again. After a
// successful rollout it removes the build tree only: the kernel is in the store.
func (r *rollout) end(out *Outcome, err error) error {
	ctx, cancel := workflow.NewDisconnectedContext(r.ctx)
	defer cancel()
	if err == nil {
		if out.Unchanged { // otherwise retire has run these acts
			r.stale = append(r.in.superfluous(true), r.in.Stale...).runTogether(ctx, destroyOptions())
		}
		_, trees := r.undo.take(r.in.Route.Clean).runAll(ctx, destroyOptions())
		r.stale = append(r.stale, trees...)
		out.Left, out.Remains, out.Logs = r.stale.left(), r.stale, r.logs()
		return nil
	}
	_ = r.tellStage(ctx) // the rollout's error names the stage, too
	var removed step.Destroyed
	remains := slices.DeleteFunc(r.undo, func(u *Undo) bool { return u.never })
	if r.in.Keep {
		for _, u := range remains {
			u.Kept = true
		}
	} else {
		r.status.Undoing = true
		r.describe()
		removed, remains = remains.runAll(ctx, undoOptions())
	}
	failure := Failure(err)
	failure.Left = append(failure.Left, remains.left()...)
	if r.ctx.Err() != nil && len(failure.Left) == 0 { // cancelled, and nothing left
		return temporal.NewCanceledError(detail{Probed: r.probed, Removed: removed.Removed})
	}
	stale := undoList(r.in.Stale)
	if r.ctx.Err() == nil && !r.probed { // else a destroy waits, or the machine before
		stale = stale.runTogether(ctx, destroyOptions())
	}
	d := detail{Remains: append(stale, remains...), Probed: r.probed, Cancelled: r.ctx.Err() != nil, Removed: removed.Removed,
		Commit: r.status.Commit, Logs: r.logs(), Digest: out.Image.Digest}
	return failWith(failure, d, failure.Kind.Final())
}

// stay returns how many of Kept stay registered. One of the generations to keep is that of
// the machine that runs, and one is that before it if the rollout makes a new one.
func (in *Request) stay(unchanged bool) int {
	stay := in.Policy.Keep - 1
	if in.Current != nil && !unchanged {
		stay--
	}
	return min(max(stay, 0), len(in.Kept))
}

// superfluous returns the acts for the images of Kept that do not stay.
func (in *Request) superfluous(unchanged bool) undoList {
	return slices.Clone(in.Kept[in.stay(unchanged):])
}

// retire destroys the previous machine, and the images that are kept no longer. In a first
// rollout it destroys the resources of earlier lives, unless check found none. It also tries
// the stale acts again. The rollout has succeeded by then: it cannot be cancelled, and a
// failed act does not fail it.
func (r *rollout) retire(spec step.Spec) {
	r.undo.take(r.in.Route.Destroy)
	ctx, cancel := workflow.NewDisconnectedContext(r.ctx)
	defer cancel()
	keep := r.in.Policy.Keep
	before := append(r.in.superfluous(false), r.in.Stale...)
	if old := r.in.Current; old != nil {
		was := old.Machine.Registration.Spec
		before.add(undoMachine(fmt.Sprintf("destroy the machine of generation %d", was.Generation), old.Route,
			step.Removal{Spec: was, KeepImage: keep > 1}))
	} else if !spec.Alone {
		others := step.Removal{Spec: spec, NotLife: spec.Life}
		others.Spec.Life, others.Spec.Generation = "", 0
		before.add(undoMachine("destroy what an earlier life left", r.in.Route, others))
	}
	r.stale = before.runTogether(ctx, destroyOptions())
}

// unchanged reports whether the current machine runs the same image and was registered
// and booted by the same steps.
func unchanged(in Request, image step.Image) bool {
	if in.Current == nil || in.Force || in.Current.Machine.Registration.Digest != image.Digest {
		return false
	}
	return sameMaker(in.Route, in.Current.Route)
}

// sameMaker reports whether the same steps register and boot.
func sameMaker(is, was step.Route) bool {
	return is.Register == was.Register && is.Boot == was.Boot &&
		slices.Equal(is.After[step.Register], was.After[step.Register]) && slices.Equal(is.After[step.Boot], was.After[step.Boot])
}
