package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"github.com/morgana-deploy/morgana/step"
)

// overheadRuns is how often one deploy and one bare workflow are timed.
const overheadRuns = 40

// measureOverhead times deploys with nothing else going on, less the time in
// which one of the six stages' activities ran. What is left is Temporal's and
// Morgana's: the update, the two workflows, the way to the activities and back,
// and the removal of the build tree at the end.
func measureOverhead(ctx context.Context, e *engine, r *report) error {
	var whole, outside comparison
	for range overheadRuns {
		run, took, err := e.deploy(ctx)
		if err != nil {
			return err
		}
		inside, err := e.insideStages(ctx, run)
		if err != nil {
			return err
		}
		peer, peerTook, err := e.bare(ctx)
		if err != nil {
			return err
		}
		peerInside, err := e.insideStages(ctx, peer)
		if err != nil {
			return err
		}
		whole.add(took.Seconds(), peerTook.Seconds())
		outside.add((took - inside).Seconds(), (peerTook - peerInside).Seconds())
	}
	if err := e.destroy(ctx); err != nil {
		return err
	}
	r.add("deploy of steps that do nothing / bare workflow", seconds, whole)
	r.add("... less the time inside stages", seconds, outside)
	return nil
}

// insideStages is how long the activities of the six stages ran, by the run's
// history.
func (e *engine) insideStages(ctx context.Context, run client.WorkflowRun) (time.Duration, error) {
	stages := map[string]bool{}
	for _, s := range step.Stages {
		stages[kind+"."+string(s)] = true
	}
	names, began := map[int64]string{}, map[int64]time.Time{}
	var inside time.Duration
	n := 0
	events := e.GetWorkflowHistory(ctx, run.GetID(), run.GetRunID(), false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		event, err := events.Next()
		if err != nil {
			return 0, err
		}
		at := event.GetEventTime().AsTime()
		if a := event.GetActivityTaskScheduledEventAttributes(); a != nil {
			names[event.GetEventId()] = strings.ToLower(a.GetActivityType().GetName())
		}
		if a := event.GetActivityTaskStartedEventAttributes(); a != nil {
			began[a.GetScheduledEventId()] = at
		}
		if a := event.GetActivityTaskCompletedEventAttributes(); a != nil && stages[names[a.GetScheduledEventId()]] {
			inside += at.Sub(began[a.GetScheduledEventId()])
			n++
		}
	}
	if n != len(stages) {
		return 0, fmt.Errorf("%s ran %d of %d stages", run.GetID(), n, len(stages))
	}
	return inside, nil
}

// load is how many deploys are in flight at a time, how many are timed in one
// round, and how often that is done.
type load struct{ inFlight, deploys, rounds int }

var loads = []load{{1, 15, 4}, {10, 50, 4}, {100, 100, 4}}

// measureRates counts deploys a second. About once in 500 runs, on either side,
// the server lets a client that awaits a workflow's end wait out its long poll
// of 20 s; the median over the rounds leaves that out, the middle half may not.
func measureRates(ctx context.Context, e *engine, r *report) error {
	for _, l := range loads {
		say("rate: %d rounds of %d deploys and bare workflows, %d in flight", l.rounds, l.deploys, l.inFlight)
		var c comparison
		for range l.rounds {
			ours, err := rate(l, func() error { _, _, err := e.deploy(ctx); return err })
			if err != nil {
				return err
			}
			if err := e.destroy(ctx); err != nil { // not timed
				return err
			}
			peer, err := rate(l, func() error { _, _, err := e.bare(ctx); return err })
			if err != nil {
				return err
			}
			c.add(ours, peer)
		}
		r.add(fmt.Sprintf("deploys a second, %d in flight / bare workflows", l.inFlight), perSecond, c)
	}
	return nil
}

func rate(l load, f func() error) (float64, error) {
	began := time.Now()
	err := inFlight(l.inFlight, l.deploys, func(int) error { return f() })
	return float64(l.deploys) / time.Since(began).Seconds(), err
}
