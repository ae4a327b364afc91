package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// slots bound how many builds run at a time.
type slots struct {
	free chan struct{}
	mu   sync.Mutex
	busy []string // app/target of each build that runs
}

func newSlots(n int) *slots { return &slots{free: make(chan struct{}, n)} }

// enter waits for a free slot, and reports the builds that it waits for. leave frees the
// slot.
func (s *slots) enter(ctx context.Context, who step.Tags) (leave func(), err error) {
	name := who.App + "/" + who.Target
	select {
	case s.free <- struct{}{}:
		return s.take(name), nil
	default:
	}
	tick := time.NewTicker(time.Second) // others may take the slots in turn
	defer tick.Stop()
	for {
		if others := s.names(); others != "" {
			step.Report(ctx, step.Progress{Waiting: true,
				Note: fmt.Sprintf("waiting for the build of %s: this host runs %d at a time (--builds)", others, cap(s.free))})
		}
		select {
		case s.free <- struct{}{}:
			return s.take(name), nil
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// take records the name of the build that has taken a slot.
func (s *slots) take(name string) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = append(s.busy, name)
	return func() {
		s.mu.Lock()
		at := slices.Index(s.busy, name)
		s.busy = slices.Delete(s.busy, at, at+1)
		s.mu.Unlock()
		<-s.free
	}
}

func (s *slots) names() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.busy, ", ")
}

// inSlot returns a step that waits for a free slot and then calls do.
func inSlot[In step.Value, Out any](s *slots, do func(context.Context, In) (Out, error)) func(context.Context, In) (Out, error) {
	return func(ctx context.Context, in In) (out Out, err error) {
		leave, err := s.enter(ctx, in.Of().Tags)
		if err != nil {
			return out, err
		}
		defer leave()
		return do(ctx, in)
	}
}
