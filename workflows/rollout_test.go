package workflows

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"

	"github.com/morgana-deploy/morgana/step"
)

// recorded is a target and toolchain whose steps are done here, and noted in order.
type recorded struct {
	env   *testsuite.TestWorkflowEnvironment
	calls []string
	// mu is held by each step: some run at the same time.
	mu sync.Mutex
	// fail gives a step's error by its name, "Build".
	fail map[string]error
	// failAt gives it by the task queue.
	failAt map[string]error
	// gone counts how often Build finds its tree gone.
	gone int
	// digest is of the image that Package makes.
	digest string
	// unscheduled are the deployments whose schedules were removed; unschedule fails that.
	unscheduled []string
	unschedule  error
}

var quiet = log.NewStructuredLogger(slog.New(slog.DiscardHandler))

// newEnvironment returns one whose limits of real time are for a busy host: by default a
// workflow task that takes a second fails.
func newEnvironment() *testsuite.TestWorkflowEnvironment {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(quiet)
	env := suite.NewTestWorkflowEnvironment()
	env.SetTestTimeout(2 * time.Minute)
	env.SetWorkerOptions(worker.Options{DeadlockDetectionTimeout: 2 * time.Minute})
	return env
}

func newRecorded(t *testing.T) *recorded {
	t.Helper()
	r := &recorded{env: newEnvironment(), fail: map[string]error{}, failAt: map[string]error{}, digest: digest("1")}
	register(r, "Check", func(_ context.Context, in step.Spec) (step.Spec, error) { in.Host = "h1"; return in, nil })
	register(r, "Configure", func(_ context.Context, in step.Spec) (step.Source, error) {
		return step.Source{Spec: in, Host: "b1", Tree: "/tree", Log: &step.Artifact{URI: "file:///configured"}}, nil
	})
	register(r, "Build", func(_ context.Context, in step.Source) (step.Kernel, error) {
		if r.gone > 0 {
			r.gone--
			return step.Kernel{}, &step.Error{Kind: step.TreeGone, Op: "find", Err: errors.New("no tree")}
		}
		return step.Kernel{Spec: in.Spec, File: step.Artifact{URI: "file:///k", SHA256: digest("0")}}, nil
	})
	register(r, "Package", func(_ context.Context, in step.Kernel) (step.Image, error) {
		return step.Image{Spec: in.Spec, Digest: r.digest}, nil
	})
	register(r, "Register", func(_ context.Context, in step.Image) (step.Registration, error) {
		return step.Registration{Spec: in.Spec, Digest: in.Digest, ID: "reg"}, nil
	})
	register(r, "Boot", func(_ context.Context, in step.Registration) (step.Machine, error) {
		return step.Machine{Registration: in, ID: fmt.Sprintf("machine-%d", in.Spec.Generation)}, nil
	})
	register(r, "Destroy", func(_ context.Context, in step.Removal) (step.Destroyed, error) {
		return step.Destroyed{Removed: []string{fmt.Sprintf("machine-%d of %s", in.Spec.Generation, in.Spec.Host)}}, nil
	})
	register(r, "Clean", func(context.Context, step.Spec) (step.Destroyed, error) { return step.Destroyed{}, nil })
	register(r, "Sign", func(_ context.Context, in step.Image) (step.Image, error) { in.Digest = digest("5"); return in, nil })
	r.env.RegisterActivityWithOptions(func(_ context.Context, t step.Tags) (step.Destroyed, error) {
		r.unscheduled = append(r.unscheduled, t.App+"/"+t.Target)
		return step.Destroyed{}, r.unschedule
	}, activity.RegisterOptions{Name: ActivityUnschedule})
	return r
}

// digest is 64 of a digit.
func digest(digit string) string { return strings.Repeat(digit, 64) }

// register makes activity "lab.<name>" of f, on whatever queue it is called.
func register[In, Out any](r *recorded, name string, f func(context.Context, In) (Out, error)) {
	r.env.RegisterActivityWithOptions(func(ctx context.Context, in In) (out Out, err error) {
		info := activity.GetInfo(ctx)
		r.mu.Lock()
		defer r.mu.Unlock()
		call := name + " " + info.TaskQueue
		if what, ok := any(in).(step.Removal); ok {
			call += fmt.Sprintf(" generation %d", what.Spec.Generation)
			if what.NotLife != "" {
				call += " sparing life " + what.NotLife
			}
		}
		r.calls = append(r.calls, call)
		if err := cmp.Or(r.fail[name], r.failAt[info.TaskQueue]); err != nil {
			return out, Fail(err)
		}
		out, err = f(ctx, in)
		return out, Fail(err)
	}, activity.RegisterOptions{Name: "lab." + name})
}

func (r *recorded) request() Request {
	return Request{
		Spec: step.Spec{Tags: step.Tags{App: "hello", Target: "dev", Life: "aa", Generation: 2}, Kind: "lab",
			Toolchain: step.Recipe{Kind: "lab"}},
		Route: step.NewRoute("lab", "lab"),
	}
}

// replaces makes the rollout of generation 2 one that replaces generation 1.
func (in *Request) replaces(image string) {
	old := step.Registration{Spec: in.Spec, Digest: digest(image)}
	old.Spec.Generation, old.Spec.Host = 1, "h0"
	in.Current = &Current{Machine: step.Machine{Registration: old, ID: "machine-1"}, Route: in.Route}
}

func (r *recorded) query(t *testing.T, name string, answer any) {
	t.Helper()
	v, err := r.env.QueryWorkflow(name)
	if err == nil {
		err = v.Get(answer)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// called compares the calls of the steps.
func (r *recorded) called(t *testing.T, want []string) {
	t.Helper()
	if !slices.Equal(r.calls, want) {
		t.Errorf("calls\n got %q\nwant %q", r.calls, want)
	}
}

func (r *recorded) rollout(in Request) (out Outcome, err error) {
	r.env.ExecuteWorkflow(Rollout, in)
	if err := r.env.GetWorkflowError(); err != nil {
		return out, err
	}
	return out, r.env.GetWorkflowResult(&out)
}

var whole = []string{"Check lab", "Configure lab", "Build lab@b1", "Package lab", "Register lab@h1", "Boot lab@h1"}

func TestRolloutRunsTheSentence(t *testing.T) {
	r := newRecorded(t)
	out, err := r.rollout(r.request())
	if err != nil {
		t.Fatal(err)
	}
	if out.Machine.ID != "machine-2" || out.Unchanged {
		t.Errorf("outcome %+v", out)
	}
	r.called(t, append(slices.Clone(whole), "Destroy lab@h1 generation 0 sparing life aa", "Clean lab@b1"))
}

// A failure at each stage undoes what came before and may have happened, last
// first, and nothing else.
func TestRolloutUndoes(t *testing.T) {
	undone := map[string][]string{
		"Check":     nil,
		"Configure": {"Clean lab"}, // the host is not known: it never answered
		"Build":     {"Clean lab@b1"},
		"Package":   {"Clean lab@b1"},
		"Register":  {"Destroy lab@h1 generation 2", "Clean lab@b1"},
		"Boot":      {"Destroy lab@h1 generation 2", "Clean lab@b1"},
	}
	for i, stage := range []string{"Check", "Configure", "Build", "Package", "Register", "Boot"} {
		t.Run(stage, func(t *testing.T) {
			r := newRecorded(t)
			r.fail[stage] = &step.Error{Kind: step.Unsupported, Op: "try", Hint: "do not", Err: errors.New("no luck")}
			_, err := r.rollout(r.request())
			f := Failure(err)
			if f == nil || f.Kind != step.Unsupported || f.Error() != "try: no luck" || f.Hint != "do not" || len(f.Left) != 0 {
				t.Errorf("failure %+v", f)
			}
			r.called(t, append(slices.Clone(whole[:i+1]), undone[stage]...))
		})
	}
}

// A tree is removed where it was made, if configure says where it failed. The field of
// the error is a path in morgana.yaml.
func TestRolloutCleansWhereConfigureFailed(t *testing.T) {
	r := newRecorded(t)
	r.fail["Configure"] = &step.Error{Kind: step.InvalidSpec, Host: "b7", Field: "build[1]", Err: errors.New("no luck")}
	if _, err := r.rollout(r.request()); Failure(err).Host != "b7" || Failure(err).Error() != "toolchain.build[1]: no luck" {
		t.Errorf("failure %+v", Failure(err))
	}
	r.called(t, append(slices.Clone(whole[:2]), "Clean lab@b7"))
}

// Cancelling in each stage undoes as a failure does. (That undo waits for the
// step to stop is tested on a real server: the test environment does not.)
func TestRolloutCancelled(t *testing.T) {
	for i, stage := range []string{"Check", "Configure", "Build", "Package", "Register", "Boot"} {
		t.Run(stage, func(t *testing.T) {
			r := newRecorded(t)
			r.env.OnActivity("lab."+stage, mock.Anything, mock.Anything).Return(nil, nil).After(time.Hour)
			r.env.RegisterDelayedCallback(r.env.CancelWorkflow, time.Minute/2)
			_, err := r.rollout(r.request())
			if removed := details(err).Removed; !temporal.IsCanceledError(err) || len(removed) != i/4 {
				t.Errorf("want a cancelled workflow, got %v, removed %v", err, removed)
			}
			var got []string
			for _, c := range r.calls[i:] { // those before it did their work
				got = append(got, strings.Fields(c)[0])
			}
			want := [][]string{nil, {"Clean"}, {"Clean"}, {"Clean"}, {"Destroy", "Clean"}, {"Destroy", "Clean"}}[i]
			if !slices.Equal(got, want) {
				t.Errorf("then %q, want %q (calls %q)", got, want, r.calls)
			}
		})
	}
}

func TestRolloutKeepLeavesThePieces(t *testing.T) {
	r := newRecorded(t)
	r.fail["Boot"] = &step.Error{Kind: step.BootFailed, Err: errors.New("silent")}
	in := r.request()
	in.Keep = true
	_, err := r.rollout(in)
	if f := Failure(err); len(f.Left) != 2 {
		t.Errorf("want what was kept named, got %+v", f)
	}
	r.called(t, whole)
}

func TestRolloutNamesWhatItCouldNotUndo(t *testing.T) {
	r := newRecorded(t)
	r.fail["Boot"] = &step.Error{Kind: step.BootFailed, Err: errors.New("silent")}
	r.fail["Destroy"] = &step.Error{Kind: step.Unauthorized, Op: "terminate", Err: errors.New("access denied")}
	_, err := r.rollout(r.request())
	f := Failure(err)
	if f.Kind != step.BootFailed || len(f.Left) != 1 || !strings.Contains(f.Left[0], "terminate: access denied") {
		t.Errorf("failure %+v", f)
	}
}

func TestRolloutConfiguresAgainWhereTheTreeIsGone(t *testing.T) {
	r := newRecorded(t)
	r.gone = 2
	if _, err := r.rollout(r.request()); err != nil {
		t.Fatal(err)
	}
	again := []string{"Configure lab", "Build lab@b1"}
	r.called(t, slices.Concat(whole[:1], again, again, again, whole[3:],
		[]string{"Destroy lab@h1 generation 0 sparing life aa", "Clean lab@b1", "Clean lab@b1", "Clean lab@b1"}))

	r = newRecorded(t)
	r.gone = maxConfigures
	if _, err := r.rollout(r.request()); Failure(err) == nil || Failure(err).Kind != step.TreeGone {
		t.Errorf("want it to give up, got %v", err)
	}
}

func TestRolloutKeepsAnUnchangedMachine(t *testing.T) {
	r := newRecorded(t)
	in := r.request()
	in.replaces("1")
	out, err := r.rollout(in)
	if err != nil {
		t.Fatal(err)
	}
	if !out.Unchanged || out.Machine.ID != "machine-1" {
		t.Errorf("outcome %+v", out)
	}
	r.called(t, append(slices.Clone(whole[:4]), "Boot lab@h0", "Clean lab@b1"))
}

// Another kind of target knows nothing of the old machine: the steps that made
// it end it.
func TestRolloutRetiresByTheOldPlan(t *testing.T) {
	r := newRecorded(t)
	in := r.request()
	in.replaces("1")
	before := step.NewRoute("lab", "lab")
	before.Boot.TaskQueue, before.Destroy.TaskQueue = "old", "old"
	in.Current.Route = before
	if out, err := r.rollout(in); err != nil || out.Unchanged {
		t.Errorf("outcome %+v, %v", out, err)
	}
	if want := "Destroy old@h0 generation 1"; !slices.Contains(r.calls, want) {
		t.Errorf("calls %q lack %q", r.calls, want)
	}
}

// What nobody could begin needs no undoing, which nobody could do either.
func TestRolloutDoesNotUndoWhatNeverBegan(t *testing.T) {
	r := newRecorded(t)
	r.env.OnActivity("lab.Configure", mock.Anything, mock.Anything).
		Return(step.Source{}, temporal.NewTimeoutError(enums.TIMEOUT_TYPE_SCHEDULE_TO_START, nil))
	if _, err := r.rollout(r.request()); Failure(err).Kind != step.NoWorker {
		t.Errorf("failure %+v", Failure(err))
	}
	r.called(t, whole[:1])
}

// A machine that has ended, or is gone, is replaced though the image is the same.
func TestRolloutReplacesAnUnchangedMachineThatIsGone(t *testing.T) {
	for _, gone := range []error{nil, &step.Error{Kind: step.NotFound, Err: errors.New("no such machine")}} {
		r := newRecorded(t)
		in := r.request()
		in.replaces("1")
		r.env.OnActivity("lab.Boot", mock.Anything, mock.Anything).Return(
			func(_ context.Context, in step.Registration) (step.Machine, error) {
				if in.Spec.Generation == 1 {
					return step.Machine{Registration: in, Ended: true}, Fail(gone)
				}
				return step.Machine{Registration: in, ID: "machine-2"}, nil
			})
		out, err := r.rollout(in)
		if err != nil || out.Unchanged || out.Machine.ID != "machine-2" {
			t.Errorf("outcome %+v, %v", out, err)
		}
		if want := "Destroy lab@h0 generation 1"; !slices.Contains(r.calls, want) {
			t.Errorf("calls %q lack %q", r.calls, want)
		}
	}
}

// The machine that ran before goes after the new one is ready, and a leftover
// does not make the deploy fail.
func TestRolloutRetiresTheOldMachine(t *testing.T) {
	for _, denied := range []bool{false, true} {
		r := newRecorded(t)
		in := r.request()
		in.replaces("0")
		if denied {
			r.fail["Destroy"] = &step.Error{Kind: step.Unauthorized, Err: errors.New("access denied")}
		}
		out, err := r.rollout(in)
		if err != nil || out.Machine.ID != "machine-2" || (len(out.Left) == 1) != denied {
			t.Errorf("outcome %+v, %v", out, err)
		}
		r.called(t, append(slices.Clone(whole), "Destroy lab@h0 generation 1", "Clean lab@b1"))
	}
}

func TestRolloutSaysThatNobodyPolls(t *testing.T) {
	r := newRecorded(t)
	r.env.OnActivity("lab.Check", mock.Anything, mock.Anything).
		Return(step.Spec{}, temporal.NewTimeoutError(enums.TIMEOUT_TYPE_SCHEDULE_TO_START, nil))
	_, err := r.rollout(r.request())
	if f := Failure(err); f.Kind != step.NoWorker || f.Err.Error() != `no worker polls task queue "lab"` {
		t.Errorf("failure %+v", f)
	}
	if len(r.calls) != 0 {
		t.Errorf("calls %q", r.calls)
	}
}

func TestInsertedStepChangesTheValue(t *testing.T) {
	r := newRecorded(t)
	in := r.request()
	in.Route.After = map[step.Stage][]step.Step{step.Package: {{Activity: "lab.Sign", TaskQueue: "sign"}}}
	out, err := r.rollout(in)
	if err != nil {
		t.Fatal(err)
	}
	if got := out.Machine.Registration.Digest; got != digest("5") {
		t.Errorf("digest %q", got)
	}
	if !slices.Contains(r.calls, "Sign sign") {
		t.Errorf("calls %q", r.calls)
	}
}

func TestPassingTroubleIsRetried(t *testing.T) {
	r := newRecorded(t)
	tries := 0
	r.env.OnActivity("lab.Register", mock.Anything, mock.Anything).Return(
		func(_ context.Context, in step.Image) (step.Registration, error) {
			if tries++; tries < 3 {
				return step.Registration{}, Fail(errors.New("connection reset"))
			}
			return step.Registration{Spec: in.Spec, Digest: in.Digest}, nil
		})
	if _, err := r.rollout(r.request()); err != nil || tries != 3 {
		t.Errorf("tries %d, %v", tries, err)
	}
}
