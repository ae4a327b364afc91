package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/worker"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// What holds for a while is said once, whatever else there is to say meanwhile.
func TestWaitingIsSaidOnce(t *testing.T) {
	to := withServer(t)
	serveWorkflows(t, to)
	serve(t, to, "moon", func(w worker.Worker) {
		named := func(name string) activity.RegisterOptions { return activity.RegisterOptions{Name: "moon." + name} }
		w.RegisterActivityWithOptions(func(_ context.Context, in step.Spec) (step.Spec, error) { return in, nil }, named("Check"))
		w.RegisterActivityWithOptions(func(context.Context, step.Spec) (step.Source, error) {
			return step.Source{}, workflows.Fail(&step.Error{Kind: step.BuildFailed, Err: errors.New("no")})
		}, named("Configure"))
		w.RegisterActivityWithOptions(func(ctx context.Context, _ step.Spec) (step.Destroyed, error) {
			if activity.GetInfo(ctx).Attempt == 1 {
				return step.Destroyed{}, errors.New("not yet")
			}
			for i := range 6 {
				activity.RecordHeartbeat(ctx, step.Progress{Note: fmt.Sprint("tree ", i)})
				if err := sleep(ctx, 2*look); err != nil {
					return step.Destroyed{}, err
				}
			}
			return step.Destroyed{}, nil
		}, named("Clean"))
	})
	inFolder(t, map[string]string{config.Filename: "app: two\ntoolchain: {kind: moon}\ntargets: {low: {kind: moon}}\n"})

	_, out, errOut := morgana(t, "deploy", "-o", "json")
	for _, note := range []string{"failed; removing what it made", "try 2 of moon.Clean follows: not yet", "tree 2", "tree 5"} {
		if n := strings.Count(out, `"note":"`+note+`"`); n != 1 {
			t.Errorf("%q is said %d times", note, n)
		}
	}
	if t.Failed() {
		t.Logf("%s%s", out, errOut)
	}
}
