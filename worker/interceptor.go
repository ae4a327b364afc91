package main

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
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

// steps is what stands between Temporal and the rooms, which know nothing of
// it: heartbeats carry their progress, errors get their wire form.
type steps struct {
	interceptor.WorkerInterceptorBase
	log *slog.Logger
}

func (s *steps) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	i := &stepInbound{log: s.log}
	i.Next = next
	return i
}

type stepInbound struct {
	interceptor.ActivityInboundInterceptorBase
	log *slog.Logger
}

func (i *stepInbound) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	var latest atomic.Pointer[step.Progress]
	if activity.HasHeartbeatDetails(ctx) {
		var last step.Progress
		if activity.GetHeartbeatDetails(ctx, &last) == nil {
			latest.Store(&last)
		}
	}
	report := func(p step.Progress) {
		latest.Store(&p)
		activity.RecordHeartbeat(ctx, p) // the SDK sends at most one in a pulse
	}
	last := latest.Load()
	beating, stop := context.WithCancel(ctx)
	defer stop()
	go beat(beating, ctx, &latest)

	out, err := i.Next.ExecuteActivity(step.WithReporter(ctx, report, last), in)
	if err == nil {
		return out, nil
	}
	info := activity.GetInfo(ctx)
	i.log.Warn("step", "activity", info.ActivityType.Name, "workflow", info.WorkflowExecution.ID,
		"attempt", info.Attempt, "error", err)
	return nil, ended(ctx, err)
}

// beat keeps the heartbeat going with the latest progress.
func beat(until, ctx context.Context, latest *atomic.Pointer[step.Progress]) {
	tick := time.NewTicker(pulse)
	defer tick.Stop()
	for {
		select {
		case <-until.Done():
			return
		case <-tick.C:
			if p := latest.Load(); p != nil {
				activity.RecordHeartbeat(ctx, *p)
			} else {
				activity.RecordHeartbeat(ctx)
			}
		}
	}
}

// ended tells a cancelled activity, which is over, from one whose worker is
// stopping, which another worker takes up.
func ended(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return workflows.Fail(err)
	}
	var canceled *temporal.CanceledError
	if errors.As(context.Cause(ctx), &canceled) {
		return canceled
	}
	return workflows.Fail(&step.Error{Err: errors.New("the worker stopped")})
}
