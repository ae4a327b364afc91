package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/interceptor"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// stepBench runs steps behind the worker's interceptor.
func stepBench(t *testing.T) *testsuite.TestActivityEnvironment {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestActivityEnvironment()
	env.SetWorkerOptions(worker.Options{Interceptors: []interceptor.WorkerInterceptor{
		&steps{log: slog.New(slog.DiscardHandler), host: "h1"}}})
	return env
}

// Report returns though Temporal does not answer: it is called for each chunk of
// a transfer.
func TestReportDoesNotWaitForTemporal(t *testing.T) {
	env := stepBench(t)
	answers := make(chan struct{})
	env.SetOnActivityHeartbeatListener(func(*activity.Info, converter.EncodedValues) { <-answers })
	var took time.Duration
	env.RegisterActivityWithOptions(func(ctx context.Context, in step.Registration) (step.Machine, error) {
		began := time.Now()
		for i := range 100 {
			step.Report(ctx, step.Progress{Done: int64(i)})
			time.Sleep(time.Millisecond)
		}
		took = time.Since(began)
		close(answers)
		return step.Machine{}, nil
	}, activity.RegisterOptions{Name: "boot"})
	if _, err := env.ExecuteActivity("boot", registration()); err != nil || took > time.Minute {
		t.Errorf("%v, took %s", err, took)
	}
}

// A server that refuses heartbeats for a moment, as while it starts, does not end a try: the
// call goes on when the SDK's time for it is over. Other calls keep their time, and a
// cancelled one ends.
func TestAHeartbeatHasTime(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	starting, server := &startingServer{}, grpc.NewServer()
	time.AfterFunc(500*time.Millisecond, func() { starting.ready.Store(true) })
	workflowservice.RegisterWorkflowServiceServer(server, starting)
	go server.Serve(listener) //nolint:errcheck // until Stop
	defer server.Stop()
	c, err := dial(t.Context(), client.Options{HostPort: listener.Addr().String(), Logger: sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler))}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const sdks = 50 * time.Millisecond
	within := func(call func(ctx context.Context) error) error {
		ctx, cancel := context.WithTimeout(t.Context(), sdks)
		defer cancel()
		return call(ctx)
	}
	beat := func(ctx context.Context) error { return c.RecordActivityHeartbeat(ctx, []byte("token")) }
	if err := within(beat); err != nil {
		t.Errorf("a heartbeat: %v", err)
	}
	starting.ready.Store(false)
	if err := within(func(ctx context.Context) error { return c.TerminateWorkflow(ctx, "id", "", "") }); err == nil {
		t.Error("another call succeeds")
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(sdks, cancel)
	if err := beat(ctx); !errors.As(err, new(*serviceerror.Canceled)) {
		t.Errorf("a cancelled heartbeat: %v", err)
	}
}

// startingServer is a Temporal server that is unavailable until it is ready.
type startingServer struct {
	workflowservice.UnimplementedWorkflowServiceServer
	ready atomic.Bool
}

func (s *startingServer) GetSystemInfo(context.Context, *workflowservice.GetSystemInfoRequest) (*workflowservice.GetSystemInfoResponse, error) {
	return &workflowservice.GetSystemInfoResponse{}, nil
}

func (s *startingServer) RecordActivityTaskHeartbeat(context.Context, *workflowservice.RecordActivityTaskHeartbeatRequest) (*workflowservice.RecordActivityTaskHeartbeatResponse, error) {
	if !s.ready.Load() {
		return nil, status.Error(codes.Unavailable, "it starts")
	}
	return &workflowservice.RecordActivityTaskHeartbeatResponse{}, nil
}

func (s *startingServer) TerminateWorkflowExecution(context.Context, *workflowservice.TerminateWorkflowExecutionRequest) (*workflowservice.TerminateWorkflowExecutionResponse, error) {
	return nil, status.Error(codes.Unavailable, "it starts")
}

// Register and boot may fail by themselves for a while without getting further.
// An undo may fail for as long as its options allow.
func TestTriesThatGetNoFurtherEnd(t *testing.T) {
	long := time.Now().Add(-workflows.Patience - time.Minute)
	reset := errors.New("reset")
	for _, test := range []struct {
		name   string
		before step.Progress
		done   int64
		err    error
		final  bool
	}{
		{"x.Boot", step.Progress{}, 0, reset, false},
		{"x.Boot", step.Progress{Done: 5, Furthest: 5, Failing: time.Now().Add(-time.Minute)}, 5, reset, false},
		{"x.Boot", step.Progress{Done: 5, Furthest: 5, Failing: long}, 5, reset, true},
		{"x.Boot", step.Progress{Done: 1, Furthest: 5, Failing: long}, 4, reset, true},
		{"x.Boot", step.Progress{Done: 5, Furthest: 5, Failing: long}, 6, reset, false},
		{"x.Boot", step.Progress{Failing: long}, 0, &step.Error{Kind: step.Exhausted, Err: errors.New("slow down")}, false},
		{"x.Boot", step.Progress{Failing: long}, 0, nil, true}, // panics
		{"x.Destroy", step.Progress{Failing: long}, 0, reset, false},
	} {
		env := stepBench(t)
		var sent step.Progress
		env.SetHeartbeatDetails(test.before)
		env.SetOnActivityHeartbeatListener(func(_ *activity.Info, details converter.EncodedValues) { _ = details.Get(&sent) })
		env.RegisterActivityWithOptions(func(ctx context.Context, _ step.Registration) (step.Machine, error) {
			step.Report(ctx, step.Progress{Done: test.done})
			if test.err == nil {
				panic("out of range")
			}
			return step.Machine{}, test.err
		}, activity.RegisterOptions{Name: test.name})
		_, err := env.ExecuteActivity(test.name, registration())
		var app *temporal.ApplicationError
		if !errors.As(err, &app) || app.NonRetryable() != test.final {
			t.Errorf("%s: %+v, then Done %d and %v: got %v, final %v", test.name, test.before, test.done, test.err, err, app.NonRetryable())
		}
		if sent.Done != test.done {
			t.Errorf("the last heartbeat is %+v, want Done %d", sent, test.done)
		}
	}
}

// A value with a name that leads elsewhere does not reach a step.
func TestHostileValuesDoNotReachAStep(t *testing.T) {
	env := stepBench(t)
	env.RegisterActivityWithOptions(func(context.Context, step.Image) (step.Registration, error) {
		t.Error("it was called")
		return step.Registration{}, nil
	}, activity.RegisterOptions{Name: "register"})
	r := registration()
	_, err := env.ExecuteActivity("register", step.Image{Spec: r.Spec, Digest: r.Digest, Files: []step.File{{Name: "../x",
		Artifact: step.Artifact{URI: "file:///x", SHA256: r.Digest}}}})
	if f := workflows.Failure(err); f.Kind != step.InvalidSpec || f.Host != "h1" {
		t.Errorf("%+v", f)
	}
}

func registration() step.Registration {
	return step.Registration{Digest: strings.Repeat("0", 64), Spec: step.Spec{Kind: "lab",
		Tags: step.Tags{App: "hello", Target: "dev", Life: "aa", Generation: 1}}}
}

// A step whose context ends says which of Temporal and the worker has ended it.
func TestEndedSaysWhy(t *testing.T) {
	for _, test := range []struct {
		cause error
		want  string
	}{
		{errStopping, "the worker stopped"},
		{context.Canceled, "the worker stopped"}, // as the SDK ends steps of a worker that stops
		{context.DeadlineExceeded, "the Temporal server did not accept the heartbeat: context deadline exceeded"},
		{serviceerror.NewUnavailable("no connection"), "the Temporal server did not accept the heartbeat: no connection"},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(test.cause)
		f := workflows.Failure(ended(ctx, "h1", step.During("boot", ctx.Err()), true))
		if f.Err == nil || f.Err.Error() != test.want || f.Kind.Final() {
			t.Errorf("%v: %+v", test.cause, f)
		}
	}
}
