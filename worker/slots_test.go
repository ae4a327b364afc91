package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// A build that waits for a slot names the builds that have them all.
func TestSlotsNameTheBuilds(t *testing.T) {
	s := newSlots(2)
	var leave func()
	for _, target := range []string{"one", "two"} {
		var err error
		if leave, err = s.enter(t.Context(), step.Tags{App: "web", Target: target}); err != nil {
			t.Fatal(err)
		}
	}
	told := make(chan step.Progress, 10)
	ctx := step.WithReporter(t.Context(), func(p step.Progress) { told <- p }, nil)
	build := inSlot(s, func(context.Context, step.Spec) (string, error) { return s.names(), nil })
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	if _, err := build(short, step.Spec{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if p := <-told; p.Note != "waiting for the build of web/one, web/two: this host runs 2 at a time (--builds)" || !p.Waiting {
		t.Errorf("told %+v", p)
	}
	leave()
	if busy, err := build(ctx, step.Spec{Tags: step.Tags{App: "web", Target: "three"}}); busy != "web/one, web/three" || err != nil {
		t.Errorf("busy are %s (%v)", busy, err)
	}
	if busy := s.names(); busy != "web/one" {
		t.Errorf("busy are %s", busy)
	}
}
