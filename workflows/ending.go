package workflows

import (
	"slices"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// ending is a destroy that was asked for; more that come meanwhile share it.
type ending struct {
	done   bool
	forget bool
	result DestroyResult
	err    error
}

// awaitEnd asks for the end and waits for it.
func (d *deployment) awaitEnd(ctx workflow.Context, in DestroyRequest) (DestroyResult, error) {
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
	e.forget = e.forget || in.Forget
	if err := workflow.Await(ctx, func() bool { return e.done }); err != nil {
		return DestroyResult{}, err
	}
	return e.result, e.err
}

// end destroys whatever carries our app and target, of any life and generation,
// in every place where something of it may be, and reports whether that went
// well. What could not be reached is kept, for the next time. It cannot be
// cancelled.
func (d *deployment) end() bool {
	ctx, cancel := workflow.NewDisconnectedContext(d.ctx)
	defer cancel()
	e := d.destroy
	places := d.places()
	var remains undoList
	all := workflow.NewWaitGroup(ctx)
	for _, u := range places {
		all.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer all.Done()
			removed, err := u.run(ctx, destroyOptions())
			e.result.Removed = append(e.result.Removed, removed.Removed...)
			if err == nil || u.guess {
				return
			}
			if remains = append(remains, u); e.err == nil {
				e.err = err
			}
		})
	}
	all.Wait(ctx)
	if d.Current != nil && !slices.Contains(remains, places[0]) {
		d.Current, d.Previous = nil, nil
	}
	switch {
	case e.err == nil:
	case e.forget:
		e.err, e.result.Left = nil, remains.left()
	default:
		f := Failure(e.err)
		if slices.ContainsFunc(places[1:], func(u *Undo) bool { return !u.guess }) {
			f.Left = append(f.Left, remains.left()...)
		}
		e.err = Fail(f)
		d.destroy = nil // something may still be there: live on, ask again
	}
	d.Remains = remains
	e.done = true
	d.describe()
	return e.err == nil
}

// places gives, for every place where something may be, the act that removes all
// of it: where the machine runs, where rollouts left something, and, if no
// machine runs, where the last request would have gone.
func (d *deployment) places() (all undoList) {
	add := func(u *Undo) {
		u = u.everything()
		if !slices.ContainsFunc(all, u.samePlace) {
			all.add(u)
		}
	}
	if d.Current != nil {
		add(undoMachine("destroy the machine", d.Current.Route, step.Removal{Spec: d.Current.Machine.Registration.Spec}))
	}
	for _, u := range d.Remains {
		add(u)
	}
	if d.Current == nil {
		add(undoMachine("destroy the machine", d.LastRoute, step.Removal{Spec: d.Last}))
		tree := undoTree(d.LastRoute, d.Last)
		tree.guess = true // there may be none, and no worker to ask
		add(tree)
	}
	return all
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
