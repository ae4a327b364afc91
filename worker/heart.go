package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"google.golang.org/grpc"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// heart sends the heartbeats of one activity. report only stores the progress and beat
// sends it, so that a step never waits for Temporal.
type heart struct {
	ctx  context.Context // the activity's own, which handOver does not cancel
	host string
	news chan struct{} // full if latest is not sent yet

	mu     sync.Mutex
	latest *step.Progress
}

// newHeart starts with the progress of the last try.
func newHeart(ctx context.Context, host string) *heart {
	h := &heart{ctx: ctx, host: host, news: make(chan struct{}, 1)}
	if activity.HasHeartbeatDetails(ctx) {
		var last step.Progress
		// A heartbeat that has only Host is no progress.
		if activity.GetHeartbeatDetails(ctx, &last) == nil &&
			(last.Done != 0 || last.Total != 0 || last.Note != "" || last.State != nil || !last.Failing.IsZero()) {
			h.latest = &last
		}
	}
	return h
}

// report stores a progress for beat to send.
func (h *heart) report(p step.Progress) {
	h.mu.Lock()
	p.Furthest, p.Failing = p.Done, time.Time{}
	if last := h.latest; last != nil {
		if p.State == nil {
			p.State = last.State
		}
		if p.Done <= last.Furthest {
			p.Furthest, p.Failing = last.Furthest, last.Failing
		}
	}
	h.latest = &p
	h.mu.Unlock()
	select {
	case h.news <- struct{}{}:
	default:
	}
}

// beat records a heartbeat in each pulse and when there is news. The SDK sends at most
// one in a pulse.
func (h *heart) beat(ctx context.Context) {
	tick := time.NewTicker(pulse)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-h.news:
		}
		h.send()
	}
}

func (h *heart) send() {
	h.mu.Lock()
	var p step.Progress
	if h.latest != nil {
		p = *h.latest
	}
	h.mu.Unlock()
	p.Host = h.host
	activity.RecordHeartbeat(h.ctx, p)
}

// failed sends the last progress for the next try, and reports whether another try is
// allowed. byItself says that the step's own error ended the try. No try is allowed once
// such errors have lasted for workflows.Patience without progress.
func (h *heart) failed(byItself bool, now time.Time) (again bool) {
	h.mu.Lock()
	if h.latest == nil {
		h.latest = &step.Progress{}
	}
	if byItself && h.latest.Failing.IsZero() {
		h.latest.Failing = now
	}
	again = !byItself || now.Sub(h.latest.Failing) < workflows.Patience
	h.mu.Unlock()
	h.send()
	return again
}

// accepted is how long the server may take to accept a heartbeat. It begins a pulse after the last
// accepted one, and the server gives the activity to another worker when the heartbeat timeout, 5
// pulses, has passed since that. The rest is for the end of the step.
const accepted = 3 * pulse

// patient gives the call of a heartbeat the time accepted. The SDK gives it half a pulse and
// then ends the try, so a server that hangs or restarts would end every build and upload.
func patient(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if method != workflowservice.WorkflowService_RecordActivityTaskHeartbeat_FullMethodName {
		return invoke(ctx, method, req, reply, conn, opts...)
	}
	longer, cancel := context.WithTimeout(context.WithoutCancel(ctx), accepted)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.Canceled) { // the activity has ended
			cancel()
		}
	})()
	return invoke(longer, method, req, reply, conn, opts...)
}
