package workflows

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

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
	return err
}

// back makes the machine of the current generation run and answer again after the app of a
// new one was not healthy, or its rollout was cancelled while it was probed. Boot adopts a
// machine that runs and moves the ports and addresses back to it.
func (r *rollout) back(ctx workflow.Context) (m step.Machine, err error) {
	route, was := r.in.Current.Route, r.in.Current.Machine
	reg := was.Registration
	for try := 1; ; try++ {
		m = step.Machine{} // a result without a member leaves it as it was
		err = execute(ctx, route.Boot, reg.Spec.Host, undoOptions(), result(reg), reg, &m)
		if err == nil {
			err = blame(route.Boot, cmp.Or(step.SameOwner(step.Boot, reg.Spec, m.Of()), m.Valid()))
		}
		if err != nil || !m.Ended || was.Ended || try == 2 {
			return m, err
		}
		// It ended meanwhile, as for want of its port. Without its remains boot starts it anew.
		gone := undoMachine(fmt.Sprintf("remove what is left of the machine of generation %d", reg.Spec.Generation), route,
			step.Removal{Spec: reg.Spec, KeepImage: true})
		if _, err = gone.run(ctx, undoOptions()); err != nil {
			return m, err
		}
	}
}

// unhealthy completes the failure of a rollout whose app was probed: it brings the machine
// before back, and says what runs now. runs is that machine, nil if none runs.
func (r *rollout) unhealthy(ctx workflow.Context, failure *step.Error) (runs *step.Machine) {
	if r.in.Current == nil {
		failure.Hint = cmp.Or(failure.Hint, "it was the first generation, so nothing runs")
		return nil
	}
	name := fmt.Sprintf("generation %d", r.in.Current.generation())
	m, err := r.back(ctx)
	if err == nil && m.Ended && !r.in.Current.Machine.Ended {
		err = errors.New("it ended: " + m.Ready)
	}
	if err != nil {
		failure.Left = append(failure.Left, fmt.Sprintf("%s does not run: %s", name, Failure(err)))
		return nil
	}
	at := ""
	if len(m.Addresses) > 0 {
		at = " at " + step.Addresses(m.Addresses, " ")
	}
	failure.Hint = cmp.Or(failure.Hint, "rolled back: "+name+" runs"+at)
	return &m
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
