package workflows

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/stretchr/testify/mock"

	"github.com/morgana-deploy/morgana/step"
)

// world is a Deployment with its real Rollouts, and the machines and images there are.
type world struct {
	*site
	machines, images map[step.Tags]string // to the host
}

// newWorld boots each machine on the host that its options say.
func newWorld(t *testing.T) *world {
	w := &world{site: &site{recorded: newRecorded(t)}, machines: map[step.Tags]string{}, images: map[step.Tags]string{}}
	w.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: DeploymentID("hello", "dev"), TaskQueue: TaskQueue})
	w.env.RegisterWorkflowWithOptions(Rollout, workflow.RegisterOptions{Name: "Rollout"})
	register(w.recorded, "Place", func(_ context.Context, in step.Spec) (step.Spec, error) {
		in.Host, _, _ = strings.Cut(strings.TrimPrefix(string(in.Options), `{"args":"`), " ")
		return in, nil
	})
	register(w.recorded, "Start", func(_ context.Context, in step.Registration) (step.Machine, error) {
		w.machines[in.Spec.Tags], w.images[in.Spec.Tags] = in.Spec.Host, in.Spec.Host
		return step.Machine{Registration: in, ID: "m"}, nil
	})
	register(w.recorded, "Remove", func(_ context.Context, in step.Removal) (out step.Destroyed, err error) {
		for tags, host := range w.images {
			if (in.Spec.Host != "" && host != in.Spec.Host) || !in.Match(tags) {
				continue
			}
			delete(w.machines, tags)
			if !in.KeepImage {
				delete(w.images, tags)
				out.Removed = append(out.Removed, host)
			}
		}
		return out, nil
	})
	return w
}

// deploy asks for a new image on a host.
func (w *world) deploy(host, image string) *answer {
	w.digest = digest(image)
	return w.update(UpdateDeploy, w.order(host, image))
}

func (w *world) order(host, image string) DeployRequest {
	o := order("/a", host+" "+image)
	o.Route.Check.Activity, o.Route.Boot.Activity, o.Route.Destroy.Activity = "lab.Place", "lab.Start", "lab.Remove"
	return o
}

// until is that of site. Destroy leaves nothing.
func (w *world) until(t *testing.T, d time.Duration, check func(DeploymentStatus)) {
	t.Helper()
	w.site.until(t, d, check)
	if len(w.machines)+len(w.images) > 0 {
		t.Errorf("machines %v, images %v", w.machines, w.images)
	}
}

// away is the error of a host that does not answer.
var away = &step.Error{Kind: step.Unauthorized, Err: errors.New("access denied")}

// A destroy that failed must not be tried again by the next rollout: it would
// destroy the machine that was just booted.
func TestDeployAfterADestroyThatFailed(t *testing.T) {
	w := newWorld(t)
	w.after(0, func() { w.deploy("h1", "1") })
	w.after(time.Hour, func() {
		w.failAt["lab@h1"] = away
		w.update(UpdateDestroy, DestroyRequest{})
	})
	w.after(time.Hour, func() {
		delete(w.failAt, "lab@h1")
		w.deploy("h1", "2")
	})
	w.until(t, time.Hour, func(d DeploymentStatus) {
		if d.Machine == nil || len(w.machines) != 1 || w.machines[d.Machine.Registration.Spec.Tags] != "h1" {
			t.Errorf("status %+v, machines %v", d, w.machines)
		}
	})
}

// So must one that looked for leftovers and found no worker.
func TestFirstDeployAfterADestroyThatFailed(t *testing.T) {
	w := newWorld(t)
	w.after(0, func() {
		w.failAt["lab"] = away
		o := order("/a", "h1 1")
		o.Route.Destroy.Activity = "lab.Remove"
		w.update(UpdateDestroy, DestroyRequest{Spec: o.Spec, Route: o.Route})
	})
	w.after(time.Hour, func() {
		delete(w.failAt, "lab")
		w.deploy("h1", "1")
	})
	w.until(t, time.Hour, func(d DeploymentStatus) {
		if d.Machine == nil || len(w.machines) != 1 {
			t.Errorf("status %+v, machines %v", d, w.machines)
		}
	})
}

// What could not be removed is tried again also where the machine stays.
func TestUnchangedDeployRemovesWhatIsStale(t *testing.T) {
	w := newWorld(t)
	w.after(0, func() { w.deploy("h1", "1") })
	w.after(time.Hour, func() {
		w.failAt["lab@h1"] = away
		w.deploy("h2", "2")
	})
	w.after(time.Hour, func() {
		if len(w.machines) != 2 || len(w.status(t).Left) != 1 {
			t.Errorf("left %q, machines %v", w.status(t).Left, w.machines)
		}
		w.deploy("h2", "2") // h1 is still away
	})
	w.after(time.Hour, func() {
		if len(w.status(t).Left) != 1 {
			t.Errorf("left %q", w.status(t).Left)
		}
		delete(w.failAt, "lab@h1")
		w.deploy("h2", "2")
	})
	w.until(t, time.Hour, func(d DeploymentStatus) {
		if len(w.machines) != 1 || len(d.Left) > 0 {
			t.Errorf("left %q, machines %v", d.Left, w.machines)
		}
	})
}

// A build host that is gone for good does not hold up destroy; its tree is told.
func TestALostTreeDoesNotHoldUpDestroy(t *testing.T) {
	w := newWorld(t)
	w.fail["Clean"] = away
	var destroy *answer
	w.after(0, func() { w.deploy("h1", "1") })
	w.after(time.Hour, func() { destroy = w.update(UpdateDestroy, DestroyRequest{}) })
	if err := w.run(); err != nil || destroy.err != nil || len(w.machines) > 0 {
		t.Fatalf("%v, destroy %+v, machines %v", err, destroy, w.machines)
	}
	if left := destroy.got.(DestroyResult).Left; len(left) != 1 || !strings.Contains(left[0], "build tree") {
		t.Errorf("left %q", left)
	}
}

// A rollout that is terminated cannot tell where something of it may be.
func TestDestroyAfterARolloutWasTerminated(t *testing.T) {
	s := newSite(t)
	s.env.OnWorkflow("Rollout", mock.Anything, mock.Anything).Return(func(_ workflow.Context, in Request) (Outcome, error) {
		if in.Spec.Generation == 2 {
			return Outcome{}, temporal.NewTimeoutError(enums.TIMEOUT_TYPE_START_TO_CLOSE, nil)
		}
		spec := in.Spec
		spec.Host = "h1"
		return Outcome{Machine: step.Machine{ID: "m", Registration: step.Registration{Spec: spec}}}, nil
	})
	other := order("/a", "elsewhere")
	other.Route.Destroy.TaskQueue = "other"
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
	s.after(time.Hour, func() { s.update(UpdateDeploy, other) })
	s.until(t, time.Hour, func(d DeploymentStatus) {
		if left := d.Left; len(left) == 0 || !strings.Contains(left[0], "terminated") {
			t.Errorf("left %q", left)
		}
	})
	for _, want := range []string{"Destroy lab@h1 generation 0", "Destroy other generation 0"} {
		if !slices.Contains(s.calls, want) {
			t.Errorf("calls %q lack %q", s.calls, want)
		}
	}
}

// The same deploy again attaches, also to a rollout that removes what is stale.
func TestAttachedWhileSomethingIsStale(t *testing.T) {
	s := moved(t)
	var again *answer
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
	s.after(time.Hour, func() { s.update(UpdateDeploy, order("/a", "y")) })
	s.after(time.Hour, func() { s.update(UpdateDeploy, order("/a", "z")) })
	s.after(time.Second, func() { again = s.update(UpdateDeploy, order("/a", "z")) })
	s.until(t, time.Hour, nil)
	if got := again.got.(Accepted); !got.Attached {
		t.Errorf("%+v", got)
	}
}

// A deployment that is cancelled and cannot reach its machine says so.
func TestCancelledDeploymentTellsWhatIsLeft(t *testing.T) {
	s := newSite(t)
	s.failAt["lab@h1"] = away
	var late *answer
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
	s.after(time.Hour, s.env.CancelWorkflow)
	s.after(0, func() { late = s.update(UpdateDeploy, order("/a", "y")) })
	err := s.run()
	if f := Failure(err); f == nil || len(f.Left) != 1 || !strings.Contains(f.Left[0], "access denied") {
		t.Errorf("%+v", f)
	}
	if late != nil && late.accepted {
		t.Errorf("a deploy was accepted meanwhile: %+v", late)
	}
}

// A failure of the same place is remembered once, however often it is kept.
func TestKeptPlacesAreRememberedOnce(t *testing.T) {
	s := newSite(t)
	for g := 2; g <= 4; g++ {
		s.result[g] = &step.Error{Kind: step.BootFailed, Err: errors.New("silent")}
		spec := order("/a", "k").Spec
		spec.Generation = g
		s.remains[g] = undoList{undoMachine("destroy the new machine", order("/a", "k").Route, step.Removal{Spec: spec})}
		s.remains[g][0].Kept = true
	}
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
	for range 3 {
		s.after(time.Hour, func() { s.update(UpdateDeploy, order("/a", "k")) })
	}
	s.until(t, time.Hour, func(d DeploymentStatus) {
		if left := d.Left; len(left) != 1 || !strings.HasSuffix(left[0], " generation 2)") { // a kind without hosts
			t.Errorf("left %q", left)
		}
	})
}

// A tree is removed where configure ran, also if its next try found no worker.
func TestATreeOfAnEarlierTryIsRemoved(t *testing.T) {
	r := newRecorded(t)
	before := Fail(&step.Error{Host: "b7", Err: errors.New("the worker stopped")})
	r.env.OnActivity("lab.Configure", mock.Anything, mock.Anything).
		Return(step.Source{}, temporal.NewTimeoutError(enums.TIMEOUT_TYPE_SCHEDULE_TO_START, before))
	_, err := r.rollout(r.request())
	if Failure(err).Kind != step.NoWorker || !slices.Contains(r.calls, "Clean lab@b7") {
		t.Errorf("%v, calls %q", err, r.calls)
	}
}
