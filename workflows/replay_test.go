package workflows_test

import (
	"log/slog"
	"path/filepath"
	"testing"

	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/workflows"
)

// Deployments run for as long as their machines do, so today's code meets
// yesterday's histories: it has to take the same steps. The histories come from
// a real server and released code; e2e/record_test.go records them.
func TestReplay(t *testing.T) {
	files, err := filepath.Glob("testdata/replay/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no histories in testdata/replay (%v)", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			r, err := worker.NewWorkflowReplayerWithOptions(worker.WorkflowReplayerOptions{DisableDeadlockDetection: true}) // on a busy host
			if err != nil {
				t.Fatal(err)
			}
			// The names are those of worker/main.go.
			r.RegisterWorkflowWithOptions(workflows.Deployment, workflow.RegisterOptions{Name: "Deployment"})
			r.RegisterWorkflowWithOptions(workflows.Rollout, workflow.RegisterOptions{Name: "Rollout"})
			r.RegisterWorkflowWithOptions(workflows.Redeploy, workflow.RegisterOptions{Name: "Redeploy"})
			r.RegisterWorkflowWithOptions(workflows.Console, workflow.RegisterOptions{Name: "Console"})
			if err := r.ReplayWorkflowHistoryFromJSONFile(log.NewStructuredLogger(slog.New(slog.DiscardHandler)), file); err != nil {
				t.Error(err)
			}
		})
	}
}
