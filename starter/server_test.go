package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

func devserverBinary(t *testing.T) string {
	t.Helper()
	binary, err := filepath.Abs(filepath.Join("..", "bin", "morgana-devserver"))
	if err == nil {
		_, err = os.Stat(binary)
	}
	need.Nil(t, err)
	return binary
}

// withServer runs the test on a server of its own, whose workers are the test's.
func withServer(t *testing.T) client.Client {
	t.Helper()
	binary := devserverBinary(t)
	folder := t.TempDir()
	ready := filepath.Join(folder, "ready.json")
	cmd := exec.Command(binary, "--port", "0", "--ui-port", "0", "--db", filepath.Join(folder, "temporal.db"), "--ready-file", ready)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() }) // its database goes with it
	var server serverInfo
	for deadline := time.Now().Add(5 * time.Minute); ; {
		data, err := os.ReadFile(ready)
		if err == nil && json.Unmarshal(data, &server) == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no server after five minutes")
		}
		if step.Pause(t.Context(), 50*time.Millisecond) != nil {
			t.Fatal(t.Context().Err())
		}
	}
	t.Setenv("TEMPORAL_ADDRESS", server.Address)
	t.Setenv("TEMPORAL_NAMESPACE", server.Namespace)
	t.Setenv("XDG_STATE_HOME", filepath.Join(folder, "state"))
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(folder, "config"))
	to, err := client.Dial(client.Options{HostPort: server.Address, Namespace: server.Namespace, Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(to.Close)
	_, err = to.OperatorService().AddSearchAttributes(t.Context(), &operatorservice.AddSearchAttributesRequest{
		Namespace: server.Namespace, SearchAttributes: map[string]enums.IndexedValueType{
			workflows.AppAttribute.GetName():        enums.INDEXED_VALUE_TYPE_KEYWORD,
			workflows.TargetAttribute.GetName():     enums.INDEXED_VALUE_TYPE_KEYWORD,
			workflows.StageAttribute.GetName():      enums.INDEXED_VALUE_TYPE_KEYWORD,
			workflows.GenerationAttribute.GetName(): enums.INDEXED_VALUE_TYPE_INT,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// serveWorkflows runs a worker of the pipeline.
func serveWorkflows(t *testing.T, to client.Client) {
	t.Helper()
	serve(t, to, workflows.TaskQueue, func(w worker.Worker) {
		w.RegisterWorkflow(workflows.Deployment)
		w.RegisterWorkflow(workflows.Rollout)
		w.RegisterWorkflow(workflows.Console)
		w.RegisterWorkflow(workflows.Observe)
		w.RegisterWorkflow(workflows.List)
		w.RegisterWorkflow(workflows.Sweep)
		w.RegisterActivityWithOptions(func(context.Context, step.Tags) (step.Destroyed, error) { return step.Destroyed{}, nil },
			activity.RegisterOptions{Name: workflows.ActivityUnschedule})
	})
}

// serve polls a queue until the test ends.
func serve(t *testing.T, to client.Client, queue string, register func(worker.Worker)) {
	t.Helper()
	w := worker.New(to, queue, worker.Options{WorkerStopTimeout: time.Second, MaxHeartbeatThrottleInterval: 10 * time.Millisecond})
	register(w)
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
}
