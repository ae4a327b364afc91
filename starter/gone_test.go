package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// A deployment whose host is gone for good can be moved or forgotten, as
// docs/targets/xen.md says.
func TestHostIsGone(t *testing.T) {
	to := withServer(t)
	serveWorkflows(t, to)
	var gone atomic.Bool
	reach := func(in step.Spec) error {
		var o struct {
			Host string `json:"host"`
		}
		if err := json.Unmarshal(in.Options, &o); err != nil || !gone.Load() || o.Host != "old" {
			return err
		}
		return workflows.Fail(&step.Error{Kind: step.NotFound, Op: "connect to old", Err: errors.New("no such host")})
	}
	serveMoon(t, to, reach)
	yaml := "app: two\ntoolchain: {kind: moon}\ntargets:\n  moved: {kind: moon, host: old}\n  dropped: {kind: moon, host: old}\n"
	inFolder(t, map[string]string{config.Filename: yaml})
	want := func(wantStatus int, wantOut string, args ...string) {
		t.Helper()
		if status, out, errOut := morgana(t, args...); status != wantStatus || !strings.Contains(out+errOut, wantOut) {
			t.Fatalf("%q: exit %d, %s%s\nwant %d, %s", args, status, out, errOut, wantStatus, wantOut)
		}
	}
	want(0, "deployed", "deploy", "--all")
	gone.Store(true)
	want(2, "error: two/moved: connect to old: no such host", "destroy")
	want(0, "two", "status")

	// Move it to another host.
	yaml = strings.Replace(yaml, "moved: {kind: moon, host: old}", "moved: {kind: moon, host: new}", 1)
	if err := os.WriteFile(config.Filename, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	want(0, "warning: could not destroy the machine of generation 1: connect to old: no such host", "deploy", "--force", "-t", "moved")
	// The machine on the old host is still known.
	want(2, "left: could not destroy the machine of generation 1: connect to old: no such host", "destroy", "-t", "moved")

	want(0, "two/moved: could not destroy the machine of generation 1: connect to old", "destroy", "-t", "moved", "--forget")

	// Forget it.
	want(0, "two/dropped: could not destroy the machine: connect to old", "destroy", "-t", "dropped", "--forget")
	want(0, "no deployments run", "status")
	want(0, "no deployment of two/dropped runs", "status", "two/dropped")
	gone.Store(false) // it comes back, with what it has
	want(0, "two/dropped: removed all", "destroy", "-t", "dropped")
}

// While a target does not answer, each command says why, and --forget ends soon.
func TestTargetDoesNotAnswer(t *testing.T) {
	to := withServer(t)
	serveWorkflows(t, to)
	var away atomic.Bool
	serveMoon(t, to, func(step.Spec) error {
		if away.Load() {
			return errors.New("connection refused")
		}
		return nil
	})
	inFolder(t, map[string]string{config.Filename: "app: two\ntoolchain: {kind: moon}\ntargets: {low: {kind: moon}}\n"})
	want := func(wantStatus int, args []string, parts ...string) {
		t.Helper()
		status, out, errOut := morgana(t, args...)
		for _, part := range parts {
			if status != wantStatus || !strings.Contains(out+errOut, part) {
				t.Errorf("%q: exit %d, %s%s\nwant %d, %s", args, status, out, errOut, wantStatus, part)
			}
		}
	}
	want(0, []string{"deploy"}, "deployed")
	want(0, []string{"status"}, "  2.2.2.2\n") // the address that the target tells, not Boot
	away.Store(true)
	want(0, []string{"status"}, "unreachable", "connection refused")
	want(0, []string{"status", "-o", "json"}, `"note":"connection refused"`)
	want(2, []string{"console"}, "error: connection refused", "hint: ")

	const waits = " of moon.Destroy follows: connection refused"
	for _, output := range []struct{ form, note string }{{"json", waits + `"}` + "\n"}, {"text", waits + "\n"}} {
		ctx, interrupt := context.WithCancel(t.Context())
		var out, errOut lines
		ended := make(chan int, 1)
		go func() { ended <- run(ctx, []string{"destroy", "-o", output.form}, &out, &errOut) }()
		said := func() bool { return out.has(output.note) || errOut.has(output.note) }
		for began := time.Now(); !said() && time.Since(began) < 2*time.Minute; time.Sleep(look) {
		}
		if output.form == "json" {
			status := func() string { _, out, errOut := morgana(t, "status"); return out + errOut }
			text := status()
			for began := time.Now(); !strings.Contains(text, waits) && time.Since(began) < 2*time.Minute; text = status() { // a try runs
			}
			if !strings.Contains(text, waits) || !strings.Contains(text, "destroying") {
				t.Errorf("status: %s", text)
			}
		}
		interrupt()
		if status := <-ended; status != interrupted || !said() || !errOut.has("detached: the destroy goes on") {
			t.Errorf("%s: exit %d, %s%s", output.form, status, &out.text, &errOut.text)
		}
	}
	want(0, []string{"destroy", "--forget"}, "two/low: could not destroy the machine: connection refused")
}

// A deploy names the rollout of a forgotten deployment that is in its way.
func TestDeployBesideAnEarlierLife(t *testing.T) {
	to := withServer(t)
	serveWorkflows(t, to)
	serveMoon(t, to, func(in step.Spec) error {
		if in.Life == "earlier" {
			return errors.New("connection refused")
		}
		return nil
	})
	tags := step.Tags{App: "two", Target: "low", Life: "earlier", Generation: 1}
	_, err := to.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: workflows.RolloutID(tags), TaskQueue: workflows.TaskQueue},
		workflows.Rollout, workflows.Request{Spec: step.Spec{Tags: tags, Kind: "moon"}, Route: step.NewRoute("moon", "moon")})
	if err != nil {
		t.Fatal(err)
	}
	inFolder(t, map[string]string{config.Filename: "app: two\ntoolchain: {kind: moon}\ntargets: {low: {kind: moon}}\n"})
	if status, _, errOut := morgana(t, "deploy"); status != 2 || !strings.Contains(errOut, "rollout/two/low/1: runs already, for an earlier life") {
		t.Errorf("exit %d, %s", status, errOut)
	}
}

// removals are the tags that moon.Destroy was called with.
var removals struct {
	sync.Mutex
	of []step.Tags
}

// serveMoon serves a kind whose steps succeed where reach does. A machine moves from address
// 1.1.1.1, which Boot returns, to 2.2.2.2. more may register further abilities.
func serveMoon(t *testing.T, to client.Client, reach func(step.Spec) error, more ...func(worker.Worker)) {
	t.Helper()
	file := step.Artifact{URI: "file:///none", SHA256: strings.Repeat("0", 64), Size: 1}
	serve(t, to, "moon", func(w worker.Worker) {
		named := func(name string) activity.RegisterOptions { return activity.RegisterOptions{Name: "moon." + name} }
		w.RegisterActivityWithOptions(func(_ context.Context, in step.Spec) (step.Spec, error) { return in, reach(in) }, named("Check"))
		w.RegisterActivityWithOptions(func(_ context.Context, in step.Spec) (step.Source, error) { return step.Source{Spec: in}, nil }, named("Configure"))
		w.RegisterActivityWithOptions(func(_ context.Context, in step.Source) (step.Kernel, error) {
			return step.Kernel{Spec: in.Spec, File: file}, nil
		}, named("Build"))
		w.RegisterActivityWithOptions(func(_ context.Context, in step.Kernel) (step.Image, error) {
			return step.Image{Spec: in.Spec, Digest: file.SHA256, Format: "kernel", Files: []step.File{{Name: "kernel", Artifact: file}}}, nil
		}, named("Package"))
		w.RegisterActivityWithOptions(func(_ context.Context, in step.Image) (step.Registration, error) {
			return step.Registration{Spec: in.Spec, Digest: in.Digest, ID: "r"}, reach(in.Spec)
		}, named("Register"))
		w.RegisterActivityWithOptions(func(_ context.Context, in step.Registration) (step.Machine, error) {
			return step.Machine{Registration: in, ID: "m", Addresses: []step.Address{{Kind: "ip", Address: "1.1.1.1"}}}, reach(in.Spec)
		}, named("Boot"))
		w.RegisterActivityWithOptions(func(_ context.Context, in step.Removal) (step.Destroyed, error) {
			removals.Lock()
			defer removals.Unlock()
			removals.of = append(removals.of, in.Spec.Tags)
			return step.Destroyed{Removed: []string{"all"}}, reach(in.Spec)
		}, named("Destroy"))
		w.RegisterActivityWithOptions(func(context.Context, step.Spec) (step.Destroyed, error) { return step.Destroyed{}, nil }, named("Clean"))
		w.RegisterActivityWithOptions(func(_ context.Context, in step.Machine) (step.Health, error) {
			now := []step.Address{{Kind: "ip", Address: "2.2.2.2"}}
			return step.Health{State: step.Running, Addresses: now}, reach(in.Registration.Spec)
		}, named("Observe"))
		w.RegisterActivityWithOptions(func(_ context.Context, in step.ConsoleFrom) (step.ConsoleText, error) {
			return step.ConsoleText{}, reach(in.Machine.Registration.Spec)
		}, named("Console"))
		for _, register := range more {
			register(w)
		}
	})
}

// A destroy and the deploy that it cancels both say so.
func TestDestroyCancelsADeploy(t *testing.T) {
	to := withServer(t)
	serveWorkflows(t, to)
	begun := make(chan bool, 1)
	serve(t, to, "moon", func(w worker.Worker) {
		named := func(name string) activity.RegisterOptions { return activity.RegisterOptions{Name: "moon." + name} }
		w.RegisterActivityWithOptions(func(_ context.Context, in step.Spec) (step.Spec, error) { return in, nil }, named("Check"))
		w.RegisterActivityWithOptions(func(ctx context.Context, _ step.Spec) (step.Source, error) {
			begun <- true
			for ctx.Err() == nil {
				activity.RecordHeartbeat(ctx)
				time.Sleep(look / 5)
			}
			return step.Source{}, ctx.Err()
		}, named("Configure"))
		w.RegisterActivityWithOptions(func(context.Context, step.Spec) (step.Destroyed, error) {
			return step.Destroyed{Removed: []string{"the tree"}}, nil
		}, named("Clean"))
		w.RegisterActivityWithOptions(func(context.Context, step.Removal) (step.Destroyed, error) { return step.Destroyed{}, nil }, named("Destroy"))
	})
	inFolder(t, map[string]string{config.Filename: "app: two\ntoolchain: {kind: moon}\ntargets: {low: {kind: moon}}\n"})
	ended := make(chan string)
	go func() {
		status, _, errOut := morgana(t, "deploy")
		ended <- fmt.Sprint(status, " ", errOut)
	}()
	<-begun
	const want = "two/low: cancelled the deploy of generation 1\ntwo/low: removed the tree\n"
	if status, out, errOut := morgana(t, "destroy"); status != 0 || out != want {
		t.Errorf("destroy: exit %d, %s%s", status, out, errOut)
	}
	if got := <-ended; got != "1 error: rollout/two/low/1: cancelled: the deployment is being destroyed\nhint: nothing of this deploy is left\n" {
		t.Errorf("deploy: exit %s", got)
	}
}
