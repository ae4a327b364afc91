package workflows

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"go.temporal.io/sdk/activity"

	"github.com/morgana-deploy/morgana/step"
)

// A redeploy rolls the last request out again, and answers at the end.
func TestRedeployUpdate(t *testing.T) {
	s := newSite(t)
	s.outcome = func(in Request) Outcome {
		in.Spec.Origin.Commit = "c0ffee"
		o := Outcome{Unchanged: in.Spec.Generation == 2, Image: step.Image{Spec: in.Spec}}
		o.Machine.Registration.Spec = in.Spec
		if o.Unchanged {
			o.Machine = in.Current.Machine
		}
		return o
	}
	s.result[4] = &step.Error{Kind: step.BuildFailed, Op: "build", Err: errors.New("exit status 2"), Hint: "see"}
	var early, plain, attached, rebuilt, failed, cancelled, late *answer
	s.after(0, func() { early = s.update(UpdateRedeploy, RedeployRequest{}) })
	s.after(time.Second, func() {
		in := order("/a", "x")
		in.Policy.Keep = 3
		in.Force, in.Keep = true, true // of that deploy only
		s.update(UpdateDeploy, in)
	})
	s.after(time.Hour, func() { plain = s.update(UpdateRedeploy, RedeployRequest{}) })
	s.after(time.Second, func() {
		attached = s.update(UpdateRedeploy, RedeployRequest{})
		if plain.done || attached.done {
			t.Error("answered before the end")
		}
	})
	s.after(time.Hour, func() { rebuilt = s.update(UpdateRedeploy, RedeployRequest{Rebuild: true}) })
	s.after(time.Hour, func() { failed = s.update(UpdateRedeploy, RedeployRequest{}) })
	s.after(time.Hour, func() {
		if d := s.status(t); d.Machine == nil || d.Machine.Registration.Spec.Generation != 3 {
			t.Errorf("after a redeploy that failed: %+v", d)
		}
		s.update(UpdateDeploy, order("/a", "y"))
		cancelled = s.update(UpdateRedeploy, RedeployRequest{Rebuild: true})
	})
	s.after(time.Second, func() {
		s.update(UpdateDestroy, DestroyRequest{})
		late = s.update(UpdateRedeploy, RedeployRequest{})
	})
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	if f := Failure(early.err); early.accepted || f == nil || f.Kind != step.NotFound {
		t.Errorf("before the first deploy: %+v", early)
	}
	if f := Failure(late.err); late.accepted || f == nil || f.Kind != step.Conflict {
		t.Errorf("while destroying: %+v", late)
	}
	got, ok := plain.got.(RedeployResult)
	if !ok || !got.Unchanged || got.Tags.Generation != 2 || got.Running != 1 || got.Revision != "c0ffee" || got.RolloutID != "rollout/hello/dev/2" {
		t.Errorf("redeploy: %+v", plain)
	}
	if same, ok := attached.got.(RedeployResult); !ok || same.Tags != got.Tags {
		t.Errorf("a redeploy while one runs: %+v", attached)
	}
	if got, ok := rebuilt.got.(RedeployResult); !ok || got.Unchanged || got.Running != 3 {
		t.Errorf("rebuild: %+v", rebuilt)
	}
	if f := Failure(failed.err); f == nil || f.Kind != step.BuildFailed || f.Hint != "see" {
		t.Errorf("a redeploy that fails: %+v", failed)
	}
	if f := Failure(cancelled.err); f == nil || f.Error() != "rollout/hello/dev/6: cancelled before it began" {
		t.Errorf("a redeploy that is dropped: %+v", cancelled)
	}
	for i, r := range s.ran[1:4] {
		if r.Spec.Rebuild != (i == 1) || r.Why != BySchedule || r.Force || r.Keep || r.Policy.Keep != 3 ||
			string(r.Spec.Options) != string(s.ran[0].Spec.Options) {
			t.Errorf("request %+v", r)
		}
	}
}

// A Deployment that ends removes its schedule. If it cannot, it ends all the same.
func TestDestroyRemovesTheSchedule(t *testing.T) {
	for _, cannot := range []error{nil, FailForGood(&step.Error{Op: "remove", Err: errors.New("refused")})} {
		s := newSite(t)
		s.unschedule = cannot
		var destroy *answer
		s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
		s.after(time.Hour, func() { destroy = s.update(UpdateDestroy, DestroyRequest{}) })
		if err := s.run(); err != nil {
			t.Fatal(err)
		}
		got, ok := destroy.got.(DestroyResult)
		if !ok || !slices.Equal(s.unscheduled, []string{"hello/dev"}) || (len(got.Left) == 1) != (cannot != nil) {
			t.Errorf("destroy %+v, unscheduled %q", destroy, s.unscheduled)
		}
	}
}

// A first deploy that fails ends the Deployment, which removes the schedule that was set
// meanwhile. A deploy that is accepted during the removal keeps the Deployment.
func TestAFirstDeployThatFailsRemovesTheSchedule(t *testing.T) {
	for _, cannot := range []error{nil, FailForGood(&step.Error{Op: "remove", Err: errors.New("refused")})} {
		s := newSite(t)
		s.unschedule = cannot
		s.result[1] = &step.Error{Kind: step.BuildFailed, Err: errors.New("no gcc")}
		s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
		f := Failure(s.run())
		if f == nil || f.Error() != "no gcc" || !slices.Equal(s.unscheduled, []string{"hello/dev"}) || (len(f.Left) == 1) != (cannot != nil) {
			t.Errorf("failure %+v, unscheduled %q", f, s.unscheduled)
		}
	}
	s := newSite(t)
	s.result[1] = &step.Error{Kind: step.BuildFailed, Err: errors.New("no gcc")}
	s.env.OnActivity(ActivityUnschedule, mock.Anything, mock.Anything).Return(step.Destroyed{}, nil).After(2 * time.Second).Once()
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
	s.after(s.took+time.Second, func() { s.update(UpdateDeploy, order("/a", "y")) })
	s.until(t, time.Hour, func(d DeploymentStatus) {
		if d.Machine == nil || d.Machine.Of().Generation != 2 {
			t.Errorf("status %+v", d)
		}
	})
}

// A destroy that fails keeps the schedule, and so does a later rollout that fails.
func TestScheduleStaysWithTheDeployment(t *testing.T) {
	s := newSite(t)
	s.fail["Destroy"] = &step.Error{Kind: step.Unauthorized, Err: errors.New("access denied")}
	s.result[2] = &step.Error{Kind: step.BuildFailed, Err: errors.New("exit status 2")}
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
	s.after(time.Hour, func() { s.update(UpdateDeploy, order("/a", "y")) })
	s.after(time.Hour, func() { s.update(UpdateDestroy, DestroyRequest{}) })
	s.after(time.Hour, func() {
		if len(s.unscheduled) != 0 {
			t.Errorf("unscheduled %q", s.unscheduled)
		}
		s.update(UpdateDestroy, DestroyRequest{Forget: true})
	})
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	if len(s.unscheduled) != 1 {
		t.Errorf("unscheduled %q", s.unscheduled)
	}
}

// The workflow Redeploy has the result and the error of its activity.
func TestRedeploy(t *testing.T) {
	for _, failure := range []*step.Error{nil, {Kind: step.BuildFailed, Op: "build", Err: errors.New("exit status 2")}, {Op: "boot", Err: errors.New("took too long")}} {
		env, tries := newEnvironment(), 0
		env.RegisterActivityWithOptions(func(_ context.Context, in RedeployInput) (RedeployResult, error) {
			tries++
			switch {
			case tries < 3:
				return RedeployResult{}, errors.New("the server is away")
			case failure != nil:
				return RedeployResult{}, FailForGood(failure)
			}
			return RedeployResult{Tags: step.Tags{App: in.App, Target: in.Target}, Unchanged: in.Rebuild}, nil
		}, activity.RegisterOptions{Name: ActivityRedeploy})
		env.ExecuteWorkflow(Redeploy, RedeployInput{App: "hello", Target: "dev", RedeployRequest: RedeployRequest{Rebuild: true}})
		err := env.GetWorkflowError()
		if failure != nil {
			if f := Failure(err); tries != 3 || f == nil || f.Kind != failure.Kind || f.Error() != failure.Error() || !strings.Contains(err.Error(), failure.Err.Error()) {
				t.Errorf("%d tries: %v", tries, err)
			}
			continue
		}
		var out RedeployResult
		if err != nil || env.GetWorkflowResult(&out) != nil || out.Tags.App != "hello" || !out.Unchanged {
			t.Errorf("result %+v, %v", out, err)
		}
	}
}

// After a destroy that removed the machine and failed at another place, a schedule does not
// boot the app again.
func TestNoRedeployAfterADestroyThatFailed(t *testing.T) {
	w := newWorld(t)
	var redeploy *answer
	w.after(0, func() { w.keeping(2, "h1", "1") })
	w.after(time.Hour, func() { w.keeping(2, "h2", "2") })
	w.after(time.Hour, func() {
		w.failAt["lab@h1"] = away
		w.update(UpdateDestroy, DestroyRequest{})
	})
	w.after(time.Hour, func() {
		if len(w.machines) != 0 {
			t.Errorf("machines %v", w.machines)
		}
		redeploy = w.update(UpdateRedeploy, RedeployRequest{})
	})
	w.until(t, time.Hour, func(DeploymentStatus) {
		if f := Failure(redeploy.err); redeploy.accepted || f == nil || f.Kind != step.NotFound || len(w.machines) != 0 {
			t.Errorf("redeploy %+v, machines %v", redeploy, w.machines)
		}
		delete(w.failAt, "lab@h1")
	})
}

// A redeploy whose answer was lost is not made again, also by the run that follows a
// continue-as-new.
func TestOneRolloutForARedeploy(t *testing.T) {
	kind := func(a *answer) *step.Kind { return &Failure(a.err).Kind }
	for _, failure := range []error{nil, &step.Error{Kind: step.BuildFailed, Err: errors.New("exit status 2")}} {
		s := newSite(t)
		s.result[2] = failure
		var first, again, next *answer
		s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
		s.after(time.Hour, func() { first = s.update(UpdateRedeploy, RedeployRequest{ID: "one"}) })
		s.after(time.Hour, func() { s.env.SetContinueAsNewSuggested(true) })
		s.after(time.Second, func() { s.update("nothing", nil) }) // a workflow task
		state := s.continues(t)
		after := newSite(t)
		after.after(0, func() { again = after.update(UpdateRedeploy, RedeployRequest{ID: "one"}) })
		after.after(time.Hour, func() { next = after.update(UpdateRedeploy, RedeployRequest{ID: "two"}) })
		after.after(time.Hour, func() { after.update(UpdateDestroy, DestroyRequest{}) })
		after.env.ExecuteWorkflow(Deployment, state)
		if err := after.env.GetWorkflowError(); err != nil || len(after.ran) != 1 || next.err != nil {
			t.Errorf("%v, %d rollouts after the continue-as-new, the next: %v", err, len(after.ran), next.err)
		}
		if !reflect.DeepEqual(first.got, again.got) && failure == nil || (failure == nil) != (again.err == nil) || failure != nil && *kind(first) != *kind(again) {
			t.Errorf("first %+v, again %+v", first, again)
		}
	}
}
