package main

import (
	"context"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// heart sends the heartbeats of one activity. Only beat waits for Temporal: a
// step that reports does not.
type heart struct {
	ctx  context.Context
	host string
	news chan struct{} // full if latest was not sent yet

	mu     sync.Mutex
	latest *step.Progress
}

// newHeart starts from what the last try reported.
func newHeart(ctx context.Context, host string) *heart {
	h := &heart{ctx: ctx, host: host, news: make(chan struct{}, 1)}
	if activity.HasHeartbeatDetails(ctx) {
		var last step.Progress
		// A bare heartbeat says no more than where the last try was.
		if activity.GetHeartbeatDetails(ctx, &last) == nil &&
			(last.Done != 0 || last.Total != 0 || last.Note != "" || last.State != nil || last.Failures != 0) {
			h.latest = &last
		}
	}
	return h
}

// report stores a progress for beat to send.
func (h *heart) report(p step.Progress) {
	h.mu.Lock()
	if last := h.latest; last != nil {
		if p.State == nil {
			p.State = last.State
		}
		if p.Done <= last.Done {
			p.Failures = last.Failures
		}
	}
	h.latest = &p
	h.mu.Unlock()
	select {
	case h.news <- struct{}{}:
	default:
	}
}

// beat sends a heartbeat in each pulse, and one when there is news; the SDK sends
// at most one in a pulse.
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

// failed sends the last progress, from which the next try goes on, and reports
// whether there may be one: a try counts if it failed by itself, and the count
// begins anew whenever Done grows.
func (h *heart) failed(counts bool) (again bool) {
	h.mu.Lock()
	if h.latest == nil {
		h.latest = &step.Progress{}
	}
	if counts {
		h.latest.Failures++
	}
	again = h.latest.Failures < workflows.Failures
	h.mu.Unlock()
	h.send()
	return again
}
