package workflows

import (
	"cmp"
	"errors"
	"slices"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// Deployment is the workflow "deployment/<app>/<target>". It runs as long as the machine
// of the app on the target.
//
// The updates "deploy" and "rollback" request a new generation and return when its rollout
// is queued.
// The update "destroy", or a cancellation, removes machine and image and ends the
// workflow. Rollouts run one after the other. If the first one fails the workflow fails.
// If a later one fails the previous machine still runs.
//
// The query "status" returns a [DeploymentStatus], "details" a [DeploymentDetails].
func Deployment(ctx workflow.Context, state DeploymentState) error {
	d := &deployment{ctx: ctx, DeploymentState: state}
	if d.Life == "" {
		d.Life, d.Started = LifeOf(workflow.GetInfo(ctx).FirstRunID), workflow.Now(ctx)
	}
	if err := d.listen(); err != nil {
		return err
	}
	for {
		d.watch()
		got, err := d.await()
		switch {
		case err != nil: // cancelled
			return d.cancelled(err)
		case !got:
			return nil // no request came
		case d.destroy != nil:
			d.unwatch()
			if d.end(destroyOptions()) {
				return d.finish(nil)
			}
		case len(d.queue) > 0:
			d.unwatch()
			if err := d.rollout(); err != nil {
				return err
			}
		case workflow.GetInfo(ctx).GetContinueAsNewSuggested() && workflow.AllHandlersFinished(ctx):
			if ctx.Err() != nil { // the next run would not know of it
				return d.cancelled(ctx.Err())
			}
			return workflow.NewContinueAsNewError(ctx, Deployment, d.DeploymentState)
		case d.watching != nil && d.watching.IsReady():
			d.watched()
		case d.until(d.Watch.Due) == 0:
			d.restart()
		}
	}
}

// deployment is the state of one run of the workflow.
type deployment struct {
	DeploymentState
	ctx     workflow.Context
	queue   []Request
	rolling *Request
	cancel  workflow.CancelFunc // cancels rolling
	destroy *ending
	// cancelling says that rolling was cancelled: no deploy attaches to it.
	cancelling bool
	lastEnd    rolloutEnd
	// watching is the running watch, nil if there is none, and stopWatch cancels it.
	watching  workflow.Future
	stopWatch workflow.CancelFunc
}

// await waits for a request, the end of the watch, or the time of a restart or of the next
// watch. got is false if the first request did not come within the time [abandoned].
func (d *deployment) await() (got bool, err error) {
	ctx, stopTimer := workflow.WithCancel(d.ctx)
	defer stopTimer()
	switch due := d.until(cmp.Or(d.Watch.Due, d.Watch.Again)); {
	case d.Last.App == "":
		return workflow.AwaitWithTimeout(ctx, abandoned, d.wanted)
	case due >= 0:
		_, err = workflow.AwaitWithTimeout(ctx, due, d.wanted)
		return true, err
	}
	return true, workflow.Await(ctx, d.wanted)
}

func (d *deployment) wanted() bool {
	return len(d.queue) > 0 || d.destroy != nil || d.watching != nil && d.watching.IsReady() ||
		workflow.GetInfo(d.ctx).GetContinueAsNewSuggested() && workflow.AllHandlersFinished(d.ctx)
}

// rollout runs the next rollout. Its error ends the workflow.
func (d *deployment) rollout() error {
	next := d.queue[0]
	d.queue = d.queue[1:]
	next.Current = d.Current
	for _, k := range d.Kept {
		next.Kept.add(k.removal())
	}
	if next.Why == BySchedule {
		next.RolledBack = slices.Clone(d.RolledBack)
	}
	for _, u := range d.Remains {
		if !u.Kept {
			next.Stale = append(next.Stale, u)
		}
	}
	d.rolling, d.cancelling = &next, false
	d.record(next.Spec.Generation).End = EndRolling
	// If the rollout is terminated, only these acts tell where its resources may be.
	machine := undoMachine("destroy the machine", next.Route, step.Removal{Spec: next.Spec})
	tree := undoTree(next.Route, next.Spec)
	tree.Guess = true
	d.remember(machine, tree)
	d.describe()

	ctx, cancel := workflow.WithCancel(d.ctx)
	defer cancel()
	d.cancel = cancel
	var out Outcome
	ctx = workflow.WithChildOptions(ctx, rolloutOptions(next.Spec))
	child := workflow.ExecuteChildWorkflow(ctx, Rollout, next)
	if !d.outlast(child) {
		d.rolling, d.cancel = nil, nil
		d.ended(next.Spec.Generation, EndCancelled, 0)
		e := &d.destroy.result
		e.Cancelled = slices.Insert(e.Cancelled, 0, next.Spec.Generation)
		e.Left = append(e.Left, RolloutID(next.Spec.Tags)+" goes on to remove its resources")
		return nil
	}
	err := child.Get(ctx, &out)
	if details(err).Probed {
		d.goBack()
	}
	d.rolling, d.cancel = nil, nil
	d.lastEnd = rolloutEnd{next.Spec.Generation, out, err}
	d.settle(&next, err)

	if err == nil {
		d.succeeded(next, out)
		return nil
	}
	if e := d.destroy; e != nil {
		e.result.Cancelled = slices.Insert(e.result.Cancelled, 0, next.Spec.Generation)
		e.result.Removed = details(err).Removed
	}
	twin := temporal.IsWorkflowExecutionAlreadyStartedError(err)
	_, own := errors.AsType[*temporal.ApplicationError](err)
	if own || twin || temporal.IsCanceledError(err) {
		d.forget(next.Spec.Tags)
	}
	if twin {
		err = Fail(&step.Error{Kind: step.Conflict, Op: RolloutID(next.Spec.Tags), Err: errors.New("runs already, for an earlier life"),
			Hint: "it is being undone after its deployment was terminated or forgotten; deploy again when it has ended"})
	}
	d.failed(next.Spec.Tags, err)
	if own { // it tells of the stale acts, too
		d.dropStale()
	}
	d.remember(details(err).Remains...)
	d.describe()
	if d.ctx.Err() != nil {
		return d.cancelled(d.ctx.Err())
	}
	if !d.idle() {
		return nil
	}
	f := Failure(err)
	_, left := d.unschedule(d.ctx)
	f.Left = append(f.Left, left...)
	if !d.idle() { // a request came meanwhile
		return nil
	}
	return Fail(f)
}

// idle reports whether there is no machine, no leftover and no further request. Requests of
// the same workflow task come in first.
func (d *deployment) idle() bool {
	more := func() bool {
		return d.Current != nil || len(d.Kept) > 0 || len(d.Remains) > 0 || len(d.queue) > 0 || d.destroy != nil
	}
	await := workflow.Await(d.ctx, func() bool { return more() || workflow.AllHandlersFinished(d.ctx) })
	return await == nil && !more()
}

// mostRemains bounds the acts for one place that the next rollout tries again.
const mostRemains = 10

// remember adds acts to Remains. It skips an act if Remains has one for the same place
// and tags. Of the acts that only destroy does it has one for each place: destroy removes
// all that is there. These are the acts for resources that were kept for debugging, and
// those beyond mostRemains.
func (d *deployment) remember(acts ...*Undo) {
	for _, u := range acts {
		again := 0
		for _, r := range d.Remains {
			if r.samePlace(u) && !r.Kept {
				again++
			}
		}
		if again >= mostRemains && !u.Kept {
			u.Kept = true
			u.Name += ", and those of later generations"
		}
		twin := func(r *Undo) bool {
			return r.samePlace(u) && r.Kept == u.Kept && (u.Kept || r.spec().Tags == u.spec().Tags && r.keepsImage() == u.keepsImage())
		}
		if !slices.ContainsFunc(d.Remains, twin) {
			d.Remains = append(d.Remains, u)
		}
	}
}

// forget drops the acts of a rollout whose error lists its leftovers.
func (d *deployment) forget(t step.Tags) {
	d.Remains = slices.DeleteFunc(d.Remains, func(u *Undo) bool { return u.spec().Tags == t })
}

// dropStale drops the acts that a rollout tried again.
func (d *deployment) dropStale() {
	d.Remains = slices.DeleteFunc(d.Remains, func(u *Undo) bool { return !u.Kept })
}

// succeeded records the new current machine. An unchanged machine keeps the route that
// made it: a changed step of the new route may not be able to destroy it. Only the steps
// that look at it are the new route's.
func (d *deployment) succeeded(did Request, out Outcome) {
	d.Policy = did.Policy
	d.dropStale()
	d.remember(out.Remains...)
	g := d.record(did.Spec.Generation)
	d.Commit = out.Image.Spec.Origin.Revision()
	g.Commit, g.Digest, g.Image, g.Logs = d.Commit, out.Image.Digest, out.Machine.Registration.ID, out.Logs
	d.Kept = d.Kept[:did.stay(out.Unchanged)]
	if out.Unchanged {
		d.Current.Kernel = out.Kernel
		d.Current.Route.Watch, d.Current.Route.Observe, d.Current.Route.Probe = did.Route.Watch, did.Route.Observe, did.Route.Probe
		d.ended(g.Generation, EndUnchanged, d.Current.generation())
	} else {
		g.End = EndCurrent
		if d.Current != nil {
			end := EndReplaced
			if did.Of != 0 && d.imageOf(did.Of) < d.imageOf(d.Current.generation()) {
				end = EndRolledBack
				d.avoid(d.Current.Image.Digest)
			}
			d.ended(d.Current.generation(), end, g.Generation)
			if did.Policy.Keep > 1 {
				d.Kept = slices.Insert(d.Kept, 0, d.Current)
			}
		}
		d.Current = &Current{Image: out.Image, Route: did.Route, Kernel: out.Kernel}
	}
	d.runs(out.Machine)
	d.allow(out.Image.Digest)
	d.describe()
}

func (d *deployment) status() DeploymentStatus {
	s := DeploymentStatus{Project: d.Last.Origin.Project, Folder: d.Last.Origin.Folder, Host: d.Last.Origin.Host, Kind: d.Last.Kind,
		Started: d.Started, Generation: d.Generation, Route: d.LastRoute, Destroying: d.destroy != nil,
		Git: d.Last.Origin.Git, Commit: d.Commit}
	if d.Current != nil {
		s.Machine, s.Route, s.Policy, s.Watch = &d.Current.Machine, d.Current.Route, d.Policy, d.Watch
		g := d.record(d.Current.generation())
		s.Restarts, s.RolledBackTo = g.Restarts, g.Of
	}
	if g := d.lastRollout(); slices.Contains([]End{EndFailed, EndRolledBack, EndCancelled}, g.End) {
		s.LastDeploy, s.Failure = g.End, g.Failure
	}
	for _, u := range d.Remains {
		if d.rolling == nil || u.spec().Tags != d.rolling.Spec.Tags {
			s.Left = append(s.Left, u.left())
		}
	}
	if d.rolling != nil {
		s.Rolling = &d.rolling.Spec.Tags
	}
	for _, q := range d.queue {
		s.Queued = append(s.Queued, q.Spec.Tags)
	}
	return s
}
