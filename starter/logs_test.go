package main

import (
	"path/filepath"
	"strings"
	"testing"

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
				return []workflows.Generation{{Generation: 1, Logs: []step.File{{Name: "build", Artifact: log}}}}, nil
			})
			if err != nil {
				return err
			}
			return workflow.Await(ctx, func() bool { return false })
		}, workflow.RegisterOptions{Name: "Deployment"})
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
}
