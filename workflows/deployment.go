package workflows

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// DeployRequest is the argument of a Deployment's update "deploy".
type DeployRequest struct {
	// Spec without Life and Generation: the Deployment gives those.
	Spec  step.Spec  `json:"spec"`
	Route step.Route `json:"route"`
	Keep  bool       `json:"keep,omitempty"`
	Force bool       `json:"force,omitempty"`
	// TakeOver allows a deploy from another folder than the last one's.
	TakeOver bool `json:"takeOver,omitempty"`
}

// Accepted answers the update "deploy": the rollout is running or next in line.
type Accepted struct {
	Tags step.Tags `json:"tags"`
	// RolloutID is the workflow id to follow.
	RolloutID string `json:"rolloutId"`
	// Attached says that the same deploy was going on already.
	Attached bool `json:"attached,omitempty"`
}

// DestroyRequest is the argument of a Deployment's update "destroy". Spec and
// Route say where to look if the Deployment does not know yet: leftovers of a
// deployment that was terminated.
type DestroyRequest struct {
	Spec  step.Spec  `json:"spec"`
	Route step.Route `json:"route"`
}

// DeploymentStatus answers a Deployment's query "status".
type DeploymentStatus struct {
	// Folder and Host say where it is deployed from.
	Folder string `json:"folder,omitempty"`
	Host   string `json:"host,omitempty"`
	Kind   string `json:"kind,omitempty"`
	// Generation is the last one given out.
	Generation int `json:"generation"`
	// Machine runs now, nil if none does; Route is the one that made it.
	Machine *step.Machine `json:"machine,omitempty"`
	Route   step.Route    `json:"route"`
	// Rolling is being rolled out, and Queued wait behind it.
	Rolling *step.Tags  `json:"rolling,omitempty"`
	Queued  []step.Tags `json:"queued,omitempty"`
	// Failure is the text of the last rollout's error, empty if it went well.
	Failure string `json:"failure,omitempty"`
	// Destroying says that the end has been asked for.
	Destroying bool `json:"destroying,omitempty"`
}

// DeploymentState is what a Deployment hands to its next run when it continues
// as new; zero at its start.
type DeploymentState struct {
	Life       string     `json:"life,omitempty"`
	Generation int        `json:"generation,omitempty"`
	Current    *Current   `json:"current,omitempty"`
	Kept       bool       `json:"kept,omitempty"` // pieces of a failed rollout are about
	Failure    string     `json:"failure,omitempty"`
	Last       step.Spec  `json:"last,omitzero"`
	LastRoute  step.Route `json:"lastRoute,omitzero"`
}

// Deployment is an app on a target for as long as its machine lives: a running
// workflow is a running machine. It is the workflow "deployment/<app>/<target>".
//
// Updates: "deploy" asks for a new generation and returns as soon as that is
// running or in line; "destroy" removes machine and image and ends the workflow.
// Rollouts run one after the other. If the first fails the workflow fails; if a
// later one fails the machine that ran before still runs. Cancelling the
// workflow destroys as well.
//
// The query "status" gives a [DeploymentStatus].
func Deployment(ctx workflow.Context, state DeploymentState) error {
	d := &deployment{ctx: ctx, DeploymentState: state}
	if d.Life == "" {
		sum := sha256.Sum256([]byte(workflow.GetInfo(ctx).FirstRunID))
		d.Life = hex.EncodeToString(sum[:4])
	}
	if err := d.listen(); err != nil {
		return err
	}
	for {
		got, err := d.await()
		switch {
		case err != nil: // cancelled
			return d.cancelled(err)
		case !got:
			return nil // started, and asked for nothing
		case d.destroy != nil:
			if d.end() {
				return d.finish(nil)
			}
		case len(d.queue) > 0:
			if err := d.rollout(); err != nil {
				return err
			}
		case workflow.GetInfo(ctx).GetContinueAsNewSuggested() && workflow.AllHandlersFinished(ctx):
			return workflow.NewContinueAsNewError(ctx, Deployment, d.DeploymentState)
		}
	}
}

// deployment is the state of one run of the workflow.
type deployment struct {
	DeploymentState
	ctx     workflow.Context
	queue   []Request
	rolling *Request
	cancel  workflow.CancelFunc // of the rolling one
	destroy *ending
}

// ending is a destroy that was asked for; more that come meanwhile share it.
type ending struct {
	done    bool
	removed step.Destroyed
	err     error
}

// await waits for something to do: without end while there is or may be a
// machine, else for a while, and got tells whether it came.
func (d *deployment) await() (got bool, err error) {
	if d.Last.App != "" {
		return true, workflow.Await(d.ctx, d.wanted)
	}
	ctx, stopTimer := workflow.WithCancel(d.ctx)
	defer stopTimer()
	return workflow.AwaitWithTimeout(ctx, abandoned, d.wanted)
}

func (d *deployment) wanted() bool {
	return len(d.queue) > 0 || d.destroy != nil ||
		workflow.GetInfo(d.ctx).GetContinueAsNewSuggested() && workflow.AllHandlersFinished(d.ctx)
}

func (d *deployment) listen() error {
	err := workflow.SetQueryHandler(d.ctx, QueryStatus, func() (DeploymentStatus, error) { return d.status(), nil })
	if err != nil {
		return err
	}
	err = workflow.SetUpdateHandlerWithOptions(d.ctx, UpdateDeploy, d.accept,
		workflow.UpdateHandlerOptions{Validator: d.acceptable, Description: "roll out a new generation"})
	if err != nil {
		return err
	}
	return workflow.SetUpdateHandlerWithOptions(d.ctx, UpdateDestroy, d.awaitEnd,
		workflow.UpdateHandlerOptions{Validator: d.destroyable, Description: "remove the machine and its image, and end"})
}

// acceptable refuses a deploy before it leaves a trace in history.
func (d *deployment) acceptable(in DeployRequest) error {
	if err := d.addressed(in.Spec); err != nil {
		return err
	}
	last := d.Last.Origin
	switch {
	case d.destroy != nil:
		return Fail(&step.Error{Kind: step.Conflict, Err: fmt.Errorf("%s/%s is being destroyed", in.Spec.App, in.Spec.Target),
			Hint: "wait for it to end, then deploy again"})
	case last.Folder != "" && !in.TakeOver && (last.Folder != in.Spec.Origin.Folder || last.Host != in.Spec.Origin.Host):
		return Fail(&step.Error{Kind: step.Conflict,
			Err: fmt.Errorf("%s/%s is deployed from another folder: %s on %s",
				in.Spec.App, in.Spec.Target, last.Folder, last.Host),
			Hint: "choose another name for this app, or pass --take-over to replace that one; " +
				"a host whose name changes wants MORGANA_HOST"})
	}
	return nil
}

// destroyable refuses a destroy of what nobody has said what it is.
func (d *deployment) destroyable(in DestroyRequest) error {
	if d.Last.App != "" {
		return nil
	}
	return d.addressed(in.Spec)
}

// addressed refuses a request that is meant for another deployment, or for none.
func (d *deployment) addressed(s step.Spec) error {
	id := workflow.GetInfo(d.ctx).WorkflowExecution.ID
	if DeploymentID(s.App, s.Target) == id && s.Kind != "" {
		return nil
	}
	return Fail(&step.Error{Kind: step.InvalidSpec, Err: fmt.Errorf("the request is for %q on %q of kind %q, not for %s",
		s.App, s.Target, s.Kind, id)})
}

// accept gives the request a generation, or attaches it to the same request
// that is going on.
func (d *deployment) accept(ctx workflow.Context, in DeployRequest) (Accepted, error) {
	next := Request{Spec: in.Spec, Route: in.Route, Keep: in.Keep, Force: in.Force}
	if last := d.lastWanted(); last != nil && same(last, &next) {
		return Accepted{Tags: last.Spec.Tags, RolloutID: RolloutID(last.Spec.Tags), Attached: true}, nil
	}
	d.Generation++
	next.Spec.Life, next.Spec.Generation = d.Life, d.Generation
	d.Last, d.LastRoute = next.Spec, next.Route
	d.queue = append(d.queue, next)
	d.describe()
	return Accepted{Tags: next.Spec.Tags, RolloutID: RolloutID(next.Spec.Tags)},
		workflow.UpsertTypedSearchAttributes(ctx, attributes(next.Spec.Tags)...)
}

// lastWanted is the request that will have been rolled out last.
func (d *deployment) lastWanted() *Request {
	if n := len(d.queue); n > 0 {
		return &d.queue[n-1]
	}
	return d.rolling
}

func same(a, b *Request) bool {
	x, y := *a, *b
	x.Current, y.Current = nil, nil
	x.Spec.Life, x.Spec.Generation = y.Spec.Life, y.Spec.Generation
	one, err1 := json.Marshal(x)
	two, err2 := json.Marshal(y)
	return err1 == nil && err2 == nil && string(one) == string(two)
}

// rollout runs the next rollout. Its error ends the workflow.
func (d *deployment) rollout() error {
	next := d.queue[0]
	d.queue = d.queue[1:]
	next.Current = d.Current
	d.rolling = &next
	d.describe()

	ctx, cancel := workflow.WithCancel(d.ctx)
	defer cancel()
	d.cancel = cancel
	var out Outcome
	ctx = workflow.WithChildOptions(ctx, rolloutOptions(next.Spec.Tags))
	err := workflow.ExecuteChildWorkflow(ctx, Rollout, next).Get(ctx, &out)
	d.rolling, d.cancel = nil, nil

	if err == nil {
		d.Failure = ""
		d.Current = &Current{Machine: out.Machine, Route: next.Route}
		d.describe()
		return nil
	}
	if temporal.IsWorkflowExecutionAlreadyStartedError(err) {
		err = Fail(&step.Error{Kind: step.Conflict, Op: RolloutID(next.Spec.Tags), Err: errors.New("runs already, for an earlier life"),
			Hint: "it is being undone after its deployment was terminated; deploy again when it has ended"})
	}
	d.Failure, d.Kept = Failure(err).Error(), d.Kept || next.Keep
	d.describe()
	if d.ctx.Err() != nil {
		return d.cancelled(d.ctx.Err())
	}
	// The first failed: nothing runs, unless somebody has asked for more, be it
	// in this very workflow task.
	more := func() bool { return d.Current != nil || len(d.queue) > 0 || d.destroy != nil }
	await := workflow.Await(d.ctx, func() bool { return more() || workflow.AllHandlersFinished(d.ctx) })
	if await != nil || more() {
		return nil
	}
	return Fail(Failure(err))
}

// awaitEnd asks for the end and waits for it.
func (d *deployment) awaitEnd(ctx workflow.Context, in DestroyRequest) (step.Destroyed, error) {
	if d.destroy == nil {
		d.destroy = &ending{}
		if d.Last.App == "" {
			d.Last, d.LastRoute = in.Spec, in.Route
		}
		d.queue = nil
		if d.cancel != nil {
			d.cancel()
		}
		d.describe()
	}
	e := d.destroy
	if err := workflow.Await(ctx, func() bool { return e.done }); err != nil {
		return step.Destroyed{}, err
	}
	return e.removed, e.err
}

// end destroys whatever carries our app and target, of any life and
// generation, and reports whether that went well. It cannot be cancelled.
func (d *deployment) end() bool {
	ctx, cancel := workflow.NewDisconnectedContext(d.ctx)
	defer cancel()
	e := d.destroy
	spec, route := d.where()
	spec.Life, spec.Generation = "", 0
	err := execute(ctx, route.Destroy, spec.Host, destroyOptions(), summary(spec.Tags, "destroy"), step.Removal{Spec: spec}, &e.removed)
	if err != nil {
		e.err = Fail(Failure(err))
		d.destroy = nil // the machine may still be there: live on, ask again
	} else {
		if d.Current == nil || d.Kept { // there may be a build tree
			d.clean(ctx, spec, route)
		}
		d.Current, d.Kept = nil, false
	}
	e.done = true
	d.describe()
	return err == nil
}

// clean removes build trees, as far as that goes: it does not hold up the end.
func (d *deployment) clean(ctx workflow.Context, spec step.Spec, route step.Route) {
	var trees step.Destroyed
	err := execute(ctx, route.Clean, anyHost, destroyOptions(), summary(spec.Tags, "remove build trees"), spec, &trees)
	if err != nil {
		workflow.GetLogger(ctx).Error("clean", "error", err)
	}
	d.destroy.removed.Removed = append(d.destroy.removed.Removed, trees.Removed...)
}

// where says what to destroy: the machine that runs, else what was last asked for.
func (d *deployment) where() (step.Spec, step.Route) {
	if d.Current != nil {
		return d.Current.Machine.Registration.Spec, d.Current.Route
	}
	return d.Last, d.LastRoute
}

// cancelled ends the workflow as destroy would: a running workflow is a running
// machine, and this one will not run any more.
func (d *deployment) cancelled(err error) error {
	if d.Last.App == "" {
		return d.finish(err)
	}
	if d.destroy == nil {
		d.destroy = &ending{}
	}
	if e := d.destroy; !d.end() {
		return d.finish(e.err)
	}
	return d.finish(err)
}

// finish lets updates that wait get their answer before the workflow ends.
func (d *deployment) finish(err error) error {
	ctx, cancel := workflow.NewDisconnectedContext(d.ctx)
	defer cancel()
	if await := workflow.Await(ctx, func() bool { return workflow.AllHandlersFinished(ctx) }); await != nil {
		return await
	}
	if err != nil && temporal.IsCanceledError(err) {
		return temporal.NewCanceledError()
	}
	return err
}

func (d *deployment) status() DeploymentStatus {
	s := DeploymentStatus{Folder: d.Last.Origin.Folder, Host: d.Last.Origin.Host, Kind: d.Last.Kind,
		Generation: d.Generation, Route: d.LastRoute, Failure: d.Failure, Destroying: d.destroy != nil}
	if d.Current != nil {
		s.Machine, s.Route = &d.Current.Machine, d.Current.Route
	}
	if d.rolling != nil {
		s.Rolling = &d.rolling.Spec.Tags
	}
	for _, q := range d.queue {
		s.Queued = append(s.Queued, q.Spec.Tags)
	}
	return s
}
