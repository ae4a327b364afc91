package workflows

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/mock"

	"github.com/morgana-deploy/morgana/step"
)

// A step of somebody else's may complete a value, never change whose it is: its
// machine would go with another app's destroy.
func TestAStepCannotChangeWhoseTheDeployIs(t *testing.T) {
	for name, change := range map[string]func(*step.Image){
		"app":        func(i *step.Image) { i.Spec.App = "other" },
		"target":     func(i *step.Image) { i.Spec.Target = "prod" },
		"generation": func(i *step.Image) { i.Spec.Generation = 1 },
		"life":       func(i *step.Image) { i.Spec.Life = "bb" },
		"kind":       func(i *step.Image) { i.Spec.Kind = "xen" },
		"host":       func(i *step.Image) { i.Spec.Host = "h2" },
		"file":       func(i *step.Image) { i.Files = []step.File{{Name: "../../../../escaped"}} },
		"digest":     func(i *step.Image) { i.Digest = "d" },
	} {
		for _, inserted := range []bool{false, true} {
			r := newRecorded(t)
			in := r.request()
			culprit := "lab.Package"
			if inserted {
				culprit = "lab.Sign"
				in.Route.After = map[step.Stage][]step.Step{step.Package: {{Activity: culprit, TaskQueue: "sign"}}}
			}
			made := func(spec step.Spec) (step.Image, error) {
				img := step.Image{Spec: spec, Digest: digest("1")}
				change(&img)
				return img, nil
			}
			var does any = func(_ context.Context, k step.Kernel) (step.Image, error) { return made(k.Spec) }
			if inserted {
				does = func(_ context.Context, i step.Image) (step.Image, error) { return made(i.Spec) }
			}
			r.env.OnActivity(culprit, mock.Anything, mock.Anything).Return(does)
			_, err := r.rollout(in)
			if f := Failure(err); f == nil || f.Kind != step.InvalidSpec || !strings.Contains(f.Error(), culprit) {
				t.Errorf("%s changed by %s: %v", name, culprit, err)
			}
			if slices.ContainsFunc(r.calls, func(c string) bool { return strings.HasPrefix(c, "Register") }) {
				t.Errorf("%s changed by %s: calls %q", name, culprit, r.calls)
			}
		}
	}
}

func TestOnlyCheckSetsTheHost(t *testing.T) {
	r := newRecorded(t)
	in := r.request()
	in.Route.After = map[step.Stage][]step.Step{step.Check: {{Activity: "lab.Approve", TaskQueue: "approve"}}}
	register(r, "Approve", func(_ context.Context, s step.Spec) (step.Spec, error) { s.Host = "h2"; return s, nil })
	if _, err := r.rollout(in); Failure(err) == nil || Failure(err).Kind != step.InvalidSpec {
		t.Errorf("a step behind check moved the deploy: %v", err)
	}
}
