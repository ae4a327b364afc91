package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// A note that holds for a while is shown once, though others come and go.
func TestWaitingIsSaidOnce(t *testing.T) {
	to := withServer(t)
	serveWorkflows(t, to)
	var out, errOut lines
	serve(t, to, "moon", func(w worker.Worker) {
		named := func(name string) activity.RegisterOptions { return activity.RegisterOptions{Name: "moon." + name} }
		w.RegisterActivityWithOptions(func(_ context.Context, in step.Spec) (step.Spec, error) { return in, nil }, named("Check"))
		w.RegisterActivityWithOptions(func(context.Context, step.Spec) (step.Source, error) {
			return step.Source{}, workflows.Fail(&step.Error{Kind: step.BuildFailed, Err: errors.New("no")})
		}, named("Configure"))
		w.RegisterActivityWithOptions(func(ctx context.Context, _ step.Spec) (step.Destroyed, error) {
			if !out.has(" of moon.Clean follows: not yet") {
				return step.Destroyed{}, errors.New("not yet")
			}
			return step.Destroyed{}, out.say(ctx, step.Progress{Note: "tree 0"}, step.Progress{Note: "tree 1"}, step.Progress{Note: "tree 2"})
		}, named("Clean"))
	})
	inFolder(t, map[string]string{config.Filename: "app: two\ntoolchain: {kind: moon}\ntargets: {low: {kind: moon}}\n"})

	_ = run(t.Context(), []string{"deploy", "-o", "json"}, &out, &errOut) // it fails
	notes := map[string]int{}
	for line := range strings.Lines(out.text.String()) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Error(err)
		}
		notes[e.Note]++
	}
	delete(notes, "") // the end of a note
	for _, note := range []string{"failed; removing what it made", "tree 0", "tree 1", "tree 2"} {
		if notes[note] == 0 {
			t.Errorf("%q is not said", note)
		}
	}
	for note, n := range notes {
		if n != 1 {
			t.Errorf("%q is said %d times", note, n)
		}
	}
	if t.Failed() {
		t.Logf("%s%s", &out.text, &errOut.text)
	}
}

// say sends a heartbeat with each progress, and goes on a while after l has its note.
func (l *lines) say(ctx context.Context, all ...step.Progress) error {
	for _, p := range all {
		for !l.has(p.Note) {
			activity.RecordHeartbeat(ctx, p)
			if err := step.Pause(ctx, look/5); err != nil {
				return err
			}
		}
		if err := step.Pause(ctx, 2*look); err != nil {
			return err
		}
	}
	return nil
}

// What a step waits for is said where progress is not, and so is the end of the wait.
func TestWaitIsSaidInText(t *testing.T) {
	to := withServer(t)
	serveWorkflows(t, to)
	var out, errOut lines
	serve(t, to, "moon", func(w worker.Worker) {
		named := func(name string) activity.RegisterOptions { return activity.RegisterOptions{Name: "moon." + name} }
		w.RegisterActivityWithOptions(func(_ context.Context, in step.Spec) (step.Spec, error) { return in, nil }, named("Check"))
		w.RegisterActivityWithOptions(func(ctx context.Context, _ step.Spec) (step.Source, error) {
			silent := func(note string) error {
				activity.RecordHeartbeat(ctx, step.Progress{Note: note})
				return step.Pause(ctx, 4*look)
			}
			err := silent("looking")
			if err == nil {
				err = out.say(ctx, step.Progress{Note: "waiting for the switch of two/high's build", Waiting: true}, step.Progress{Note: "command 1"})
			}
			if err = cmp.Or(err, silent("command 2")); err != nil {
				return step.Source{}, err
			}
			return step.Source{}, workflows.Fail(&step.Error{Kind: step.BuildFailed, Err: errors.New("no")})
		}, named("Configure"))
		w.RegisterActivityWithOptions(func(context.Context, step.Spec) (step.Destroyed, error) { return step.Destroyed{}, nil }, named("Clean"))
	})
	inFolder(t, map[string]string{config.Filename: "app: two\ntoolchain: {kind: moon}\ntargets: {low: {kind: moon}}\n"})

	_ = run(t.Context(), []string{"deploy"}, &out, &errOut) // it fails
	for note, want := range map[string]int{"looking": 0, "waiting for the switch of two/high's build": 1, "command 1": 1, "command 2": 0} {
		if n := strings.Count(out.text.String(), "two/low "+note+"\n"); n != want {
			t.Errorf("%q is said %d times, want %d:\n%s%s", note, n, want, &out.text, &errOut.text)
		}
	}
}

// beWorker serves the workflows and a kind whose Configure never ends, until it
// is killed.
func beWorker() {
	to, err := client.Dial(client.Options{HostPort: os.Getenv("TEMPORAL_ADDRESS"), Namespace: os.Getenv("TEMPORAL_NAMESPACE"), Logger: silent})
	if err != nil {
		panic(err)
	}
	pipeline := worker.New(to, workflows.TaskQueue, worker.Options{})
	pipeline.RegisterWorkflow(workflows.Deployment)
	pipeline.RegisterWorkflow(workflows.Rollout)
	kind := worker.New(to, "moon", worker.Options{})
	named := func(name string) activity.RegisterOptions { return activity.RegisterOptions{Name: "moon." + name} }
	kind.RegisterActivityWithOptions(func(_ context.Context, in step.Spec) (step.Spec, error) { return in, nil }, named("Check"))
	kind.RegisterActivityWithOptions(func(ctx context.Context, _ step.Spec) (step.Source, error) {
		for i := 0; ; i++ {
			activity.RecordHeartbeat(ctx, step.Progress{Note: fmt.Sprint("file ", i)})
			if err := step.Pause(ctx, time.Second); err != nil {
				return step.Source{}, err
			}
		}
	}, named("Configure"))
	if err := errors.Join(pipeline.Start(), kind.Start()); err != nil {
		panic(err)
	}
	select {}
}

// lines is a writer for one goroutine and a reader in another.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) has(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), s)
}

// While no worker answers, deploy and destroy say so within seconds, and deploy says when
// one answers again.
func TestNoWorkerAnswers(t *testing.T) {
	withServer(t)
	work := func() (kill func()) {
		cmd := self(t)
		cmd.Env = append(os.Environ(), "BE_WORKER=1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill = func() { _, _ = cmd.Process.Kill(), cmd.Wait() } // may have been killed
		t.Cleanup(kill)
		return kill
	}
	kill := work()
	inFolder(t, map[string]string{config.Filename: "app: two\ntoolchain: {kind: moon}\ntargets: {low: {kind: moon}}\n"})
	type told struct {
		what string
		then func()
	}
	// says runs morgana until it has told everything, and acts on each.
	says := func(args []string, all ...told) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		var out, errOut lines
		ended := make(chan int, 1)
		go func() { ended <- run(ctx, args, &out, &errOut) }()
		defer func() { cancel(); <-ended }()
		for _, next := range all {
			for began := time.Now(); !out.has(next.what) && !errOut.has(next.what); time.Sleep(look) {
				if time.Since(began) > 2*time.Minute || len(ended) > 0 {
					t.Fatalf("%q did not say %q in %v:\n%s%s", args, next.what, time.Since(began), &out.text, &errOut.text)
				}
			}
			next.then()
		}
	}
	says([]string{"deploy", "-o", "json"}, told{`"note":"file `, kill},
		told{"no worker answers since ", func() { kill = work() }}, told{`"note":"a worker answers again"`, func() { kill() }})
	says([]string{"destroy"}, told{"two/low: no worker answers since ", func() {}})
}

// A board without a running stage still says what is waited for.
func TestBoardSaysWhatIsWaitedFor(t *testing.T) {
	b := &boardTarget{stages: map[string]*boardStage{}, note: "no worker answers"}
	if got := strings.Join(b.lines("two/low"), "\n"); !strings.Contains(got, "no worker answers") {
		t.Errorf("%q", got)
	}
	b.stages["check"] = &boardStage{event: event{State: string(workflows.Running)}}
	if got := strings.Join(b.lines("two/low"), "\n"); strings.Count(got, "no worker answers") != 1 {
		t.Errorf("%q", got)
	}
}

// The board shows a fetch before the stages, and no row for it if there is none.
func TestBoardShowsAFetch(t *testing.T) {
	b := &boardTarget{stages: map[string]*boardStage{}}
	if got := b.lines("two/low"); len(got) != 1+len(step.Stages) || strings.Contains(strings.Join(got, ""), "fetch") {
		t.Errorf("without a fetch: %q", got)
	}
	b.stages["fetch"] = &boardStage{event: event{State: string(workflows.Failed), Result: "no repository"}}
	if got := b.lines("two/low"); !strings.Contains(got[1], "fetch") || !strings.Contains(got[1], "no repository") || !strings.Contains(b.line("two/low"), "fetch") {
		t.Errorf("with a fetch: %q, %q", got, b.line("two/low"))
	}
}
