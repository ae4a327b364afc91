package workflows

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// checkProbe refuses a probe that cannot reach the app, as far as the kind can tell that
// before boot.
func checkProbe(ctx workflow.Context, route step.Route, h *step.Probe, spec step.Spec) error {
	s := route.Probe
	if h == nil || s.Activity == "" {
		return nil
	}
	s.Activity += "Check"
	err := execute(ctx, s, spec.Host, planOptions(), "health of "+spec.App, step.ProbeCheck{Spec: spec, Probe: *h}, nil)
	if NotRegistered(err) {
		return nil
	}
	return err
}

// probe looks at the health of the app on the new machine for the window of the policy's
// probe. The machine before still runs. An app that is not healthy fails the rollout.
func (r *rollout) probe(m step.Machine) error {
	h := r.in.Policy.Health
	if h == nil {
		return nil
	}
	r.probed = true
	r.enter(step.Probing)
	_, window := h.Times()
	s, out := r.in.Route.Probe, step.Probed{}
	var err error
	if s.Activity != "" {
		err = execute(r.ctx, s, m.Of().Host, probeOptions(window), "health of machine "+m.ID, step.Probation{Machine: m, Probe: *h}, &out)
	}
	if s.Activity == "" || NotRegistered(err) {
		err = Fail(&step.Error{Kind: step.Unsupported, Field: "health", Err: fmt.Errorf("kind %s has no activity Probe", m.Of().Kind),
			Hint: "leave health out; docs/steps.md says how a kind probes its machines"})
	}
	r.leave(step.Probing, out, err)
	if f := Failure(err); err != nil && f.Kind == step.Unhealthy && r.in.Current == nil {
		f.Hint = cmp.Or(f.Hint, "it was the first generation, so nothing runs")
		return Fail(f)
	}
	return err
}

// goBack makes the current machine run and answer again after the app of a new one was
// probed in vain. Boot adopts a machine that runs and moves the ports and addresses back to
// it. A destroy interrupts it.
func (d *deployment) goBack() {
	if d.Current == nil || d.destroy != nil || d.ctx.Err() != nil {
		return
	}
	ctx, stop := cancelledWhen(d.ctx, func() bool { return d.destroy != nil })
	defer stop()
	route, was := d.Current.Route, d.Current.Machine
	r := was.Registration
	m, err := callAll[step.Machine](ctx, &route, step.Boot, r.Spec.Host, r)
	if err == nil && m.Ended && !was.Ended { // as for want of its port
		m, err = d.bootAgain(ctx, fmt.Sprintf("remove what is left of the machine of generation %d", d.Current.generation()))
	}
	if err == nil {
		d.runs(m)
		if m.Ended && !was.Ended {
			err = errors.New("it ended: " + m.Ready)
		}
	}
	if ctx.Err() == nil {
		d.Watch.Failure = ""
		if err != nil {
			d.Watch.Failure = Failure(err).Error()
		}
	}
}

// Back adds to the error of a rollout whose app was not healthy which generation runs now.
// It is called when the rollout does not run any more.
func (s *DeploymentStatus) Back(f *step.Error) {
	if f.Kind != step.Unhealthy || s.Machine == nil || s.Destroying {
		return
	}
	name := fmt.Sprintf("generation %d", s.Machine.Of().Generation)
	if s.Watch.Failure != "" {
		f.Left = append(f.Left, name+" does not run: "+s.Watch.Failure)
		return
	}
	at := ""
	if len(s.Machine.Addresses) > 0 {
		at = " at " + step.Addresses(s.Machine.Addresses, " ")
	}
	f.Hint = cmp.Or(f.Hint, "rolled back: "+name+" runs"+at)
}

// probeOptions are for a probe of so long a window. It is retried after a worker's death:
// the time that has passed is in its progress.
func probeOptions(window time.Duration) workflow.ActivityOptions {
	o := optionsOf(step.Boot)
	o.StartToCloseTimeout = 2*window + time.Hour // the window ends with a success, which may be late
	o.ScheduleToCloseTimeout = 0
	o.RetryPolicy.NonRetryableErrorTypes = append(o.RetryPolicy.NonRetryableErrorTypes, notRegistered...)
	return o
}
