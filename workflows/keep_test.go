package workflows

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// generations returns the generations of machines or images, in order.
func generations(of map[step.Tags]string) (all []int) {
	for tags := range of {
		all = append(all, tags.Generation)
	}
	slices.Sort(all)
	return all
}

// expect checks which machine runs and which images are registered.
func (w *world) expect(t *testing.T, when string, machine int, images ...int) {
	t.Helper()
	if got := generations(w.machines); !slices.Equal(got, []int{machine}) {
		t.Errorf("%s: machines %v, want %d", when, got, machine)
	}
	if got := generations(w.images); !slices.Equal(got, images) {
		t.Errorf("%s: images %v, want %v", when, got, images)
	}
	if d := w.status(t); d.Machine == nil || d.Machine.Registration.Spec.Generation != machine {
		t.Errorf("%s: status %+v", when, d)
	}
}

// keeping deploys an image on a host with a policy of keeping so many generations.
func (w *world) keeping(keep int, host, image string) *answer {
	w.digest = digest(image)
	o := w.order(host, image)
	o.Policy.Keep = keep
	return w.update(UpdateDeploy, o)
}

// The last images stay registered, whatever host and route they were made with. The others
// are removed, also by a deploy that changes only the policy, and destroy removes all.
func TestImagesAreKept(t *testing.T) {
	w := newWorld(t)
	w.after(0, func() { w.keeping(0, "h1", "1") }) // the default
	for i, host := range []string{"h2", "h1", "h3"} {
		w.after(time.Hour, func() { w.keeping(3, host, string(rune('2'+i))) })
	}
	w.after(time.Hour, func() {
		w.expect(t, "keep 3", 4, 2, 3, 4)
		w.keeping(2, "h3", "4")
	})
	w.after(time.Hour, func() {
		w.expect(t, "keep 2, unchanged", 4, 3, 4)
		w.keeping(1, "h1", "5")
	})
	w.after(time.Hour, func() {
		w.expect(t, "keep 1", 6, 6)
		w.keeping(2, "h1", "6")
	})
	w.after(time.Hour, func() { w.keeping(2, "h2", "7") })
	w.until(t, time.Hour, func(DeploymentStatus) { w.expect(t, "keep 2", 8, 7, 8) })
}

// An image that could not be removed is removed later. One whose host is away at destroy
// stays known.
func TestImagesThatCannotBeRemoved(t *testing.T) {
	w := newWorld(t)
	var first *answer
	w.after(0, func() { w.keeping(2, "h1", "1") })
	w.after(time.Hour, func() { w.keeping(2, "h2", "2") })
	w.after(time.Hour, func() {
		w.failAt["lab@h1"] = away
		w.keeping(2, "h2", "3")
	})
	w.after(time.Hour, func() {
		w.expect(t, "h1 is away", 3, 1, 2, 3)
		delete(w.failAt, "lab@h1")
		w.keeping(2, "h1", "4")
	})
	w.after(time.Hour, func() {
		w.expect(t, "h1 is back", 4, 3, 4)
		w.failAt["lab@h2"] = away
		first = w.update(UpdateDestroy, DestroyRequest{})
	})
	w.until(t, time.Hour, func(DeploymentStatus) {
		if got := generations(w.images); first.err == nil || !slices.Equal(got, []int{3}) {
			t.Errorf("destroy %v, images %v", first.err, got)
		}
		delete(w.failAt, "lab@h2")
	})
}

// A deploy that fails removes its own image only.
func TestAFailureKeepsTheImages(t *testing.T) {
	w := newWorld(t)
	w.after(0, func() { w.keeping(2, "h1", "1") })
	w.after(time.Hour, func() { w.keeping(2, "h1", "2") })
	w.after(time.Hour, func() {
		w.fail["Start"] = &step.Error{Kind: step.BootFailed, Err: errors.New("silent")}
		w.keeping(1, "h1", "3")
	})
	w.until(t, time.Hour, func(DeploymentStatus) { w.expect(t, "after a failure", 2, 1, 2) })
}

// A deployment that still has a kept image must not end by a deploy that fails.
func TestAKeptImageKeepsTheDeployment(t *testing.T) {
	w := newWorld(t)
	w.after(0, func() { w.keeping(2, "h1", "1") })
	w.after(time.Hour, func() { w.keeping(2, "h2", "2") })
	w.after(time.Hour, func() {
		w.failAt["lab@h1"] = away
		w.update(UpdateDestroy, DestroyRequest{}) // h2 is removed; h1 does not answer
	})
	w.after(time.Hour, func() {
		w.fail["Build"] = &step.Error{Kind: step.BuildFailed, Err: errors.New("no gcc")}
		w.keeping(2, "h2", "3")
	})
	w.after(time.Hour, func() {
		delete(w.fail, "Build")
		delete(w.failAt, "lab@h1")
		w.update(UpdateDestroy, DestroyRequest{})
	})
	if err := w.run(); err != nil || len(w.images) > 0 {
		t.Errorf("the workflow ended with %v and images %v that nobody knows; schedule removed: %q", err, w.images, w.unscheduled)
	}
}

// Without a current machine, rollout and Deployment must agree on what stays.
func TestKeptWithoutCurrent(t *testing.T) {
	w := newWorld(t)
	w.after(0, func() { w.keeping(2, "h1", "1") })
	w.after(time.Hour, func() { w.keeping(2, "h2", "2") })
	w.after(time.Hour, func() {
		w.failAt["lab@h1"] = away
		w.update(UpdateDestroy, DestroyRequest{})
	})
	w.after(time.Hour, func() {
		delete(w.failAt, "lab@h1")
		w.keeping(2, "h2", "3")
	})
	w.until(t, time.Hour, func(DeploymentStatus) {
		var all []Generation
		w.query(t, QueryHistory, &all)
		for _, g := range all {
			for tags := range w.images {
				if tags.Generation == g.Generation {
					g.Kept = !g.Kept
				}
			}
			if g.Kept {
				t.Errorf("generation %d: history and images %v disagree", g.Generation, w.images)
			}
		}
	})
}
