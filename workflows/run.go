package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// Request is the input of a Rollout.
type Request struct {
	Spec  step.Spec  `json:"spec"`
	Route step.Route `json:"route"`
	// Current runs now, nil if nothing does. A rollout that makes the same
	// image again keeps it.
	Current *Current `json:"current,omitempty"`
	// Keep leaves the pieces of a failed rollout for debugging.
	Keep bool `json:"keep,omitempty"`
	// Force makes a new machine even if the image is the same.
	Force bool `json:"force,omitempty"`
}

// Current is a machine that runs, with the route that made it and can end it.
type Current struct {
	Machine step.Machine `json:"machine"`
	Route   step.Route   `json:"route"`
}

// Outcome is the result of a Rollout.
type Outcome struct {
	Machine step.Machine `json:"machine"`
	// Unchanged says that the image is the one that runs already, and Machine
	// the machine that ran before.
	Unchanged bool `json:"unchanged,omitempty"`
	// Left names what should have been removed and could not be.
	Left []string `json:"left,omitempty"`
}

// StageState is where a stage of a rollout stands.
type StageState string

// The states of a stage.
const (
	Waiting StageState = "waiting"
	Running StageState = "running"
	Done    StageState = "done"
	Failed  StageState = "failed"
)

// StageStatus tells of one stage. Times are zero until they come.
type StageStatus struct {
	Stage   step.Stage `json:"stage"`
	State   StageState `json:"state"`
	Started time.Time  `json:"started,omitzero"`
	Ended   time.Time  `json:"ended,omitzero"`
	// Result is one line on what came out: "kernel 91 KiB (pvh), from an earlier build".
	Result string `json:"result,omitempty"`
}

// RolloutStatus answers a Rollout's query "status".
type RolloutStatus struct {
	Tags   step.Tags     `json:"tags"`
	Stages []StageStatus `json:"stages"`
	// Undoing says that the rollout failed and its pieces are being removed.
	Undoing bool `json:"undoing,omitempty"`
}

// anyHost is the host of a step that may run wherever its queue is polled.
const anyHost = ""

// rollout is the state of one Rollout workflow.
type rollout struct {
	ctx    workflow.Context
	in     Request
	undo   *undo
	status RolloutStatus
}

func begin(ctx workflow.Context, in Request) (*rollout, error) {
	r := &rollout{ctx: ctx, in: in, undo: &undo{}, status: RolloutStatus{Tags: in.Spec.Tags}}
	for _, s := range step.Stages {
		r.status.Stages = append(r.status.Stages, StageStatus{Stage: s, State: Waiting})
	}
	err := workflow.SetQueryHandler(ctx, QueryStatus, func() (RolloutStatus, error) { return r.status, nil })
	if err != nil {
		return nil, err
	}
	r.describe()
	return r, err
}

// run does one stage and the steps inserted after it.
func run[Out, In any](r *rollout, stage step.Stage, host string, in In) (out Out, err error) {
	if err := r.enter(stage); err != nil {
		return out, err
	}
	s := *r.in.Route.Stage(stage)
	err = execute(r.ctx, s, host, optionsOf(stage), summary(r.in.Spec.Tags, string(stage)), in, &out)
	for _, after := range r.in.Route.After[stage] {
		if err != nil {
			break
		}
		var next Out
		err = execute(r.ctx, after, anyHost, optionsOf(stage), summary(r.in.Spec.Tags, after.Activity), out, &next)
		out = next
	}
	r.leave(stage, out, err)
	return out, err
}

// execute calls one activity by name. Its error is a [*step.Error] in
// Temporal's clothes; see [Failure].
func execute(ctx workflow.Context, s step.Step, host string, o workflow.ActivityOptions, summary string, in, out any) error {
	o.TaskQueue = s.Queue(host)
	o.Summary = summary
	err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, o), s.Activity, in).Get(ctx, out)
	return failureOf(err, s.Activity, o.TaskQueue)
}

func summary(t step.Tags, what string) string {
	return fmt.Sprintf("%s %s/%s generation %d", what, t.App, t.Target, t.Generation)
}

func (r *rollout) enter(stage step.Stage) error {
	s := r.stage(stage)
	*s = StageStatus{Stage: stage, State: Running, Started: workflow.Now(r.ctx)}
	r.describe()
	return workflow.UpsertTypedSearchAttributes(r.ctx, StageAttribute.ValueSet(string(stage)))
}

func (r *rollout) leave(stage step.Stage, out any, err error) {
	s := r.stage(stage)
	s.Ended = workflow.Now(r.ctx)
	s.State, s.Result = Done, result(out)
	if err != nil {
		s.State, s.Result = Failed, Failure(err).Error()
	}
	r.describe()
}

func (r *rollout) stage(stage step.Stage) *StageStatus {
	for i := range r.status.Stages {
		if r.status.Stages[i].Stage == stage {
			return &r.status.Stages[i]
		}
	}
	panic("unknown stage " + stage)
}

// end unmakes what a failed rollout made, and drops the build tree of one that
// went well: the kernel is in the store.
func (r *rollout) end(out *Outcome, err error) error {
	ctx, cancel := workflow.NewDisconnectedContext(r.ctx)
	defer cancel()
	if err == nil {
		out.Left = append(out.Left, r.undo.only(r.in.Route.Clean).runAll(ctx, destroyOptions())...)
		return nil
	}
	failure := Failure(err)
	if r.in.Keep {
		failure.Left = append(failure.Left, r.undo.names()...)
	} else {
		r.status.Undoing = true
		r.describe()
		failure.Left = append(failure.Left, r.undo.runAll(ctx, undoOptions())...)
	}
	if r.ctx.Err() != nil && len(failure.Left) == 0 {
		return r.ctx.Err() // cancelled, and nothing left
	}
	return Fail(failure)
}

// retire destroys the machine that ran before, or, in a deployment's first
// rollout, what an earlier life of it left. From here on the rollout has
// succeeded: it can be cancelled no more, and a leftover does not fail it.
func (r *rollout) retire(spec step.Spec) (left []string) {
	r.undo.forget(r.in.Route.Destroy)
	ctx, cancel := workflow.NewDisconnectedContext(r.ctx)
	defer cancel()
	before := &undo{}
	if old := r.in.Current; old != nil {
		was := old.Machine.Registration.Spec
		before.destroy(fmt.Sprintf("destroy the machine of generation %d", was.Generation), old.Route.Destroy, step.Removal{Spec: was})
	} else {
		others := step.Removal{Spec: spec, NotLife: spec.Life}
		others.Spec.Life, others.Spec.Generation = "", 0
		before.destroy("destroy what an earlier life left", r.in.Route.Destroy, others)
	}
	return before.runAll(ctx, destroyOptions())
}

// unchanged reports whether image is the one that runs, made by the same steps.
func unchanged(in Request, image step.Image) bool {
	return in.Current != nil && !in.Force && in.Current.Machine.Registration.Digest == image.Digest &&
		in.Current.Route.Boot == in.Route.Boot
}
