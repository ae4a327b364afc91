package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// BenchmarkDeploy compares a deploy whose steps do nothing with a bare workflow of the
// same six activities, on the same server and workers. A sample is the time of all
// deploys of a load divided by their number. In about one of 500 runs of either, the
// client gets a workflow's end only after its long poll of 20 s; medians hide that.
func BenchmarkDeploy(b *testing.B) {
	e := startEngine(b)
	measure(b, func(f *figures) {
		for _, load := range []struct{ inFlight, deploys int }{{1, 15}, {10, 50}, {100, 100}} {
			each := func(do func(context.Context, string) error) float64 {
				return timed(b, func() error { return e.inFlight(load.inFlight, load.deploys, do) }) / float64(load.deploys)
			}
			ours := each(e.deploy)
			if err := e.destroyAll(); err != nil { // so that the peer has the same load on the server
				b.Fatal(err)
			}
			f.add(fmt.Sprintf("in-flight=%d/bare-workflow", load.inFlight), ours, each(e.bare))
		}
	})
}

// engine is a client, with its workers in this process.
type engine struct {
	client.Client
	address string
	server  int // process id

	mu   sync.Mutex
	made int      // number of names used
	live []string // apps whose deployment runs
}

// startEngine starts workers as morgana-worker does, and warms them up.
func startEngine(b *testing.B) *engine {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	address, pid := server(b)
	c, err := client.Dial(client.Options{HostPort: address, Logger: sdklog.NewStructuredLogger(log)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	options := worker.Options{MaxHeartbeatThrottleInterval: 2 * time.Second}
	sentences := options
	sentences.MaxConcurrentWorkflowTaskPollers = 10
	options.DisableWorkflowWorker = true
	options.MaxConcurrentActivityExecutionSize = 10_000
	w, steps, stepsOnHost := worker.New(c, workflows.TaskQueue, sentences), worker.New(c, kind, options), worker.New(c, onHost, options)
	for name, f := range map[string]any{"Deployment": workflows.Deployment, "Rollout": workflows.Rollout, "Observe": workflows.Observe, "Bare": bare} {
		w.RegisterWorkflowWithOptions(f, workflow.RegisterOptions{Name: name})
	}
	noop{}.register(steps)
	noop{}.register(stepsOnHost)
	for _, w := range []worker.Worker{w, steps, stepsOnHost} {
		if err := w.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(w.Stop)
	}
	e := &engine{Client: c, address: address, server: pid}
	if err := errors.Join(e.inFlight(5, 5, e.deploy), e.inFlight(5, 5, e.bare), e.destroyAll()); err != nil {
		b.Fatal(err)
	}
	return e
}

// inFlight calls f with n new names, c at a time.
func (e *engine) inFlight(c, n int, f func(context.Context, string) error) error {
	names := make(chan string, n)
	for range n {
		e.made++
		names <- fmt.Sprintf("app%d", e.made)
	}
	close(names)
	return atATime(c, names, f)
}

func atATime(c int, names chan string, f func(context.Context, string) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	failed := make([]error, c)
	var all sync.WaitGroup
	for g := range c {
		all.Go(func() {
			for name := range names {
				if failed[g] = f(ctx, name); failed[g] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	return errors.Join(failed...)
}

// deploy deploys an app as "morgana deploy" does and returns when its rollout has ended.
// destroyAll ends its deployment.
func (e *engine) deploy(ctx context.Context, app string) error {
	return e.deployOrder(ctx, app, order(app))
}

func (e *engine) deployOrder(ctx context.Context, app string, in workflows.DeployRequest) error {
	var accepted workflows.Accepted
	if err := e.update(ctx, app, workflows.UpdateDeploy, in, &accepted); err != nil {
		return fmt.Errorf("deploy %s: %w", app, err)
	}
	for {
		err := e.GetWorkflow(ctx, accepted.RolloutID, "").Get(ctx, nil)
		if errors.As(err, new(*serviceerror.NotFound)) && ctx.Err() == nil {
			time.Sleep(20 * time.Millisecond) // accepted, but the child has not started
			continue
		}
		if err != nil {
			return fmt.Errorf("roll out %s: %w", app, err)
		}
		e.mu.Lock()
		e.live = append(e.live, app)
		e.mu.Unlock()
		return nil
	}
}

// bare runs the bare workflow.
func (e *engine) bare(ctx context.Context, app string) error {
	in := order(app)
	run, err := e.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: "bare/" + app, TaskQueue: workflows.TaskQueue},
		"Bare", workflows.Request{Spec: in.Spec, Route: in.Route})
	if err != nil {
		return err
	}
	return run.Get(ctx, nil)
}

// destroyAll ends the running deployments.
func (e *engine) destroyAll() error {
	names := make(chan string, len(e.live))
	for _, app := range e.live {
		names <- app
	}
	close(names)
	e.live = nil
	return atATime(10, names, func(ctx context.Context, app string) error {
		in := order(app)
		return e.update(ctx, app, workflows.UpdateDestroy, workflows.DestroyRequest{Spec: in.Spec, Route: in.Route}, &step.Destroyed{})
	})
}

// update sends an update to an app's deployment as the starter does, and starts the
// deployment if it does not run.
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
