package main

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"go.temporal.io/api/common/v1"
	enums "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/worker"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// moon is a morgana.yaml in which each target fails in another way.
const moon = `app: two
toolchain:
  kind: moon
  rocket: 5
targets:
  low:
    kind: moon
    memory: 0
  item:
    kind: moon
    ports:
    - "8080:80"
    - host: 1
  unset:
    kind: moon
  whole:
    kind: moon
  built:
    kind: moon
  tools:
    kind: moon
`

// failures are the errors of the targets of moon.
var failures = map[string]*step.Error{
	"low":   {Kind: step.InvalidSpec, Op: "check moon target", Field: "memory", Err: errors.New("want 1 or more"), Hint: "memory: 64"},
	"item":  {Kind: step.Conflict, Field: "ports[1].host", Err: errors.New("is taken")},
	"unset": {Kind: step.Unsupported, Field: "cpu", Err: errors.New("there is none")},
	"whole": {Kind: step.Unsupported, Op: "check moon target", Err: errors.New("moon cannot boot this kernel"), Hint: "run it on a target of kind sun"},
	"built": {Kind: step.InvalidSpec, Field: "rocket", Err: errors.New("want 6")},
	"tools": {Kind: step.Unsupported, Op: "look for build tools", Err: errors.New("cc is not installed")},
}

// TestFailures: each of several failures names its deployment and its line.
func TestFailures(t *testing.T) {
	to := withServer(t)
	serveWorkflows(t, to)
	var stuck atomic.Bool
	serve(t, to, "moon", func(w worker.Worker) {
		named := func(name string) activity.RegisterOptions { return activity.RegisterOptions{Name: "moon." + name} }
		w.RegisterActivityWithOptions(func(_ context.Context, in step.Spec) (step.Spec, error) {
			if in.Target == "built" || in.Target == "tools" {
				return in, nil
			}
			return in, workflows.Fail(failures[in.Target])
		}, named("Check"))
		w.RegisterActivityWithOptions(func(_ context.Context, in step.Spec) (step.Source, error) {
			return step.Source{}, workflows.Fail(failures[in.Target])
		}, named("Configure"))
		w.RegisterActivityWithOptions(func(_ context.Context, in step.Removal) (step.Destroyed, error) {
			if stuck.Load() && (in.Spec.Target == "low" || in.Spec.Target == "item") {
				return step.Destroyed{}, workflows.Fail(&step.Error{Kind: step.Unauthorized, Op: "destroy", Err: errors.New("no key")})
			}
			return step.Destroyed{}, nil
		}, named("Destroy"))
		w.RegisterActivityWithOptions(func(context.Context, step.Spec) (step.Destroyed, error) { return step.Destroyed{}, nil }, named("Clean"))
	})
	inFolder(t, map[string]string{config.Filename: moon})

	status, out, errOut := morgana(t, "deploy", "--all")
	wantLines(t, errOut,
		"error: two/low: morgana.yaml:8: memory: want 1 or more", "hint: memory: 64",
		"error: two/item: morgana.yaml:13: ports[1].host: is taken",
		"error: two/unset: morgana.yaml:14: cpu: there is none",
		"error: two/whole: morgana.yaml:16: check moon target: moon cannot boot this kernel", "hint: run it on a target of kind sun",
		"error: two/built: morgana.yaml:4: toolchain.rocket: want 6",
		"error: two/tools: look for build tools: cc is not installed")
	if status != 2 {
		t.Errorf("exit %d\n%s", status, out)
	}
	// The failure of a single deploy has no name before it.
	if _, _, errOut = morgana(t, "deploy", "--target", "item"); errOut != "error: morgana.yaml:13: ports[1].host: is taken\n" {
		t.Errorf("of one: %s", errOut)
	}

	// They end soon after their rollouts, and later still the list of Temporal knows it.
	known := &connection{Client: to, namespace: "default"}
	for target := range failures {
		ended := to.GetWorkflow(t.Context(), workflows.DeploymentID("two", target), "")
		_ = ended.Get(t.Context(), nil) // the failure of its deploy
		listed := &workflowpb.WorkflowExecutionInfo{Execution: &common.WorkflowExecution{WorkflowId: ended.GetID(), RunId: ended.GetRunID()},
			Status: enums.WORKFLOW_EXECUTION_STATUS_RUNNING}
		if l, ok := known.describe(t.Context(), listed, false); ok {
			t.Errorf("status lists a deployment that has ended: %+v", l)
		}
	}
	status, out, errOut = morgana(t, "status", "--all", "two/whole")
	lines := strings.Split(out, "\n")
	if status != 0 || len(lines) != 3 || !strings.HasSuffix(lines[0], "  FAILURE") ||
		!strings.HasSuffix(lines[1], "  check moon target: moon cannot boot this kernel") || !strings.Contains(lines[1], " 1  ") {
		t.Errorf("status --all: exit %d\n%s%s", status, out, errOut)
	}
	_, out, _ = morgana(t, "status", "--all", "two/low", "-o", "json")
	var line struct {
		State      string
		Generation int
		Error      failure
	}
	want := failure{Kind: step.InvalidSpec, Op: "check moon target", Field: "memory", Message: "want 1 or more", Hint: "memory: 64"}
	if err := json.Unmarshal([]byte(out), &line); err != nil || line.State != "failed" || line.Generation != 1 ||
		line.Error.Kind != want.Kind || line.Error.Op != want.Op || line.Error.Field != want.Field ||
		line.Error.Message != want.Message || line.Error.Hint != want.Hint {
		t.Errorf("status --all -o json: %v, %s", err, out)
	}

	// A deployment that cannot be destroyed does not stop the others.
	stuck.Store(true)
	status, out, errOut = morgana(t, "destroy")
	wantLines(t, errOut, "error: two/low: destroy: no key", "error: two/item: destroy: no key")
	wantLines(t, out, "two/built: nothing to remove", "two/unset: nothing to remove", "two/tools: nothing to remove", "two/whole: nothing to remove")
	if status != 2 {
		t.Errorf("destroy: exit %d", status)
	}
}

// wantLines compares lines, whatever their order.
func wantLines(t *testing.T, text string, want ...string) {
	t.Helper()
	got := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
