package workflows

import (
	"slices"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// ending is a destroy in progress; later destroy requests wait for it, too.
type ending struct {
	done   bool
	forget bool
	result DestroyResult
	err    error
}

// awaitEnd starts a destroy, unless one is in progress, and waits for its end.
func (d *deployment) awaitEnd(ctx workflow.Context, in DestroyRequest) (DestroyResult, error) {
	if d.destroy == nil {
		d.destroy, d.Repeat = &ending{}, nil
		if d.Last.App == "" {
			d.Last, d.LastRoute = in.Spec, in.Route
		}
		d.destroy.result.Cancelled = d.dropQueue()
		if d.cancel != nil {
			d.cancel()
		}
		d.describe()
	}
	e := d.destroy
	e.forget = e.forget || in.Forget
	if err := workflow.Await(ctx, func() bool { return e.done }); err != nil {
		return DestroyResult{}, err
	}
	return e.result, e.err
}

// run runs an act. A request that says forget, before or while it runs, cuts its tries.
func (e *ending) run(ctx workflow.Context, u *Undo, o workflow.ActivityOptions) (step.Destroyed, error) {
	if !e.forget {
		trying, stop := cancelledWhen(ctx, func() bool { return e.forget })
		removed, err := u.run(trying, o)
		stop()
		if err == nil || !e.forget {
			return removed, err
		}
	}
	return u.run(ctx, forgetOptions())
}

// cancelledWhen returns a context that is cancelled as soon as a condition holds.
func cancelledWhen(ctx workflow.Context, holds func() bool) (workflow.Context, workflow.CancelFunc) {
	ctx, cancel := workflow.WithCancel(ctx)
	workflow.Go(ctx, func(ctx workflow.Context) {
		if workflow.Await(ctx, holds) == nil {
			cancel()
		}
	})
	return ctx, cancel
}

// place is a place that may have resources of a deployment.
type place struct {
	// act removes all resources of the app and target there.
	act *Undo
	// remains are the acts that act includes.
	remains undoList
	// current says that the current machine runs there.
	current bool
	// kept are the generations whose images are registered there.
	kept []*Current
	err  error
}

// end destroys the resources of the app and target, of any life and generation, in all
// places. It reports whether the workflow may end: all were removed, or the request says
// forget. The acts of a place that failed stay in Remains for the next rollout or
// destroy. A build tree that cannot be removed is listed as left but is no failure. end
// cannot be cancelled.
func (d *deployment) end(o workflow.ActivityOptions) bool {
	ctx, cancel := workflow.NewDisconnectedContext(d.ctx)
	defer cancel()
	e := d.destroy
	places := d.places()
	together(ctx, places, func(ctx workflow.Context, p *place) {
		var removed step.Destroyed
		removed, p.err = e.run(ctx, p.act, o)
		for _, r := range removed.Removed {
			if !slices.Contains(e.result.Removed, r) { // the act of another place may have removed it
				e.result.Removed = append(e.result.Removed, r)
			}
		}
	})
	d.Remains = nil
	var left []string
	sure := 0 // places that are known to have resources
	for _, p := range places {
		if !p.act.Guess {
			sure++
		}
		if p.err == nil {
			d.Kept = slices.DeleteFunc(d.Kept, func(k *Current) bool { return slices.Contains(p.kept, k) })
		}
		switch {
		case p.err == nil && p.current:
			d.ended(d.Current.generation(), EndDestroyed, 0)
			d.Current = nil
		case p.err != nil && !p.act.Guess:
			for _, u := range p.remains {
				u.Failure = p.act.Failure
			}
			d.Remains = append(d.Remains, p.remains...)
			left = append(left, p.act.left())
			if p.act.Machine != nil && e.err == nil {
				e.err = p.err
			}
		}
	}
	if e.err == nil || e.forget {
		removed, stays := d.unschedule(ctx)
		e.err, e.result.Removed = nil, append(e.result.Removed, removed.Removed...)
		e.result.Left = slices.Concat(e.result.Left, left, stays)
	} else {
		f := Failure(e.err)
		if sure > 1 || d.ctx.Err() != nil { // else the error names the only place
			f.Left = append(f.Left, left...)
		}
		e.err = Fail(f)
		d.destroy = nil // the workflow goes on: destroy can be requested again
	}
	e.done = true
	d.describe()
	return e.err == nil
}

// outlast waits until a rollout has ended and reports whether it has. For a destroy that
// forgets, it waits for a short time only: a cancelled rollout may undo its work for an hour.
func (d *deployment) outlast(child workflow.Future) bool {
	ctx, cancel := workflow.NewDisconnectedContext(d.ctx)
	defer cancel()
	await := workflow.Await(ctx, func() bool { return child.IsReady() || d.destroy != nil && d.destroy.forget })
	if await == nil && !child.IsReady() {
		_, _ = workflow.AwaitWithTimeout(ctx, undoing, child.IsReady) // ctx is not cancelled
	}
	return child.IsReady()
}

// places returns the places of the current machine, of the kept images and of the acts in
// Remains. If there
// are none, it returns those of the last request.
func (d *deployment) places() (all []*place) {
	add := func(u *Undo) *place {
		act := u.everything()
		for _, p := range all {
			if p.act.samePlace(act) {
				p.act.Guess = p.act.Guess && u.Guess
				return p
			}
		}
		p := &place{act: act}
		all = append(all, p)
		return p
	}
	if d.Current != nil {
		add(undoMachine("destroy the machine", d.Current.Route, step.Removal{Spec: d.Current.Machine.Registration.Spec})).current = true
	}
	for _, u := range d.Remains {
		p := add(u)
		p.remains = append(p.remains, u)
	}
	for _, k := range d.Kept {
		p := add(k.removal())
		p.kept = append(p.kept, k)
	}
	if len(all) == 0 {
		machine := undoMachine("destroy the machine", d.LastRoute, step.Removal{Spec: d.Last})
		machine.Guess = d.Generation > 0 // after a rollout, Remains would have its leftovers
		tree := undoTree(d.LastRoute, d.Last)
		tree.Guess = true
		add(machine)
		add(tree)
	}
	return all
}

// cancelled ends a cancelled workflow as destroy does, since no workflow is left to
// watch over the machine.
func (d *deployment) cancelled(err error) error {
	if d.Last.App == "" {
		return d.finish(err)
	}
	if d.destroy == nil {
		d.destroy = &ending{}
	}
	if e := d.destroy; !d.end(undoOptions()) {
		return d.finish(e.err)
	}
	return d.finish(err)
}

// finish waits until all updates have their result, and returns the workflow's.
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
