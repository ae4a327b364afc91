package main

import (
	"context"
	"errors"
	"log/slog"
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
	// grace is what work has when the worker is told to stop, before it is
	// handed over.
	grace = 10 * time.Second
	// ending is what a cancelled step may take: the contract's 5 s, and its answer.
	ending = 7 * time.Second
)

// steps is what stands between Temporal and the kinds, which know nothing of
// it: heartbeats carry their progress, errors get their wire form.
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
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go handOver(ctx, activity.GetWorkerStopChannel(ctx), cancel)
	h := &heart{ctx: ctx, host: i.host}
	if activity.HasHeartbeatDetails(ctx) {
		var last step.Progress
		if activity.GetHeartbeatDetails(ctx, &last) == nil {
			// A bare heartbeat says no more than where the last try was.
			if last.Done != 0 || last.Total != 0 || last.Note != "" || last.State != nil {
				h.latest = &last
			}
		}
	}
	last := h.latest
	beating, stop := context.WithCancel(ctx)
	defer stop()
	go h.beat(beating)

	out, err := i.Next.ExecuteActivity(step.WithReporter(ctx, h.report, last), in)
	if err == nil {
		return out, nil
	}
	info := activity.GetInfo(ctx)
	i.log.Warn("step", "activity", info.ActivityType.Name, "workflow", info.WorkflowExecution.ID,
		"attempt", info.Attempt, "error", err)
	return nil, ended(ctx, i.host, err)
}

// handOver cancels what is going on a while after the worker was told to stop.
// The SDK does so only when it stops waiting, and so the process ends before
// the step could end what it runs and give its answer: another worker would
// take it up only when the heartbeat is missed.
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

// heart sends the heartbeats of one activity.
type heart struct {
	ctx    context.Context
	host   string
	mu     sync.Mutex // also keeps an older progress from being sent after a newer
	latest *step.Progress
}

// report sends a progress; the SDK sends at most one in a pulse.
func (h *heart) report(p step.Progress) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.State == nil && h.latest != nil {
		p.State = h.latest.State
	}
	p.Host = h.host
	h.latest = &p
	activity.RecordHeartbeat(h.ctx, p)
}

// beat keeps the heartbeat going with the latest progress.
func (h *heart) beat(until context.Context) {
	tick := time.NewTicker(pulse)
	defer tick.Stop()
	for {
		select {
		case <-until.Done():
			return
		case <-tick.C:
			h.mu.Lock()
			p := step.Progress{Host: h.host}
			if h.latest != nil {
				p = *h.latest
			}
			activity.RecordHeartbeat(h.ctx, p)
			h.mu.Unlock()
		}
	}
}

// ended tells a cancelled activity, which is over, from one whose worker is
// stopping, which another worker takes up.
func ended(ctx context.Context, host string, err error) error {
	if ctx.Err() == nil {
		return workflows.Fail(at(host, err))
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

// at adds to err where it happened, so that what a step left there can be
// removed there.
func at(host string, err error) error {
	e := step.Error{Err: err}
	var own *step.Error
	if errors.As(err, &own) {
		e = *own
	}
	e.Host = host
	return &e
}
