package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/worker"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// A sweep asks Temporal after it has listed: a deploy that begins while it lists is not
// touched. Resources without a time are judged as others, and a place that does not answer
// is named while the others are swept.
func TestSweep(t *testing.T) {
	to := withServer(t)
	serveWorkflows(t, to)
	known := &connection{Client: to, namespace: "default"}
	tagsOf := func(app string) step.Tags {
		t.Helper()
		_, d, err := known.knows(t.Context(), workflows.DeploymentID(app, "two"))
		if err != nil || d.Current == nil {
			t.Fatalf("%s: %+v, %v", app, d, err)
		}
		return d.Current.Machine.Registration.Spec.Tags
	}
	var mu sync.Mutex
	var there []step.Tags
	late := false // list starts a deploy
	hostOf := func(in step.Spec) string {
		var o struct {
			Host string `json:"host"`
		}
		_ = json.Unmarshal(in.Options, &o) // as the test wrote it
		return o.Host
	}
	serveMoon(t, to, func(step.Spec) error { return nil }, func(w worker.Worker) {
		w.RegisterActivityWithOptions(func(_ context.Context, in step.Spec) (all []step.Resource, err error) {
			if hostOf(in) == "old" {
				return nil, workflows.Fail(&step.Error{Kind: step.Unauthorized, Op: "connect to old", Err: errors.New("access denied")})
			}
			mu.Lock()
			defer mu.Unlock()
			if late {
				late = false
				if status, out, errOut := morgana(t, "deploy", "--app", "late", "-t", "two"); status != 0 {
					t.Errorf("deploy: %s%s", out, errOut)
				}
				there = append(there, tagsOf("late"))
			}
			for _, tags := range there {
				all = append(all, step.Resource{Tags: tags, Kind: "rock", ID: tags.App}, step.Resource{Tags: tags, Kind: "dust", ID: tags.App, Created: time.Now()})
			}
			return all, nil
		}, activity.RegisterOptions{Name: "moon.List"})
	})
	inFolder(t, map[string]string{config.Filename: "app: live\ntoolchain: {kind: moon}\ntargets:\n  one: {kind: moon, host: old}\n  two: {kind: moon, host: new}\n"})
	for _, args := range [][]string{{"--all"}, {"--app", "dead", "-t", "two"}} {
		if status, out, errOut := morgana(t, append([]string{"deploy"}, args...)...); status != 0 {
			t.Fatalf("deploy: %s%s", out, errOut)
		}
	}
	dead, stranger := tagsOf("dead"), step.Tags{App: "strange", Target: "two", Life: "deadbeef", Generation: 3}
	mu.Lock()
	there = []step.Tags{tagsOf("live"), dead, stranger, {App: "half", Target: "two"}}
	mu.Unlock()
	if err := to.TerminateWorkflow(t.Context(), workflows.DeploymentID("dead", "two"), "", "test"); err != nil {
		t.Fatal(err)
	}
	sweep := func(args []string, wantStatus int, removed []step.Tags, texts ...string) {
		t.Helper()
		removals.Lock()
		removals.of = nil
		removals.Unlock()
		status, out, errOut := morgana(t, append([]string{"sweep", "moon"}, args...)...)
		removals.Lock()
		defer removals.Unlock()
		slices.SortFunc(removals.of, func(a, b step.Tags) int { return cmp.Compare(a.App, b.App) })
		removals.of = slices.DeleteFunc(removals.of, func(t step.Tags) bool { return t.Life == "" }) // of late's first rollout
		if status != wantStatus || !slices.Equal(removals.of, removed) {
			t.Errorf("sweep %q: exit %d, removed %+v; want %d, %+v\n%s%s", args, status, removals.of, wantStatus, removed, out, errOut)
		}
		for _, text := range texts {
			if !strings.Contains(out+errOut, text) {
				t.Errorf("sweep %q does not say %q:\n%s%s", args, text, out, errOut)
			}
		}
	}
	sweep([]string{"--dry-run"}, 1, nil, "connect to old: access denied", "moon at new: rock dead of dead/two/"+dead.Life+", generation 1\n", "dust dead of",
		"rock strange of strange/two/deadbeef, generation 3\n", "--unknown")
	sweep([]string{"--yes"}, 1, []step.Tags{dead}, "removed all")
	mu.Lock()
	late = true
	mu.Unlock()
	sweep([]string{"--yes", "--unknown"}, 1, []step.Tags{dead, stranger})
}

func TestSweepFlags(t *testing.T) {
	serveWorkflows(t, withServer(t))
	for _, k := range []struct{ args, want string }{
		{"--older-than 1d", "error: --older-than: 24h is too short\nhint: 48h or more"},
		{"--older-than soon", "error: --older-than: \"soon\" is no length of time\n"},
		{"--older-than 3d nosuch", "error: \"nosuch\" is no kind to sweep\nhint: one of command, ec2, local, mirage, qemu, store, xen"},
	} {
		status, out, errOut := morgana(t, append([]string{"sweep", "--yes"}, strings.Fields(k.args)...)...)
		if status != 2 || out != "" || !strings.HasPrefix(errOut, k.want) {
			t.Errorf("%s: status %d, %s%s", k.args, status, out, errOut)
		}
	}
}
