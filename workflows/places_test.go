package workflows

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// moved makes a site whose generation 1 runs on h1 and generation 2 on h2, while
// nobody could reach h1.
func moved(t *testing.T) *site {
	s := newSite(t)
	s.outcome = func(in Request) (out Outcome) {
		spec := in.Spec
		spec.Host = "h1"
		if in.Spec.Generation > 1 {
			spec.Host = "h2"
		}
		if in.Spec.Generation == 2 {
			out.Remains = undoList{undoMachine("destroy the machine of generation 1", in.Route,
				step.Removal{Spec: in.Current.Machine.Registration.Spec})}
		}
		out.Machine = step.Machine{ID: "m", Registration: step.Registration{Spec: spec}}
		return out
	}
	return s
}

func TestDestroyGoesToEveryPlace(t *testing.T) {
	s := moved(t)
	var destroy *answer
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
	s.after(time.Hour, func() { s.update(UpdateDeploy, order("/a", "y")) })
	s.after(time.Hour, func() {
		if d := s.status(t); len(d.Left) != 1 || !strings.Contains(d.Left[0], "generation 1") {
			t.Errorf("status %+v", d)
		}
		destroy = s.update(UpdateDestroy, DestroyRequest{})
	})
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(s.calls)
	s.called(t, []string{"Destroy lab@h1 generation 0", "Destroy lab@h2 generation 0"})
	if removed := destroy.got.(DestroyResult).Removed; len(removed) != 2 {
		t.Errorf("removed %q", removed)
	}
}

// Acts with different options may find the same things: each is told once.
func TestDestroyTellsOnceWhatItRemoved(t *testing.T) {
	s := newSite(t)
	old := order("/a", "x")
	s.outcome = func(in Request) (out Outcome) {
		out.Machine = step.Machine{ID: "m", Registration: step.Registration{Spec: in.Spec}}
		out.Remains = undoList{undoMachine("destroy the new machine", in.Route, step.Removal{Spec: old.Spec})}
		return out
	}
	var destroy *answer
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "y")) })
	s.after(time.Hour, func() { destroy = s.update(UpdateDestroy, DestroyRequest{}) })
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	if removed := destroy.got.(DestroyResult).Removed; len(s.calls) != 2 || len(removed) != 1 {
		t.Errorf("calls %q removed %q, want two calls and one machine", s.calls, removed)
	}
}

// A place that cannot be reached is told, and the deployment lives on with it.
func TestDestroyTellsWhatItCouldNotReach(t *testing.T) {
	s := moved(t)
	var first, second *answer
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
	s.after(time.Hour, func() { s.update(UpdateDeploy, order("/a", "y")) })
	s.after(time.Hour, func() {
		s.failAt["lab@h1"] = &step.Error{Kind: step.Unauthorized, Err: errors.New("access denied")}
		first = s.update(UpdateDestroy, DestroyRequest{})
	})
	s.after(time.Hour, func() {
		if d := s.status(t); d.Machine != nil || len(d.Left) != 1 || d.Destroying {
			t.Errorf("status %+v", d)
		}
		delete(s.failAt, "lab@h1")
		s.calls = nil
		second = s.update(UpdateDestroy, DestroyRequest{})
	})
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	f := Failure(first.err)
	if f.Kind != step.Unauthorized || len(f.Left) != 1 || !strings.Contains(f.Left[0], "access denied") {
		t.Errorf("first destroy: %+v", f)
	}
	if second.err != nil || !slices.Contains(s.calls, "Destroy lab@h1 generation 0") {
		t.Errorf("second destroy: %v, calls %q", second.err, s.calls)
	}
}

// What a success could not remove is tried again by the next rollout; what
// --keep left is not.
func TestStaleIsTriedAgain(t *testing.T) {
	s := moved(t)
	s.result[3] = &step.Error{Kind: step.BootFailed, Err: errors.New("silent")}
	s.remains[3] = undoList{{Name: "destroy the new machine and its image", Host: "h3", Kept: true,
		Step: order("", "").Route.Destroy, Machine: &step.Removal{Spec: order("/a", "k").Spec}}}
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
	for _, args := range []string{"y", "kept", "z", "last"} {
		s.after(time.Hour, func() { s.update(UpdateDeploy, order("/a", args)) })
	}
	s.until(t, time.Hour, nil)
	for i, want := range []int{0, 0, 1, 1, 0} {
		if got := len(s.ran[i].Stale); got != want {
			t.Errorf("generation %d has %d acts to try again, want %d", i+1, got, want)
		}
	}
	slices.Sort(s.calls)
	s.called(t, []string{"Destroy lab@h2 generation 0", "Destroy lab@h3 generation 0"})
}

// A first rollout that left something is not forgotten with its workflow.
func TestDeploymentLivesOnWithWhatWasKept(t *testing.T) {
	s := newSite(t)
	s.result[1] = &step.Error{Kind: step.BootFailed, Err: errors.New("silent")}
	s.remains[1] = undoList{{Name: "destroy the new machine and its image", Host: "h3", Kept: true,
		Step: order("", "").Route.Destroy, Machine: &step.Removal{Spec: order("/a", "x").Spec}}}
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
	s.until(t, time.Hour, nil)
	if !slices.Contains(s.calls, "Destroy lab@h3 generation 0") {
		t.Errorf("calls %q", s.calls)
	}
}

// The steps that made a machine end it, also after an unchanged deploy whose
// route has others.
func TestUnchangedKeepsTheRouteThatMadeTheMachine(t *testing.T) {
	s := newSite(t)
	s.outcome = func(in Request) Outcome {
		spec := in.Spec
		spec.Host, spec.Generation = "h1", 1
		return Outcome{Unchanged: in.Current != nil, Machine: step.Machine{Registration: step.Registration{Spec: spec}}}
	}
	changed := order("/a", "x")
	changed.Route.Destroy = step.Step{Activity: "lab.Clean", TaskQueue: "elsewhere"}
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
	s.after(time.Hour, func() { s.update(UpdateDeploy, changed) })
	s.until(t, time.Hour, nil)
	s.called(t, []string{"Destroy lab@h1 generation 0"})
}

// An unchanged deploy of a machine whose route has no watch is watched by the new route.
func TestUnchangedTakesTheWatch(t *testing.T) {
	w := newWatchedSite(t)
	first := w.outcome
	w.outcome = func(in Request) Outcome {
		if in.Current != nil {
			return Outcome{Unchanged: true, Machine: in.Current.Machine}
		}
		return first(in)
	}
	w.ends(time.Hour, crashed)
	w.runs()
	w.after(0, func() {
		in := order("/a", "x")
		in.Route.Watch = step.Step{} // a starter before the watch
		w.update(UpdateDeploy, in)
	})
	w.after(time.Hour, func() { w.deploy(step.RestartAlways) })
	w.until(t, 2*time.Hour, func(s DeploymentStatus) {
		if s.Watch.Unwatched != "" || s.Restarts != 1 {
			t.Errorf("restart %s, but %+v, restarts %d", s.Policy.Restart, s.Watch, s.Restarts)
		}
	})
}

func TestDeploymentKnowsTheProjectInAnotherFolder(t *testing.T) {
	s := newSite(t)
	from := func(project, folder string) DeployRequest {
		o := order(folder, folder)
		o.Spec.Origin.Project = project
		return o
	}
	var same, other *answer
	s.after(0, func() { s.update(UpdateDeploy, from("https://example.org/a", "/home/ann/a")) })
	s.after(time.Hour, func() { same = s.update(UpdateDeploy, from("https://example.org/a", "/builds/7/a")) })
	s.after(time.Hour, func() { other = s.update(UpdateDeploy, from("https://example.org/b", "/home/ann/b")) })
	s.until(t, time.Hour, nil)
	if !same.accepted || other.accepted || Failure(other.err).Kind != step.Conflict ||
		!strings.Contains(other.err.Error(), "https://example.org/a") {
		t.Errorf("same %+v, other %+v", same, other)
	}
}

// Acts that fail again and again do not add up without bound: each request has them.
func TestRemainsAreBounded(t *testing.T) {
	w := newWorld(t)
	const nights = 3 * mostRemains
	w.after(0, func() { w.deploy("h1", "1") })
	w.after(time.Hour, func() {
		w.fail["Build"] = &step.Error{Kind: step.NoSpace, Err: errors.New("no space left on device")}
		w.fail["Clean"] = &step.Error{Kind: step.Unauthorized, Err: errors.New("read-only file system")}
	})
	for range nights {
		w.after(3*time.Hour, func() { w.update(UpdateRedeploy, RedeployRequest{}) })
	}
	w.until(t, 3*time.Hour, func(s DeploymentStatus) {
		left := s.Left
		more := func(text string) bool {
			return strings.HasPrefix(text, "could not remove the build tree, and those of later generations: ")
		}
		if len(left) != mostRemains+1 || !slices.ContainsFunc(left, more) {
			t.Errorf("%d left: %q", len(left), left)
		}
		delete(w.fail, "Clean")
	})
}

// A rollout tries again what an earlier one could not remove, also if it fails itself.
func TestStaleIsTriedByAFailedRollout(t *testing.T) {
	w := newWorld(t)
	w.after(0, func() { w.deploy("h1", "1") })
	w.after(time.Hour, func() {
		w.fail["Build"] = &step.Error{Kind: step.BuildFailed, Err: errors.New("no gcc")}
		w.fail["Clean"] = &step.Error{Kind: step.Unauthorized, Err: errors.New("read-only")}
		w.deploy("h1", "2")
	})
	w.after(3*time.Hour, func() {
		if left := w.status(t).Left; len(left) != 1 {
			t.Errorf("before: %q left", left)
		}
		delete(w.fail, "Clean")
		w.deploy("h1", "3")
	})
	w.until(t, 3*time.Hour, func(d DeploymentStatus) {
		if left := d.Left; len(left) > 0 {
			t.Errorf("after: %q left", left)
		}
	})
}

// Destroy runs one act for a host, however many images with other options are kept there.
func TestOneDestroyForAPlace(t *testing.T) {
	w := newWorld(t)
	for i := range 5 {
		w.after(time.Duration(min(i, 1))*time.Hour, func() { w.keeping(5, "h1", string(rune('0'+i))) })
	}
	w.until(t, time.Hour, func(DeploymentStatus) { w.calls = nil })
	w.called(t, []string{"Remove lab@h1 generation 0"})
}
