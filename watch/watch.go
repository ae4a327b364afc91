// Package watch is the activity "<kind>.Watch", which waits for the end of a machine.
//
// It observes the machine at short intervals on the worker's host, so an end is known
// within seconds, and sends a heartbeat every few minutes, so that a machine at rest costs
// the server next to nothing. See docs/adr/0013-watch-and-restart.md.
package watch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// Watcher watches the machines of one kind.
type Watcher struct {
	Observe func(context.Context, step.Machine) (step.Health, error)
	// Every is the time between two looks.
	Every time.Duration
	// Host is the worker's host.
	Host  string
	Tries Tries
}

// look bounds one look, which asks a remote host or a cloud.
const look = 30 * time.Second

// errStopping ends a try whose worker was told to stop. Another worker watches on.
var errStopping = errors.New("the worker stopped")

// Watch returns the health of m when it does not run any more. A look that fails, as when
// the host of a domain is down, is no end. The heartbeats have the last look.
func (w Watcher) Watch(ctx context.Context, m step.Machine) (step.Health, error) {
	defer w.Tries.hold(activity.GetInfo(ctx).TaskToken)()
	every := time.NewTicker(w.Every)
	defer every.Stop()
	var beat time.Time
	told := ""
	for {
		looking, cancel := context.WithTimeout(ctx, look)
		h, err := w.Observe(looking, m)
		cancel()
		now := time.Now()
		is := string(h.State)
		switch {
		case ctx.Err() != nil:
			return h, ctx.Err()
		case err != nil:
			is = "not reached: " + err.Error()
		case h.State != step.Running:
			return h, nil
		}
		if is != told || now.Sub(beat) >= workflows.WatchBeat {
			note := fmt.Sprintf("%.500s (looked at %s, every %s)", is, now.UTC().Format(time.RFC3339), w.Every)
			activity.RecordHeartbeat(ctx, step.Progress{Host: w.Host, Note: note})
			told, beat = is, now
		}
		select {
		case <-ctx.Done():
			return h, ctx.Err()
		case <-activity.GetWorkerStopChannel(ctx):
			return h, errStopping
		case <-every.C:
		}
	}
}
