package workflows

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"go.temporal.io/sdk/temporal"

	"github.com/morgana-deploy/morgana/step"
)

// sick is the error of a probe.
var sick = &step.Error{Kind: step.Unhealthy, Op: "probe generation 2", Err: errors.New("status 500, 3 times in a row")}

// healthy deploys an image on host h1 whose app is probed. It boots by lab.Start, or boot.
func (w *world) healthy(image string, boot ...string) *answer {
	w.digest = digest(image)
	o := w.order("h1", image)
	o.Policy.Health = &step.Probe{HTTP: "/"}
	for _, o.Route.Boot.Activity = range boot {
	}
	return w.update(UpdateDeploy, o)
}

func newProbed(t *testing.T) *world {
	w := newWorld(t)
	register(w.recorded, "Probe", func(_ context.Context, in step.Probation) (step.Probed, error) {
		if in.Probe != (step.Probe{HTTP: "/", Interval: "5s", Failures: 3, Window: "1m"}) {
			t.Errorf("probe %+v", in.Probe)
		}
		if len(w.machines) == 1 && in.Of().Generation > 1 {
			t.Error("the machine before was destroyed before the new one was healthy")
		}
		return step.Probed{Answer: "200 OK"}, nil
	})
	return w
}

// A healthy app replaces the one before. An unhealthy one is removed, and the machine
// before is booted: boot adopts it, and moves the ports back to it.
func TestUnhealthyIsRolledBack(t *testing.T) {
	w := newProbed(t)
	w.after(0, func() { w.healthy("1") })
	w.after(time.Hour, func() { w.healthy("2") })
	w.after(time.Hour, func() {
		w.expect(t, "healthy", 2, 1, 2)
		w.fail["Probe"] = sick
		w.calls = nil
		w.healthy("3")
	})
	w.after(time.Hour, func() {
		w.expect(t, "unhealthy", 2, 1, 2)
		want := []string{"Start lab@h1", "Probe lab@h1", "Remove lab@h1 generation 3", "Clean lab@b1", "Start lab@h1"}
		if got := w.calls[len(w.calls)-len(want):]; !slices.Equal(got, want) {
			t.Errorf("calls %q, want %q", got, want)
		}
		if got := w.told(t); got != "1 replaced by 2 *, 2 current *, 3 rolled back by 2" {
			t.Errorf("history %s", got)
		}
		if s := w.status(t); s.LastDeploy != EndRolledBack || s.Failure != sick.Error() {
			t.Errorf("status %+v", s)
		}
		delete(w.fail, "Probe")
		w.healthy("3")
	})
	w.until(t, time.Hour, func(DeploymentStatus) { w.expect(t, "healthy again", 4, 2, 4) })
}

// A probe that cannot reach the machine is refused in check, and by plan, before the build.
func TestAProbeIsRefusedInCheck(t *testing.T) {
	refused := step.Invalid("health", "use another", "port 1 does not lead to the machine")
	w := newProbed(t)
	register(w.recorded, "ProbeCheck", func(_ context.Context, in step.ProbeCheck) (struct{}, error) { return struct{}{}, refused })
	w.after(0, func() { w.healthy("1") })
	f := Failure(w.run())
	if want := []string{"Place lab", "ProbeCheck lab@h1"}; f == nil || f.Field != "health" || !slices.Equal(w.calls, want) {
		t.Errorf("failure %+v, calls %q", f, w.calls)
	}
	in := w.order("h1", "1")
	in.Policy.Health = &step.Probe{HTTP: "/"}
	again := newProbed(t)
	register(again.recorded, "ProbeCheck", func(_ context.Context, in step.ProbeCheck) (struct{}, error) { return struct{}{}, refused })
	again.env.ExecuteWorkflow(Plan, PlanRequest{Deploy: in})
	if f := Failure(again.env.GetWorkflowError()); f == nil || f.Field != "health" {
		t.Errorf("plan: %+v", f)
	}
}

// The machine before may have ended, as for want of its port: it is booted anew, and its
// new id is known.
func TestTheMachineBeforeIsBootedAnew(t *testing.T) {
	w := newProbed(t)
	ended := false
	w.beginsAnew(&ended)
	w.after(0, func() { w.healthy("1", "lab.Begin") })
	w.after(time.Hour, func() {
		w.fail["Probe"], ended = sick, true
		w.healthy("2", "lab.Begin")
	})
	w.until(t, time.Hour, func(s DeploymentStatus) {
		w.expect(t, "unhealthy", 1, 1)
		if s.Machine.ID != "anew" || s.Machine.Ended {
			t.Errorf("machine %+v", s.Machine)
		}
	})
	if want := "Remove lab@h1 generation 1"; !slices.Contains(w.calls, want) {
		t.Errorf("calls %q lack %q", w.calls, want)
	}
}

// A kind in another language that has no Probe refuses, at once.
func TestKindWithoutProbe(t *testing.T) {
	r := newRecorded(t)
	register(r, "Probe", func(context.Context, step.Probation) (step.Probed, error) { return step.Probed{}, nil })
	r.fail["Probe"] = temporal.NewApplicationError("Activity function lab.Probe is not registered", notRegistered[1])
	in := r.request()
	in.Policy = step.Policy{Health: &step.Probe{TCP: 80}}.WithDefaults()
	_, err := r.rollout(in)
	if f := Failure(err); f.Kind != step.Unsupported || f.Error() != "health: kind lab has no activity Probe" {
		t.Errorf("got %+v", f)
	}
}

// A schedule does not roll out an image again that was not healthy. A deploy does.
func TestScheduleKeepsOffARolledBackImage(t *testing.T) {
	w := newProbed(t)
	var scheduled *answer
	w.after(0, func() { w.healthy("1") })
	w.after(time.Hour, func() {
		w.fail["Probe"] = sick
		w.healthy("2")
	})
	w.after(time.Hour, func() {
		delete(w.fail, "Probe")
		w.calls = nil
		scheduled = w.update(UpdateRedeploy, RedeployRequest{})
	})
	w.after(time.Hour, func() {
		w.expect(t, "after the schedule", 1, 1)
		if f := Failure(scheduled.err); f == nil || f.Kind != step.Conflict || slices.Contains(w.calls, "Start lab@h1") {
			t.Errorf("redeploy %+v, calls %q", scheduled, w.calls)
		}
		w.healthy("2")
	})
	w.until(t, time.Hour, func(DeploymentStatus) { w.expect(t, "after the deploy", 4, 1, 4) })
}

// A redeploy of a deploy that was not healthy is probed as that deploy was, although the
// machine that runs came from one without a probe.
func TestRedeployKeepsTheProbe(t *testing.T) {
	w := newProbed(t)
	w.after(0, func() { w.deploy("h1", "1") })
	w.after(time.Hour, func() {
		w.fail["Probe"] = sick
		w.healthy("2")
	})
	w.after(time.Hour, func() {
		w.expect(t, "unhealthy", 1, 1)
		w.digest = digest("3") // the branch has moved, and is still sick
		w.update(UpdateRedeploy, RedeployRequest{})
	})
	w.until(t, time.Hour, func(DeploymentStatus) { w.expect(t, "redeploy of a sick app", 1, 1) })
}
