package workflows

import (
	"context"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// An image that was rolled back once and deployed again later by the user is as good as any.
func TestAnImageThatIsHealthyAgainIsRedeployed(t *testing.T) {
	w := newProbed(t)
	ended := false
	register(w.recorded, "Begin", func(_ context.Context, in step.Registration) (step.Machine, error) {
		w.machines[in.Spec.Tags], w.images[in.Spec.Tags] = in.Spec.Host, in.Spec.Host
		return step.Machine{Registration: in, ID: "m", Ended: ended && in.Spec.Generation == 3}, nil
	})
	w.after(0, func() { w.healthy("1", "lab.Begin") })
	w.after(time.Hour, func() {
		w.fail["Probe"] = sick // a database is down
		w.healthy("2", "lab.Begin")
	})
	w.after(time.Hour, func() {
		delete(w.fail, "Probe")
		w.healthy("2", "lab.Begin") // the user deploys it again, and it is healthy
	})
	w.after(time.Hour, func() {
		w.expect(t, "healthy", 3, 1, 3)
		ended = true // as a batch job, or a crash
	})
	var re *answer
	w.after(time.Hour, func() { re = w.update(UpdateRedeploy, RedeployRequest{}) })
	w.until(t, time.Hour, func(DeploymentStatus) {
		if re.err != nil {
			t.Errorf("a redeploy of the image that is current: %v", re.err)
		}
	})
}

// A schedule keeps off the image that was rolled back, however long it is ago.
func TestScheduleKeepsOffARolledBackImageForLong(t *testing.T) {
	w := newProbed(t)
	w.after(0, func() { w.healthy("1") })
	w.after(time.Hour, func() {
		w.fail["Probe"] = sick
		w.healthy("2")
	})
	booted := 0
	for n := range 60 {
		w.after(time.Hour, func() { w.calls = nil; w.update(UpdateRedeploy, RedeployRequest{}) })
		w.after(30*time.Minute, func() {
			for _, c := range w.calls {
				if c == "Probe lab@h1" && booted == 0 {
					booted = n + 1
				}
			}
		})
	}
	w.after(time.Hour, func() { w.update(UpdateDestroy, DestroyRequest{}) })
	if err := w.run(); err != nil || booted != 0 {
		t.Errorf("%v; the %dth redeploy booted the image that was rolled back", err, booted)
	}
}
