package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// engine is a client and the workers that serve it, in this process.
type engine struct {
	client.Client
	workers []worker.Worker
	version string // the server's
	mu      sync.Mutex
	made    int      // names given out
	live    []string // apps whose deployment runs
}

// startEngine connects, and starts workers as morgana-worker does.
func startEngine(ctx context.Context, address string) (*engine, error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	c, err := client.DialContext(ctx, client.Options{HostPort: address, Logger: sdklog.NewStructuredLogger(log)})
	if err != nil {
		return nil, err
	}
	e := &engine{Client: c}
	system, err := c.WorkflowService().GetSystemInfo(ctx, &workflowservice.GetSystemInfoRequest{})
	if err != nil {
		c.Close()
		return nil, err
	}
	e.version = system.GetServerVersion()

	base := worker.Options{WorkerStopTimeout: 10 * time.Second, MaxHeartbeatThrottleInterval: 2 * time.Second}
	sentences := base
	sentences.MaxConcurrentWorkflowTaskPollers = 10
	w := worker.New(c, workflows.TaskQueue, sentences)
	w.RegisterWorkflowWithOptions(workflows.Deployment, workflow.RegisterOptions{Name: "Deployment"})
	w.RegisterWorkflowWithOptions(workflows.Rollout, workflow.RegisterOptions{Name: "Rollout"})
	w.RegisterWorkflowWithOptions(workflows.Console, workflow.RegisterOptions{Name: "Console"})
	w.RegisterWorkflowWithOptions(bare, workflow.RegisterOptions{Name: "Bare"})
	e.workers = append(e.workers, w)
	for _, queue := range []string{kind, onHost} {
		o := base
		o.DisableWorkflowWorker = true
		w := worker.New(c, queue, o)
		noop{}.register(w)
		e.workers = append(e.workers, w)
	}
	for i, w := range e.workers {
		if err := w.Start(); err != nil {
			e.workers = e.workers[:i]
			e.stop()
			return nil, err
		}
	}
	return e, nil
}

func (e *engine) stop() {
	var all sync.WaitGroup
	for _, w := range e.workers {
		all.Go(w.Stop)
	}
	all.Wait()
	e.Close()
}

// warmUp runs each kind of workflow a few times, for caches and code paths.
func (e *engine) warmUp(ctx context.Context) error {
	for range 5 {
		_, _, err := e.deploy(ctx)
		if err == nil {
			_, _, err = e.bare(ctx)
		}
		if err != nil {
			return err
		}
	}
	return e.destroy(ctx)
}

// name is an app's that nobody has had.
func (e *engine) name() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.made++
	return fmt.Sprintf("app%d", e.made)
}

// deploy deploys a new app as "morgana deploy" does and returns when its
// rollout has ended. Its deployment lives on, for destroy.
func (e *engine) deploy(ctx context.Context) (run client.WorkflowRun, took time.Duration, err error) {
	app := e.name()
	began := time.Now()
	var accepted workflows.Accepted
	if err := e.update(ctx, app, workflows.UpdateDeploy, order(app), &accepted); err != nil {
		return nil, 0, fmt.Errorf("deploy %s: %w", app, err)
	}
	for {
		run = e.GetWorkflow(ctx, accepted.RolloutID, "")
		err = run.Get(ctx, nil)
		var absent *serviceerror.NotFound
		if !errors.As(err, &absent) {
			break
		}
		// Accepted, and the child is about to start: far from its end.
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	took = time.Since(began)
	if err != nil {
		return nil, 0, fmt.Errorf("roll out %s: %w", app, err)
	}
	e.mu.Lock()
	e.live = append(e.live, app)
	e.mu.Unlock()
	return run, took, nil
}

// bare runs the peer of a deploy.
func (e *engine) bare(ctx context.Context) (run client.WorkflowRun, took time.Duration, err error) {
	app := e.name()
	in := order(app)
	began := time.Now()
	run, err = e.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: "bare/" + app, TaskQueue: workflows.TaskQueue},
		"Bare", workflows.Request{Spec: in.Spec, Route: in.Route})
	if err == nil {
		err = run.Get(ctx, nil)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("run the bare workflow: %w", err)
	}
	return run, time.Since(began), nil
}

// destroy ends the deployments that live, so that both sides of the next
// comparison find the server alike.
func (e *engine) destroy(ctx context.Context) error {
	apps := e.live
	e.live = nil
	return inFlight(min(10, len(apps)), len(apps), func(i int) error {
		in := order(apps[i])
		return e.update(ctx, apps[i], workflows.UpdateDestroy, workflows.DestroyRequest{Spec: in.Spec, Route: in.Route}, &step.Destroyed{})
	})
}

// update sends an app's deployment an update, starting it if need be, as the
// starter does.
func (e *engine) update(ctx context.Context, app, name string, arg, answer any) error {
	start := e.NewWithStartWorkflowOperation(workflows.DeploymentOptions(app, "dev"), "Deployment", workflows.DeploymentState{})
	handle, err := e.UpdateWithStartWorkflow(ctx, client.UpdateWithStartWorkflowOptions{
		StartWorkflowOperation: start,
		UpdateOptions: client.UpdateWorkflowOptions{
			UpdateName: name, Args: []any{arg}, WaitForStage: client.WorkflowUpdateStageCompleted,
		},
	})
	if err != nil {
		return err
	}
	return handle.Get(ctx, answer)
}

// inFlight calls f for each i below n, c at a time, and returns the errors.
func inFlight(c, n int, f func(i int) error) error {
	next := make(chan int, n)
	for i := range n {
		next <- i
	}
	close(next)
	failed := make([]error, c)
	var all sync.WaitGroup
	for g := range c {
		all.Go(func() {
			for i := range next {
				if failed[g] = f(i); failed[g] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	return errors.Join(failed...)
}
