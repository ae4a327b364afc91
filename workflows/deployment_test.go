package workflows

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// site is a Deployment under test: its rollouts are mocked, its Destroy is the
// lab's.
type site struct {
	*recorded
	// result gives each rollout's outcome by generation; nil succeeds.
	result map[int]error
	// remains are what a failed one leaves, by generation.
	remains map[int]undoList
	// outcome is of one that succeeds.
	outcome func(Request) Outcome
	// took is how long a rollout takes.
	took time.Duration
	// undoes is how long a cancelled one takes to undo its work.
	undoes time.Duration
	ran    []Request
	at     time.Duration
}

func newSite(t *testing.T) *site {
	s := &site{recorded: newRecorded(t), result: map[int]error{}, remains: map[int]undoList{}, took: time.Minute}
	s.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: DeploymentID("hello", "dev"), TaskQueue: TaskQueue})
	s.env.RegisterWorkflowWithOptions(func(ctx workflow.Context, in Request) (Outcome, error) {
		s.ran = append(s.ran, in)
		if err := workflow.Sleep(ctx, s.took); err != nil {
			s.calls = append(s.calls, "rollout cancelled")
			ctx, cancel := workflow.NewDisconnectedContext(ctx)
			defer cancel()
			_ = workflow.Sleep(ctx, s.undoes) // not cancelled
			return Outcome{}, temporal.NewCanceledError(detail{Removed: []string{"image 1"}})
		}
		if err := s.result[in.Spec.Generation]; err != nil {
			f := Failure(err)
			return Outcome{}, failWith(f, detail{Remains: append(in.Stale, s.remains[in.Spec.Generation]...)}, f.Kind.Final())
		}
		if s.outcome != nil {
			return s.outcome(in), nil
		}
		spec := in.Spec
		spec.Host = "h1"
		return Outcome{Machine: step.Machine{ID: "m", Registration: step.Registration{Spec: spec}}}, nil
	}, workflow.RegisterOptions{Name: "Rollout"})
	return s
}

// after runs f that long after the last one.
func (s *site) after(d time.Duration, f func()) {
	s.at += d
	s.env.RegisterDelayedCallback(f, s.at)
}

func order(folder, args string) DeployRequest {
	return DeployRequest{
		Spec: step.Spec{Tags: step.Tags{App: "hello", Target: "dev"}, Kind: "lab", Options: []byte(`{"args":"` + args + `"}`),
			Origin: step.Origin{Folder: folder, Host: "laptop"}},
		Route: step.NewRoute("lab", "lab"),
	}
}

// answer notes how an update ends.
type answer struct {
	accepted, done bool
	got            any
	err            error
}

func (a *answer) Accept() { a.accepted = true }
func (a *answer) Reject(err error) {
	a.done, a.err = true, err
}
func (a *answer) Complete(got any, err error) {
	a.done, a.got, a.err = true, got, err
}

func (s *site) update(name string, arg any) *answer {
	a := &answer{}
	s.env.UpdateWorkflow(name, "", a, arg)
	return a
}

func (s *site) run() error {
	s.env.ExecuteWorkflow(Deployment, DeploymentState{})
	return s.env.GetWorkflowError()
}

// until destroys the deployment that long after the last call of after, and runs the test.
func (s *site) until(t *testing.T, d time.Duration, check func(DeploymentStatus)) {
	t.Helper()
	s.after(d, func() {
		if check != nil {
			check(s.status(t))
		}
		s.update(UpdateDestroy, DestroyRequest{})
	})
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
}

func (s *site) status(t *testing.T) (d DeploymentStatus) {
	t.Helper()
	s.query(t, QueryStatus, &d)
	return d
}

// continues runs the test until the workflow continues as new, and returns its next state.
func (s *site) continues(t *testing.T) (state DeploymentState) {
	t.Helper()
	next, ok := errors.AsType[*workflow.ContinueAsNewError](s.run())
	if !ok {
		t.Fatalf("want continue as new, got %v", s.env.GetWorkflowError())
	}
	if err := converter.GetDefaultDataConverter().FromPayloads(next.Input, &state); err != nil {
		t.Fatal(err)
	}
	return state
}

func TestDeploymentLivesAsLongAsTheMachine(t *testing.T) {
	s := newSite(t)
	var deploy, destroy *answer
	s.after(0, func() { deploy = s.update(UpdateDeploy, order("/a", "x")) })
	s.after(time.Hour, func() {
		if d := s.status(t); d.Machine == nil || d.Generation != 1 || d.Rolling != nil || d.Folder != "/a" {
			t.Errorf("status %+v", d)
		}
		destroy = s.update(UpdateDestroy, DestroyRequest{})
	})
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	got, ok := deploy.got.(Accepted)
	if !ok || deploy.err != nil || got.Attached || got.RolloutID != "rollout/hello/dev/1" || len(got.Tags.Life) != 8 {
		t.Errorf("accepted %+v, %v", deploy.got, deploy.err)
	}
	s.called(t, []string{"Destroy lab@h1 generation 0"})
	if !destroy.done || destroy.err != nil {
		t.Errorf("destroy %+v", destroy)
	}
}

func TestDeploymentFailsWithItsFirstRollout(t *testing.T) {
	s := newSite(t)
	s.result[1] = &step.Error{Kind: step.BootFailed, Op: "boot", Err: errors.New("silent")}
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
	if f := Failure(s.run()); f == nil || f.Kind != step.BootFailed || f.Error() != "boot: silent" {
		t.Errorf("failure %+v", f)
	}
}

// A deploy that is accepted while the first fails is not lost with it.
func TestDeploymentTakesADeployAsItsFirstFails(t *testing.T) {
	s := newSite(t)
	s.result[1] = &step.Error{Kind: step.BootFailed, Err: errors.New("silent")}
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
	s.after(s.took, func() { s.update(UpdateDeploy, order("/a", "y")) })
	s.until(t, time.Hour, func(d DeploymentStatus) {
		if d.Machine == nil || d.Machine.Registration.Spec.Generation != 2 {
			t.Errorf("status %+v", d)
		}
	})
}

func TestDeploymentOutlivesALaterFailure(t *testing.T) {
	s := newSite(t)
	s.result[2] = &step.Error{Kind: step.BuildFailed, Op: "build", Err: errors.New("exit status 2")}
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
	s.after(time.Hour, func() { s.update(UpdateDeploy, order("/a", "y")) })
	s.after(time.Hour, func() {
		d := s.status(t)
		if d.Machine == nil || d.Machine.Registration.Spec.Generation != 1 || d.Generation != 2 || d.Failure != "build: exit status 2" {
			t.Errorf("status %+v", d)
		}
		s.update(UpdateDeploy, order("/a", "y")) // the same again is a new try, not the failed one
	})
	s.until(t, time.Hour, func(d DeploymentStatus) {
		if d.Machine.Registration.Spec.Generation != 3 || d.Failure != "" {
			t.Errorf("status %+v", d)
		}
	})
	if len(s.ran) != 3 || s.ran[0].Current != nil || s.ran[2].Current == nil {
		t.Errorf("rollouts %+v", s.ran)
	}
}

func TestDeploymentSerialisesAndAttaches(t *testing.T) {
	s := newSite(t)
	var first, again, other, otherAgain *answer
	s.after(0, func() { first = s.update(UpdateDeploy, order("/a", "x")) })
	s.after(time.Second, func() { again = s.update(UpdateDeploy, order("/a", "x")) })
	s.after(time.Second, func() { other = s.update(UpdateDeploy, order("/a", "y")) })
	s.after(time.Second, func() {
		otherAgain = s.update(UpdateDeploy, order("/a", "y"))
		if d := s.status(t); d.Rolling == nil || d.Rolling.Generation != 1 || len(d.Queued) != 1 {
			t.Errorf("status %+v", d)
		}
	})
	s.until(t, time.Hour, nil)
	for i, want := range []struct {
		a          *answer
		generation int
		attached   bool
	}{{first, 1, false}, {again, 1, true}, {other, 2, false}, {otherAgain, 2, true}} {
		if got := want.a.got.(Accepted); got.Tags.Generation != want.generation || got.Attached != want.attached {
			t.Errorf("%d: got %+v, want %+v", i, got, want)
		}
	}
	if len(s.ran) != 2 {
		t.Errorf("%d rollouts", len(s.ran))
	}
}

func TestDeploymentRefusesAnotherFolder(t *testing.T) {
	s := newSite(t)
	var refused, taken *answer
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
	s.after(time.Hour, func() { refused = s.update(UpdateDeploy, order("/b", "x")) })
	s.after(time.Second, func() {
		in := order("/b", "x")
		in.TakeOver = true
		taken = s.update(UpdateDeploy, in)
	})
	s.until(t, time.Hour, nil)
	f := Failure(refused.err)
	if refused.accepted || f.Kind != step.Conflict || f.Err.Error() != "hello/dev is deployed from another folder: /a on laptop" {
		t.Errorf("refused %+v: %+v", refused, f)
	}
	if taken.err != nil || len(s.ran) != 2 {
		t.Errorf("taken over: %+v", taken)
	}
}

// A destroy from a folder whose app has the same name is another project's.
func TestDestroyFromAnotherFolderIsRefused(t *testing.T) {
	s := newSite(t)
	var other, named *answer
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
	s.after(time.Hour, func() {
		b := order("/b", "x")
		other = s.update(UpdateDestroy, DestroyRequest{Spec: b.Spec, Route: b.Route})
	})
	s.after(time.Hour, func() { named = s.update(UpdateDestroy, DestroyRequest{}) })
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	if f := Failure(other.err); other.accepted || f.Kind != step.Conflict || !strings.Contains(f.Hint, "morgana destroy hello/dev") {
		t.Errorf("from another folder: %+v", other)
	}
	if named.err != nil {
		t.Errorf("by name: %+v", named)
	}
}

func TestDestroyCancelsTheRolloutThatIsGoingOn(t *testing.T) {
	s := newSite(t)
	var destroy, late *answer
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
	s.after(time.Second, func() { s.update(UpdateDeploy, order("/a", "y")) })
	s.after(time.Second, func() {
		destroy = s.update(UpdateDestroy, DestroyRequest{})
		late = s.update(UpdateDeploy, order("/a", "z"))
	})
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	if want := []string{"Clean lab", "Destroy lab generation 0", "rollout cancelled"}; !slices.Equal(slices.Sorted(slices.Values(s.calls)), want) {
		t.Errorf("calls %q, want %q", s.calls, want)
	}
	if got, ok := destroy.got.(DestroyResult); !ok || !slices.Equal(got.Cancelled, []int{1, 2}) || !slices.Equal(got.Removed, []string{"image 1", "machine-0 of "}) {
		t.Errorf("destroy says %+v, %v", destroy.got, destroy.err)
	}
	if f := Failure(late.err); f == nil || f.Kind != step.Conflict {
		t.Errorf("a deploy while destroying: %+v", late)
	}
}

func TestDestroyThatFailsKeepsTheDeployment(t *testing.T) {
	s := newSite(t)
	s.fail["Destroy"] = &step.Error{Kind: step.Unauthorized, Op: "terminate", Err: errors.New("access denied")}
	var first, second *answer
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
	s.after(time.Hour, func() { first = s.update(UpdateDestroy, DestroyRequest{}) })
	s.after(time.Hour, func() {
		if d := s.status(t); d.Machine == nil || d.Destroying {
			t.Errorf("status %+v", d)
		}
		delete(s.fail, "Destroy")
		second = s.update(UpdateDestroy, DestroyRequest{})
	})
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	if f := Failure(first.err); f == nil || f.Kind != step.Unauthorized {
		t.Errorf("first %+v", first)
	}
	if second.err != nil {
		t.Errorf("second %+v", second)
	}
}

func TestCancelledDeploymentDestroys(t *testing.T) {
	s := newSite(t)
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
	s.after(time.Hour, s.env.CancelWorkflow)
	if err := s.run(); !temporal.IsCanceledError(err) {
		t.Fatalf("want cancelled, got %v", err)
	}
	s.called(t, []string{"Destroy lab@h1 generation 0"})
}

func TestDestroyFindsLeftoversOfAnEarlierLife(t *testing.T) {
	s := newSite(t)
	var destroyed *answer
	s.after(0, func() {
		in := order("/a", "x")
		destroyed = s.update(UpdateDestroy, DestroyRequest{Spec: in.Spec, Route: in.Route})
	})
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(s.calls)
	if want := []string{"Clean lab", "Destroy lab generation 0"}; !slices.Equal(s.calls, want) || destroyed.err != nil {
		t.Errorf("calls %q, want %q; %+v", s.calls, want, destroyed)
	}
}

// A request for another deployment, or a destroy that does not say what, would
// make this one do what nobody asked of it.
func TestDeploymentRefusesWhatIsNotForIt(t *testing.T) {
	s := newSite(t)
	var other, empty *answer
	s.after(0, func() {
		in := order("/a", "x")
		in.Spec.App = "web"
		other = s.update(UpdateDeploy, in)
		empty = s.update(UpdateDestroy, DestroyRequest{})
	})
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	for _, a := range []*answer{other, empty} {
		if f := Failure(a.err); a.accepted || f == nil || f.Kind != step.InvalidSpec {
			t.Errorf("answer %+v", a)
		}
	}
	if len(s.calls) != 0 || len(s.ran) != 0 {
		t.Errorf("calls %q, rollouts %+v", s.calls, s.ran)
	}
}

func TestDeploymentThatIsAskedForNothingEnds(t *testing.T) {
	if err := newSite(t).run(); err != nil {
		t.Fatal(err)
	}
}

func TestDeploymentContinuesAsNew(t *testing.T) {
	s := newSite(t)
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
	s.after(time.Second, func() { s.env.SetContinueAsNewSuggested(true) }) // while a rollout is going on
	state := s.continues(t)
	if state.Generation != 1 || state.Current == nil || len(state.Life) != 8 || state.Last.App != "hello" {
		t.Errorf("state %+v", state)
	}

	again := newSite(t) // and the next run goes on from there
	again.after(time.Second, func() {
		if d := again.status(t); d.Machine == nil || d.Generation != 1 {
			t.Errorf("status %+v", d)
		}
		again.update(UpdateDeploy, order("/a", "y"))
	})
	again.after(time.Hour, func() { again.update(UpdateDestroy, DestroyRequest{}) })
	again.env.ExecuteWorkflow(Deployment, state)
	if err := again.env.GetWorkflowError(); err != nil {
		t.Fatal(err)
	}
	if got := again.ran[0].Spec.Tags; got.Generation != 2 || got.Life != state.Life {
		t.Errorf("tags %+v", got)
	}
}
