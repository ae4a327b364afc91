package workflows

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// watchedSite is a site whose machines end as its test says.
type watchedSite struct {
	*site
	began time.Time
	boots []time.Duration // since began, of the restarts
	next  int             // number of the next restart's machine
	// watches counts the watches that began, stopped those that were cancelled.
	watches, stopped int
}

var (
	crashed = step.Health{State: step.Ended, How: "crashed"}
	succeed = step.Health{State: step.Ended, How: "exit status 0", Success: true}
	gone    = step.Health{State: step.Gone}
)

func newWatchedSite(t *testing.T) *watchedSite {
	w := &watchedSite{site: newSite(t)}
	w.took = 0
	w.outcome = func(in Request) Outcome {
		spec := in.Spec
		spec.Host = "h1"
		return Outcome{Machine: step.Machine{ID: "first", Registration: step.Registration{Spec: spec, Digest: digest("1")}}}
	}
	w.began = w.env.Now()
	w.env.SetOnActivityStartedListener(func(info *activity.Info, _ context.Context, _ converter.EncodedValues) {
		if info.ActivityType.Name == "lab.Watch" {
			w.watches++
		}
	})
	w.env.SetOnActivityCanceledListener(func(info *activity.Info) {
		if info.ActivityType.Name == "lab.Watch" {
			w.stopped++
		}
	})
	register(w.recorded, "Watch", func(context.Context, step.Machine) (h step.Health, _ error) { return h, nil })
	register(w.recorded, "Boot", func(_ context.Context, in step.Registration) (step.Machine, error) {
		w.next++
		w.boots = append(w.boots, w.env.Now().Sub(w.began))
		return step.Machine{Registration: in, ID: fmt.Sprintf("again-%d", w.next)}, nil
	})
	return w
}

// ends makes the next watch return that long after it began.
func (w *watchedSite) ends(after time.Duration, h step.Health) {
	w.env.OnActivity("lab.Watch", mock.Anything, mock.Anything).Return(h, nil).After(after).Once()
}

// runs makes all further watches last.
func (w *watchedSite) runs() { w.ends(100_000*time.Hour, gone) }

// deploy requests a deploy with a restart policy.
func (w *watchedSite) deploy(restart step.RestartPolicy) {
	in := order("/a", "x")
	in.Policy.Restart = restart
	w.update(UpdateDeploy, in)
}

func TestRestartByPolicy(t *testing.T) {
	for _, test := range []struct {
		restart  step.RestartPolicy
		ended    step.Health
		restarts int
		watches  int
	}{
		{step.RestartAlways, crashed, 1, 2},
		{step.RestartAlways, succeed, 1, 2},
		{step.RestartAlways, gone, 1, 2},
		{step.RestartOnFailure, crashed, 1, 2},
		{step.RestartOnFailure, succeed, 0, 1},
		{step.RestartOnFailure, gone, 1, 2},
		{step.RestartNever, crashed, 0, 0},
		{"", crashed, 0, 0},
	} {
		t.Run(fmt.Sprintf("%s, %s", test.restart, test.ended.Text()), func(t *testing.T) {
			w, kept := newWatchedSite(t), 0
			register(w.recorded, "Destroy", func(_ context.Context, in step.Removal) (out step.Destroyed, err error) {
				if in.KeepImage {
					kept++
				}
				return out, nil
			})
			w.ends(time.Hour, test.ended)
			w.runs()
			w.after(0, func() { w.deploy(test.restart) })
			w.until(t, 2*time.Hour, func(s DeploymentStatus) {
				want := "first"
				if test.restarts > 0 {
					want = "again-1"
				}
				if s.Restarts != test.restarts || s.Machine.ID != want || s.Machine.Ended != (test.restart == step.RestartOnFailure && test.ended.Success) {
					t.Errorf("status %+v", s)
				}
			})
			destroys := slices.DeleteFunc(w.calls, func(c string) bool { return c != "Destroy lab@h1 generation 1" && c != "Boot lab@h1" })
			if w.watches != test.watches {
				t.Errorf("%d watches, want %d", w.watches, test.watches)
			}
			if kept != test.restarts || len(destroys) != 2*test.restarts || test.restarts > 0 && destroys[1] != "Boot lab@h1" {
				t.Errorf("calls %q", destroys)
			}
		})
	}
}

// A machine that ended before boot returned has not ended with success unless the watch
// says so.
func TestOnFailureOfAMachineThatEndedInBoot(t *testing.T) {
	for _, test := range []struct {
		ended    step.Health
		restarts int
	}{{crashed, 5}, {succeed, 0}} {
		w := newWatchedSite(t)
		w.outcome = func(in Request) Outcome {
			spec := in.Spec
			spec.Host = "h1"
			return Outcome{Machine: step.Machine{ID: "first", Ended: true, Registration: step.Registration{Spec: spec, Digest: digest("1")}}}
		}
		register(w.recorded, "Begin", func(_ context.Context, in step.Registration) (step.Machine, error) {
			return step.Machine{Registration: in, ID: "again", Ended: true}, nil
		})
		for range 5 {
			w.ends(time.Minute, test.ended)
		}
		w.runs()
		w.after(0, func() {
			in := order("/a", "x")
			in.Policy.Restart, in.Route.Boot.Activity = step.RestartOnFailure, "lab.Begin"
			w.update(UpdateDeploy, in)
		})
		w.until(t, 2*time.Hour, func(s DeploymentStatus) {
			if s.Restarts != test.restarts || test.restarts == 0 && w.watches != 1 {
				t.Errorf("%s: %d restarts, %d watches, want %d restarts", test.ended.Text(), s.Restarts, w.watches, test.restarts)
			}
		})
	}
}

// Whoever restarts a machine that ends at once must not do so without a pause.
func TestPausesOfRestartsGrow(t *testing.T) {
	w := newWatchedSite(t)
	for range 11 {
		w.ends(0, crashed)
	}
	w.ends(11*time.Minute, crashed) // it ran for a while
	w.runs()
	w.after(0, func() { w.deploy(step.RestartAlways) })
	w.until(t, 2*time.Hour, func(s DeploymentStatus) {
		if s.Restarts != 12 || s.Watch.InRow != 1 || !s.Watch.Due.IsZero() || s.Watch.Ended.How != "crashed" {
			t.Errorf("status %+v", s)
		}
	})
	var pauses []int
	last := time.Duration(0)
	for _, at := range w.boots {
		pauses = append(pauses, int((at-last)/time.Second))
		last = at
	}
	if want := []int{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 11*60 + 1}; !slices.Equal(pauses, want) {
		t.Errorf("pauses %v, want %v", pauses, want)
	}
}

func TestARestartThatFailsIsTriedAgain(t *testing.T) {
	w := newWatchedSite(t)
	w.ends(time.Hour, gone)
	w.runs()
	w.fail["Boot"] = &step.Error{Kind: step.BootFailed, Err: errors.New("no console")}
	w.after(0, func() { w.deploy(step.RestartAlways) })
	w.after(time.Hour+4*time.Second, func() {
		if s := w.status(t); s.Watch.Failure != "no console" || s.Watch.InRow != 2 || s.Restarts != 0 || s.Machine.ID != "first" {
			t.Errorf("status %+v", s)
		}
		w.fail = map[string]error{}
	})
	w.until(t, time.Minute, func(s DeploymentStatus) {
		if s.Watch.Failure != "" || s.Restarts != 1 || s.Machine.ID != "again-1" {
			t.Errorf("status %+v", s)
		}
	})
}

// A request does not wait for the end of a pause, and a deploy for that of a restart.
func TestRequestsInterruptARestart(t *testing.T) {
	t.Run("deploy in a pause", func(t *testing.T) {
		w := newWatchedSite(t)
		for range 10 {
			w.ends(0, crashed)
		}
		w.runs()
		w.after(0, func() { w.deploy(step.RestartAlways) })
		w.after(1000*time.Second, func() { // the pause lasts from 811 to 1111 s
			w.update(UpdateDeploy, order("/a", "y"))
		})
		w.until(t, time.Second, func(s DeploymentStatus) {
			if len(w.ran) != 2 || s.Machine.ID != "first" || s.Machine.Registration.Spec.Generation != 2 || !s.Watch.Due.IsZero() || s.Restarts != 0 {
				t.Errorf("%d rollouts, status %+v", len(w.ran), s)
			}
		})
	})
	t.Run("deploy in a boot", func(t *testing.T) {
		w := newWatchedSite(t)
		w.ends(time.Minute, crashed)
		w.runs()
		w.env.OnActivity("lab.Boot", mock.Anything, mock.Anything).Return(step.Machine{}, temporal.NewCanceledError()).After(time.Hour)
		w.result[2] = &step.Error{Kind: step.BuildFailed, Err: errors.New("no gcc")}
		w.after(0, func() { w.deploy(step.RestartAlways) })
		w.after(2*time.Minute, func() { w.update(UpdateDeploy, order("/a", "y")) })
		w.until(t, time.Second, func(s DeploymentStatus) { // it was interrupted, so it has not failed
			if len(w.ran) != 2 || s.Failure != "no gcc" || s.Watch.Failure != "" || s.Watch.InRow != 0 || !s.Watch.Due.IsZero() {
				t.Errorf("%d rollouts, status %+v", len(w.ran), s)
			}
		})
	})
	t.Run("destroy in a pause", func(t *testing.T) {
		w := newWatchedSite(t)
		for range 10 {
			w.ends(0, crashed)
		}
		w.after(0, func() { w.deploy(step.RestartAlways) })
		w.until(t, 1000*time.Second, nil)
		if at := w.env.Now().Sub(w.began); at > 1001*time.Second {
			t.Errorf("it ended after %s", at)
		}
	})
}

// A machine may end while a rollout runs that then fails.
func TestAMachineThatEndedInARolloutIsRestarted(t *testing.T) {
	w := newWatchedSite(t)
	w.ends(100*time.Hour, gone) // cancelled by the deploy
	w.ends(0, gone)             // the look after it
	w.runs()
	w.result[2] = &step.Error{Kind: step.BuildFailed, Err: errors.New("no gcc")}
	w.after(0, func() { w.deploy(step.RestartAlways) })
	w.after(time.Hour, func() {
		w.took = time.Hour
		in := order("/a", "y")
		w.update(UpdateDeploy, in) // with restart never, which it does not come to
	})
	w.until(t, 2*time.Hour, func(s DeploymentStatus) {
		if s.Failure != "no gcc" || w.stopped != 1 || s.Restarts != 1 || s.Machine.ID != "again-1" || s.Policy.Restart != step.RestartAlways {
			t.Errorf("status %+v", s)
		}
	})
}

// A watch whose worker was restarted nine times in a machine's life begins again at once.
func TestTheWatchBeginsAgainAtOnce(t *testing.T) {
	w := newWatchedSite(t)
	var starts []time.Time
	w.env.RegisterActivityWithOptions(func(context.Context, step.Machine) (step.Health, error) {
		if starts = append(starts, w.env.Now()); len(starts) <= 9 {
			return step.Health{}, Fail(&step.Error{Err: errors.New("the worker stopped")})
		}
		return gone, nil
	}, activity.RegisterOptions{Name: "lab.Look"})
	w.after(0, func() {
		in := order("/a", "x")
		in.Policy.Restart, in.Route.Watch.Activity = step.RestartAlways, "lab.Look"
		w.update(UpdateDeploy, in)
	})
	w.until(t, time.Hour, nil)
	if len(starts) < 10 {
		t.Fatalf("%d starts", len(starts))
	}
	for i := range 9 {
		if pause := starts[i+1].Sub(starts[i]); pause > 2*time.Second {
			t.Errorf("pause %d: %s", i+1, pause)
		}
	}
}

func TestAKindWithoutWatchIsNotWatched(t *testing.T) {
	w := newWatchedSite(t)
	absent := temporal.NewApplicationError("unable to find activityType=lab.Watch", "ActivityNotRegisteredError")
	w.env.OnActivity("lab.Watch", mock.Anything, mock.Anything).Return(gone, absent).Once()
	w.ends(0, crashed) // a worker that has it came an hour later
	w.runs()
	w.after(0, func() { w.deploy(step.RestartAlways) })
	w.after(time.Minute, func() {
		if s := w.status(t); s.Watch.Unwatched != "no worker of its kind has the activity lab.Watch" || s.Restarts != 0 {
			t.Errorf("status %+v", s)
		}
	})
	w.until(t, 2*time.Hour, func(s DeploymentStatus) {
		if s.Watch.Unwatched != "" || s.Restarts != 1 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestContinuingAsNewKeepsThePause(t *testing.T) {
	w := newWatchedSite(t)
	for range 11 {
		w.ends(0, crashed)
	}
	w.after(0, func() { w.deploy(step.RestartAlways) })
	w.after(1000*time.Second, func() { w.env.SetContinueAsNewSuggested(true) }) // in the pause from 811 to 1111 s
	w.after(time.Second, func() { w.update("nothing", nil) })                   // a workflow task
	state := w.continues(t)
	if state.Watch.InRow < 9 || state.Watch.Due.IsZero() || state.Policy.Restart != step.RestartAlways {
		t.Fatalf("state %+v", state.Watch)
	}
	again := newWatchedSite(t)
	again.env.SetStartTime(state.Watch.Due.Add(-time.Minute))
	again.began = state.Watch.Due.Add(-time.Minute)
	again.runs()
	again.after(time.Hour, func() { again.update(UpdateDestroy, DestroyRequest{}) })
	again.env.ExecuteWorkflow(Deployment, state)
	if err := again.env.GetWorkflowError(); err != nil || !slices.Equal(again.boots, []time.Duration{time.Minute}) {
		t.Errorf("boots %v, error %v", again.boots, err)
	}
}

// The steps inserted after boot, as one that registers the address, run in a restart too.
func TestRestartRunsInsertedSteps(t *testing.T) {
	w := newWatchedSite(t)
	register(w.recorded, "Announce", func(_ context.Context, in step.Machine) (step.Machine, error) { in.Ready = "announced"; return in, nil })
	w.ends(time.Hour, gone)
	w.runs()
	w.after(0, func() {
		in := order("/a", "x")
		in.Policy.Restart = step.RestartAlways
		in.Route.After = map[step.Stage][]step.Step{step.Boot: {{Activity: "lab.Announce", TaskQueue: "lab"}}}
		w.update(UpdateDeploy, in)
	})
	w.until(t, 2*time.Hour, func(s DeploymentStatus) {
		if s.Machine.Ready != "announced" {
			t.Errorf("status %+v, calls %s", s, strings.Join(w.calls, ", "))
		}
	})
}

// A cancellation that comes in the task in which continue-as-new is suggested is not lost.
func TestCancelAtContinueAsNew(t *testing.T) {
	w := newWatchedSite(t)
	w.runs()
	w.after(0, func() { w.deploy(step.RestartAlways) })
	w.after(time.Hour, w.env.CancelWorkflow)
	both := func(ctx workflow.Context, state DeploymentState) (err error) {
		done := false
		workflow.Go(ctx, func(ctx workflow.Context) { // it runs before the Deployment in each task
			ctx.Done().Receive(ctx, nil)
			w.env.SetContinueAsNewSuggested(true)
		})
		workflow.Go(ctx, func(ctx workflow.Context) {
			err = Deployment(ctx, state)
			done = true
		})
		lasts, stop := workflow.NewDisconnectedContext(ctx)
		defer stop()
		_ = workflow.Await(lasts, func() bool { return done }) // not cancelled
		return err
	}
	w.env.RegisterWorkflow(both)
	w.env.ExecuteWorkflow(both, DeploymentState{})
	if err := w.env.GetWorkflowError(); !temporal.IsCanceledError(err) || !slices.Contains(w.calls, "Destroy lab@h1 generation 0") {
		t.Errorf("%v; calls %q", err, w.calls)
	}
}
