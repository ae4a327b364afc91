package main

import (
	"path/filepath"
	"strings"
	"testing"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/store"
	"github.com/morgana-deploy/morgana/workflows"
)

// The Deployment knows the logs of a rollout whose history the server has dropped.
func TestLogsWithoutHistory(t *testing.T) {
	to := withServer(t)
	folder := filepath.Join(t.TempDir(), "store")
	t.Setenv("MORGANA_STORE", "file://"+folder)
	s, err := store.Open(t.Context(), "file://"+folder)
	if err != nil {
		t.Fatal(err)
	}
	log, err := s.Put(t.Context(), strings.NewReader("==> make\nok\n"))
	if err != nil || s.Close() != nil {
		t.Fatal(err)
	}
	serve(t, to, workflows.TaskQueue, func(w worker.Worker) {
		w.RegisterWorkflowWithOptions(func(ctx workflow.Context) error {
			err := workflow.SetQueryHandler(ctx, workflows.QueryHistory, func() ([]workflows.Generation, error) {
				return []workflows.Generation{{Generation: 1, Logs: []step.File{{Name: "build", Artifact: log}}},
					{Generation: 2, Of: 1}, {Generation: 3, Of: 2}}, nil
			})
			if err != nil {
				return err
			}
			return workflow.Await(ctx, func() bool { return false })
		}, workflow.RegisterOptions{Name: "Deployment"})
		w.RegisterWorkflowWithOptions(func(ctx workflow.Context, tags step.Tags) error { // a rollback builds nothing
			err := workflow.SetQueryHandler(ctx, workflows.QueryStatus, func() (workflows.RolloutStatus, error) {
				return workflows.RolloutStatus{Tags: tags, Stages: []workflows.StageStatus{{Stage: step.Build, State: workflows.Skipped}}}, nil
			})
			if err != nil {
				return err
			}
			return workflow.Await(ctx, func() bool { return false })
		}, workflow.RegisterOptions{Name: "Rollout"})
	})
	if _, err := to.ExecuteWorkflow(t.Context(), workflows.DeploymentOptions("kept", "dev"), "Deployment"); err != nil {
		t.Fatal(err)
	}
	if status, out, errOut := morgana(t, "logs", "kept/dev", "-g", "1"); status != 0 || out != "==> make\nok\n" {
		t.Errorf("status %d, %q, %s", status, out, errOut)
	}
	if status, _, errOut := morgana(t, "logs", "kept/dev", "--stage", "configure"); status != 2 || !strings.Contains(errOut, "rollout/kept/dev/1 has no log of configure") {
		t.Errorf("status %d, %s", status, errOut)
	}

	options := workflows.DeploymentOptions("back", "dev")
	options.TypedSearchAttributes = temporal.NewSearchAttributes(workflows.GenerationAttribute.ValueSet(3))
	deployment, err := to.ExecuteWorkflow(t.Context(), options, "Deployment")
	if err != nil {
		t.Fatal(err)
	}
	tags := step.Tags{App: "back", Target: "dev", Life: workflows.LifeOf(deployment.GetRunID()), Generation: 3}
	if _, err := to.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: workflows.RolloutID(tags), TaskQueue: workflows.TaskQueue}, "Rollout", tags); err != nil {
		t.Fatal(err)
	}
	if status, out, errOut := morgana(t, "logs", "back/dev"); status != 0 || out != "==> make\nok\n" {
		t.Errorf("after a rollback: status %d, %q, %s", status, out, errOut)
	}
	if status, _, errOut := morgana(t, "logs", "back/dev", "-g", "3"); status != 2 || !strings.Contains(errOut, "build did not run; there are logs of -g 1\n") {
		t.Errorf("of a rollback: status %d, %s", status, errOut)
	}
}
