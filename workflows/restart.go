package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// machineEnded decides by the policy whether the machine is restarted, and when.
func (d *deployment) machineEnded(h step.Health) {
	w, now := &d.Watch, workflow.Now(d.ctx)
	w.Ended, w.Seen = &h, now
	if d.Policy.Restart == step.RestartOnFailure && h.State == step.Ended && h.Success {
		d.Current.Machine.Ended = true
		return
	}
	if now.Sub(w.Booted) >= steady {
		w.InRow = 0
	}
	w.Due = now.Add(d.pause())
}

// pause returns the pause before the next restart.
func (d *deployment) pause() time.Duration {
	pause := restartPause
	for range d.Watch.InRow {
		if pause *= 2; pause >= restartPauseMost {
			return restartPauseMost
		}
	}
	return pause
}

// restart boots the machine of the current generation again. A deploy or destroy that is
// requested meanwhile interrupts it. If it fails, it is tried again after a pause.
func (d *deployment) restart() {
	w := &d.Watch
	ctx, stop := cancelledWhen(d.ctx, func() bool { return d.destroy != nil || len(d.queue) > 0 })
	defer stop()
	machine, err := d.bootAgain(ctx, fmt.Sprintf("restart %d: remove what is left of the machine, which is %s", w.InRow+1, w.Ended.Text()))
	if err != nil && ctx.Err() != nil {
		return
	}
	w.InRow++
	if err != nil {
		w.Failure, w.Due = Failure(err).Error(), workflow.Now(d.ctx).Add(d.pause())
	} else {
		d.record(d.Current.generation()).Restarts++
		d.Current.Machine = machine
		w.Failure, w.Due, w.Booted = "", time.Time{}, workflow.Now(d.ctx)
	}
	d.describe()
}

// bootAgain destroys the remains of the current machine, as a domain that is kept for its
// memory, and boots its registration. name is that of the first act.
func (d *deployment) bootAgain(ctx workflow.Context, name string) (m step.Machine, err error) {
	route, r := d.Current.Route, d.Current.Machine.Registration
	act := undoMachine(name, route, step.Removal{Spec: r.Spec, KeepImage: true})
	if _, err := act.run(ctx, destroyOptions()); err != nil {
		return m, err
	}
	return callAll[step.Machine](ctx, &route, step.Boot, r.Spec.Host, r)
}
