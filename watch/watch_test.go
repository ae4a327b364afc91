package watch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/testsuite"

	"github.com/morgana-deploy/morgana/step"
)

// run runs a watch whose looks give these results in turn, the last one again and again.
// It returns the notes of the heartbeats.
func run(t *testing.T, tries Tries, stop chan struct{}, looks ...any) (h step.Health, notes []string, err error) {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestActivityEnvironment()
	env.SetOnActivityHeartbeatListener(func(_ *activity.Info, details converter.EncodedValues) {
		var p step.Progress
		if err := details.Get(&p); err != nil || p.Host != "here" {
			t.Errorf("heartbeat %+v, %v", p, err)
		}
		note, _, _ := strings.Cut(p.Note, " (looked at ")
		notes = append(notes, note)
	})
	if stop != nil {
		env.SetWorkerStopChannel(stop)
	}
	w := Watcher{Every: time.Millisecond, Host: "here", Tries: tries, Observe: func(context.Context, step.Machine) (step.Health, error) {
		next := looks[0]
		if len(looks) > 1 {
			looks = looks[1:]
		}
		if err, failed := next.(error); failed {
			return step.Health{}, err
		}
		return step.Health{State: next.(step.State), How: "as told"}, nil
	}}
	env.RegisterActivityWithOptions(w.Watch, activity.RegisterOptions{Name: "lab.Watch"})
	v, err := env.ExecuteActivity("lab.Watch", step.Machine{ID: "m"})
	if err == nil {
		err = v.Get(&h)
	}
	return h, notes, err
}

func TestWatchEndsWithTheMachine(t *testing.T) {
	running, away := step.Running, errors.New("no route to host")
	for _, test := range []struct {
		looks []any
		note  string // of the first heartbeat; the SDK holds back those that follow at once
	}{
		{[]any{step.Ended}, ""},
		{[]any{running, running, step.Gone}, "running"},
		{[]any{away, away, running, away, step.Ended}, "not reached: no route to host"},
	} {
		h, notes, err := run(t, "", nil, test.looks...)
		if want := test.looks[len(test.looks)-1].(step.State); err != nil || h.State != want || h.How != "as told" {
			t.Errorf("%v: %+v, %v", test.looks, h, err)
		}
		if first := strings.Join(notes[:min(1, len(notes))], ""); first != test.note {
			t.Errorf("%v: heartbeat %q, want %q", test.looks, first, test.note)
		}
	}
}

// A worker that is told to stop leaves the machine to another at once.
func TestWatchStopsWithTheWorker(t *testing.T) {
	stop := make(chan struct{})
	close(stop)
	folder := Tries(filepath.Join(t.TempDir(), "watch"))
	if _, _, err := run(t, folder, stop, step.Running); err == nil || !strings.Contains(err.Error(), errStopping.Error()) {
		t.Errorf("error %v", err)
	}
	if left, err := os.ReadDir(string(folder)); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestTriesAreKeptAsLongAsTheyRun(t *testing.T) {
	folder := Tries(filepath.Join(t.TempDir(), "watch"))
	release := folder.hold([]byte("one"))
	defer folder.hold([]byte("two"))()
	files, err := filepath.Glob(string(folder) + "/*")
	if err != nil || len(files) != 2 {
		t.Fatalf("files %q, %v", files, err)
	}
	release()
	files, _ = filepath.Glob(string(folder) + "/*")
	if text, err := os.ReadFile(files[0]); err != nil || len(files) != 1 || string(text) != "two" {
		t.Errorf("files %q, %q, %v", files, text, err)
	}
}

// A machine that does not answer in time does not hold up the answers about others.
func TestAllAnswersInTime(t *testing.T) {
	spec := step.Spec{Tags: step.Tags{App: "a", Target: "b", Life: "c", Generation: 1}, Kind: "lab"}
	machine := func(id string) step.Machine {
		return step.Machine{ID: id, Registration: step.Registration{Spec: spec, Digest: strings.Repeat("0", 64)}}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // sooner than LookTime
	defer cancel()
	hangs := make(chan bool)
	defer close(hangs)
	out, err := All(func(_ context.Context, m step.Machine) (step.Health, error) {
		switch m.ID {
		case "hangs":
			<-hangs
		case "away":
			return step.Health{}, errors.New("no route to host")
		}
		return step.Health{State: step.Running, How: m.ID}, nil
	})(ctx, []step.Machine{machine("up"), machine("hangs"), machine("away"), {ID: "../.."}, machine("also up")})
	if err != nil || len(out) != 5 {
		t.Fatalf("%+v, %v", out, err)
	}
	for i, want := range []string{"up", "no answer within 8s", "no route to host", "", "also up"} {
		got := out[i].Failure
		if out[i].Health != nil {
			got = out[i].Health.How
		}
		if i != 3 && got != want || i == 3 && out[i].Health != nil {
			t.Errorf("%d: %s, want %s", i, got, want)
		}
	}
}
