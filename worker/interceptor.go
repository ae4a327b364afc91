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

// pulse is the interval of an activity's heartbeats, with or without progress. It is a
// fifth of the heartbeat timeout. An activity learns of its cancellation by a heartbeat.
const pulse = 2 * time.Second

const (
	// grace is how long activities go on after the worker was told to stop. Then they
	// are cancelled, and another worker gets them.
	grace = 10 * time.Second
	// ending is how long a cancelled step may take: the contract's 5 s, and sending its
	// result.
	ending = 7 * time.Second
)

// steps is the interceptor between Temporal and the kinds' activities, which do not
// import its SDK. It sends their progress as heartbeats and converts their errors.
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
		_, open := arg.(step.Spec) // the Spec of Clean and List need not name one rollout
		if v, ok := arg.(step.Value); ok && !open {
			if err := v.Valid(); err != nil { // a third-party step may have made it
				return nil, workflows.Fail(at(i.host, err))
			}
		}
	}
	if name := activity.GetInfo(ctx).ActivityType.Name; strings.HasSuffix(name, ".Watch") { // it heartbeats by itself
		out, err := i.run(ctx, in)
		if err != nil {
			return nil, ended(ctx, i.host, err, true)
		}
		return out, nil
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
	beat.Wait() // or it may send an older heartbeat after the last
	info := activity.GetInfo(ctx)
	again := h.failed(ctx.Err() == nil && step.KindOf(err) == "" && boundedByTime(info.ActivityType.Name), time.Now())
	if ctx.Err() != nil { // the step's own error may not tell
		err = fmt.Errorf("%w: %w", err, context.Cause(ctx))
	}
	i.log.Warn("step", "activity", info.ActivityType.Name, "workflow", info.WorkflowExecution.ID,
		"attempt", info.Attempt, "error", err)
	return nil, ended(ctx, i.host, err, again)
}

// run runs the step and turns a panic into an error without a kind. Such an error ends
// the tries of register and boot after [workflows.Patience]; the SDK's own error for a
// panic would be retried for days.
func (i *stepInbound) run(ctx context.Context, in *interceptor.ExecuteActivityInput) (out any, err error) {
	defer func() {
		if p := recover(); p != nil {
			i.log.Error("panic", "cause", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return i.Next.ExecuteActivity(ctx, in)
}

// boundedByTime reports whether the retries of a kind's activity are bounded by time.
func boundedByTime(activity string) bool {
	_, name, _ := strings.Cut(activity, ".")
	return workflows.BoundedByTime(step.Stage(strings.ToLower(name)))
}

// handOver cancels an activity when the worker was told to stop and grace is over. The
// SDK would cancel it only when the process is about to end. The step's error would then
// be lost, and another worker would get the step only after the heartbeat timeout.
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

// ended converts the error of a step for Temporal. If the workflow cancelled the step,
// the error is final. If the worker is stopping, or Temporal did not accept a heartbeat, the
// step is retried. Otherwise the step is retried if the error's kind is not final and again is set.
func ended(ctx context.Context, host string, err error, again bool) error {
	if ctx.Err() == nil {
		if made, ok := errors.AsType[*temporal.ApplicationError](err); ok { // a redeploy's
			return made
		}
		if again {
			return workflows.Fail(at(host, err))
		}
		return workflows.FailForGood(at(host, err))
	}
	var canceled *temporal.CanceledError
	cause := context.Cause(ctx)
	switch {
	case errors.As(cause, &canceled):
		return workflows.Cancelled(host, at(host, err).Log)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return workflows.Fail(&step.Error{Err: errors.New("took too long")})
	case errors.Is(cause, errStopping), errors.Is(cause, context.Canceled): // the latter is the SDK's
		return workflows.Fail(&step.Error{Err: errStopping})
	}
	return workflows.Fail(&step.Error{Err: fmt.Errorf("the Temporal server did not accept the heartbeat: %w", cause)})
}

// at adds the host to err: undo goes there to remove the step's leftovers.
func at(host string, err error) *step.Error {
	e := step.Error{Err: err}
	var own *step.Error
	if errors.As(err, &own) {
		e = *own
	}
	e.Host = host
	return &e
}
