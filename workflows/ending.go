package workflows

import (
	"slices"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// ending is a destroy in progress; later requests wait for the same one.
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

// place is where something of a deployment may be.
type place struct {
	// act removes everything of the app and target there.
	act *Undo
	// remains are the acts that it does the work of.
	remains undoList
	// current says that the machine runs there.
	current bool
	err     error
}

// end destroys whatever carries our app and target, of any life and generation,
// in every place where something of it may be, and reports whether that went
// well. The acts of a place that could not be reached are kept as they were, for
// the next rollout or destroy. A build tree that cannot be removed is told, and
// does not hold up the end. The end cannot be cancelled.
func (d *deployment) end(o workflow.ActivityOptions) bool {
	ctx, cancel := workflow.NewDisconnectedContext(d.ctx)
	defer cancel()
	e := d.destroy
	places := d.places()
	all := workflow.NewWaitGroup(ctx)
	for _, p := range places {
		all.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer all.Done()
			var removed step.Destroyed
			removed, p.err = p.act.run(ctx, o)
			for _, r := range removed.Removed {
				if !slices.Contains(e.result.Removed, r) { // another place's act removed it too
					e.result.Removed = append(e.result.Removed, r)
				}
			}
		})
	}
	all.Wait(ctx)
	d.Remains = nil
	var left []string
	sure := 0 // places where something is known to be
	for _, p := range places {
		if !p.act.Guess {
			sure++
		}
		switch {
		case p.err == nil && p.current:
			d.Current, d.Previous = nil, nil
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
		e.err, e.result.Left = nil, left
	} else {
		f := Failure(e.err)
		if sure > 1 || d.ctx.Err() != nil { // else the error says it
			f.Left = append(f.Left, left...)
		}
		e.err = Fail(f)
		d.destroy = nil // something may still be there: live on, ask again
	}
	e.done = true
	d.describe()
	return e.err == nil
}

// places gives every place where something may be: where the machine runs, where
// rollouts left something, and, if there is none of these, where the last request
// would have gone.
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
	if len(all) == 0 {
		machine := undoMachine("destroy the machine", d.LastRoute, step.Removal{Spec: d.Last})
		machine.Guess = d.Generation > 0 // each rollout told what it left
		tree := undoTree(d.LastRoute, d.Last)
		tree.Guess = true
		add(machine)
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
	if e := d.destroy; !d.end(undoOptions()) {
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
