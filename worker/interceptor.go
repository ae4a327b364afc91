package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// pulse is how often an activity beats its heart whether or not it reports
// progress: a fifth of the heartbeat timeout, and how soon it learns that it is
// cancelled.
const pulse = 2 * time.Second

const (
	// grace is how long activities may go on when the worker is told to stop;
	// then another worker gets them.
	grace = 10 * time.Second
	// ending is how long a cancelled step may take: the contract's 5 s, and its answer.
	ending = 7 * time.Second
)

// steps wraps the activities of the kinds, which know no Temporal: it sends their
// progress as heartbeats and gives their errors the wire form.
type steps struct {
	interceptor.WorkerInterceptorBase
	log  *slog.Logger
	host string
}

func (s *steps) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	i := &stepInbound{log: s.log, host: s.host}
	i.Next = next
	return i
}

type stepInbound struct {
	interceptor.ActivityInboundInterceptorBase
	log  *slog.Logger
	host string
}

func (i *stepInbound) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	for _, arg := range in.Args {
		_, open := arg.(step.Spec) // Clean's and List's need not name one rollout
		if v, ok := arg.(step.Value); ok && !open {
			if err := v.Valid(); err != nil { // a step of somebody else's may have made it
				return nil, workflows.Fail(at(i.host, err))
			}
		}
	}
	h := newHeart(ctx, i.host)
	last := h.latest
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go handOver(ctx, activity.GetWorkerStopChannel(ctx), cancel)
	beating, stop := context.WithCancel(ctx)
	var beat sync.WaitGroup
	beat.Go(func() { h.beat(beating) })

	out, err := i.run(step.WithReporter(ctx, h.report, last), in)
	stop()
	if err == nil {
		return out, nil
	}
	beat.Wait() // or an older heartbeat may come after the last
	info := activity.GetInfo(ctx)
	again := h.failed(ctx.Err() == nil && step.KindOf(err) == "" && boundedByTime(info.ActivityType.Name), time.Now())
	i.log.Warn("step", "activity", info.ActivityType.Name, "workflow", info.WorkflowExecution.ID,
		"attempt", info.Attempt, "error", err)
	return nil, ended(ctx, i.host, err, again)
}

// run is the step. A panic is an error like others: the SDK's own answer to one
// would be retried for days.
func (i *stepInbound) run(ctx context.Context, in *interceptor.ExecuteActivityInput) (out any, err error) {
	defer func() {
		if p := recover(); p != nil {
			i.log.Error("panic", "cause", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return i.Next.ExecuteActivity(ctx, in)
}

// boundedByTime says of a kind's activity what optionsOf says of its stage.
func boundedByTime(activity string) bool {
	_, name, _ := strings.Cut(activity, ".")
	return name == "Register" || name == "Boot"
}

// handOver cancels an activity when the worker has been told to stop and grace is
// over. The SDK cancels only when it stops waiting: the process would end before
// the step's answer, and another worker would get it only after the heartbeat
// timeout.
func handOver(ctx context.Context, stopping <-chan struct{}, cancel context.CancelCauseFunc) {
	select {
	case <-ctx.Done():
		return
	case <-stopping:
	}
	select {
	case <-ctx.Done():
	case <-time.After(grace):
		cancel(errStopping)
	}
}

var errStopping = errors.New("the worker stopped")

// ended gives the error of a step its wire form. Cancelled by the workflow: final.
// Worker stopping: retried, by another worker. Any other is retried if its kind
// is, and if again is set.
func ended(ctx context.Context, host string, err error, again bool) error {
	if ctx.Err() == nil {
		if again {
			return workflows.Fail(at(host, err))
		}
		return workflows.FailForGood(at(host, err))
	}
	var canceled *temporal.CanceledError
	switch {
	case errors.As(context.Cause(ctx), &canceled):
		return workflows.Cancelled(host)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return workflows.Fail(&step.Error{Err: errors.New("took too long")})
	}
	return workflows.Fail(&step.Error{Err: errStopping})
}

// at adds the host to err: the pieces that a step left are removed there.
func at(host string, err error) *step.Error {
	e := step.Error{Err: err}
	var own *step.Error
	if errors.As(err, &own) {
		e = *own
	}
	e.Host = host
	return &e
}
