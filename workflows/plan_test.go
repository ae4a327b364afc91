package workflows

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"testing"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"github.com/morgana-deploy/morgana/step"
)

func file(digit string) step.Artifact {
	return step.Artifact{URI: "file:///s", SHA256: strings.Repeat(digit, 64), Size: 1}
}

// fromGit makes both sources that of ref, of which the running machine has the commit c.
func fromGit(in *PlanRequest, ref string) {
	git := step.Git{URL: "https://example.org/a", Ref: ref}
	in.Deploy.Spec.Origin = step.Origin{Git: &git}
	was, archive := git, file("d")
	was.Commit = strings.Repeat("c", 40)
	in.Current.Image.Spec.Origin = step.Origin{Git: &was, Archive: &archive}
}

// A plan says what a rollout changes, and runs only what makes nothing.
func TestPlan(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*PlanRequest)
		kernel string // the digit of the built kernel, "" if a build is needed
		lacks  string // an activity that is not registered
		state  step.State
		why    string
	}{
		{name: "the same", kernel: "a"},
		{name: "another kernel", kernel: "b", why: "the kernel differs"},
		{name: "a build", why: "the kernel is built"},
		{name: "no Built", kernel: "a", lacks: "Built", why: "the kernel is not known before the build"},
		{name: "no Observe and Forecast", kernel: "a", lacks: "Observe Forecast"},
		{name: "first", kernel: "a", change: func(in *PlanRequest) { in.Current = nil }, why: "no machine runs"},
		{name: "force", kernel: "a", change: func(in *PlanRequest) { in.Deploy.Force = true }, why: "a new machine is forced"},
		{name: "options", kernel: "a", change: func(in *PlanRequest) { in.Deploy.Spec.Options = []byte(`{"args":"y"}`) }, why: "the target's options differ"},
		{name: "another boot", kernel: "a", change: func(in *PlanRequest) { in.Deploy.Route.Boot.Activity = "x.Boot" }, why: "other steps make the machine"},
		{name: "gone", kernel: "a", state: step.Gone},
		{name: "ended", kernel: "a", state: step.Ended, why: "the machine has ended"},
		{name: "a commit that runs", kernel: "a", change: func(in *PlanRequest) { fromGit(in, strings.Repeat("c", 40)) }},
		{name: "a branch", kernel: "a", change: func(in *PlanRequest) { fromGit(in, "main") }},
		{name: "a branch that moved", kernel: "a", change: func(in *PlanRequest) { fromGit(in, "moved") }, lacks: "git", why: "the kernel is not known before the build"},
		{name: "no FetchCheck", kernel: "a", change: func(in *PlanRequest) {
			fromGit(in, "main")
			in.Deploy.Route.Fetch.Activity = "x.Fetch"
		}, lacks: "git", why: "the kernel is not known before the build"},
		{name: "a scan", kernel: "a", change: func(in *PlanRequest) {
			in.Deploy.Route.After = map[step.Stage][]step.Step{step.Build: {{Activity: "x.Scan", TaskQueue: "x"}}}
		}, why: "a step after build may change the image"},
		{name: "another build step", kernel: "a", change: func(in *PlanRequest) { in.Deploy.Route.Build.Activity = "x.Build" }, why: "the kernel is not known before the build"},
	} {
		r := newRecorded(t)
		for _, activity := range strings.Fields(test.lacks) {
			r.fail[activity] = temporal.NewApplicationError("no such activity", "ActivityNotRegisteredError")
		}
		register(r, "Built", func(_ context.Context, in step.Spec) (b step.Built, err error) {
			if test.kernel != "" {
				b.Kernel = &step.Kernel{Spec: in, File: file(test.kernel)}
			}
			return b, nil
		})
		r.env.RegisterActivityWithOptions(func(_ context.Context, in step.Spec) (step.Spec, error) {
			in.Origin.Git.Commit = strings.Repeat(map[string]string{"moved": "d"}[in.Origin.Git.Ref]+"c", 40)[:40]
			return in, nil
		}, activity.RegisterOptions{Name: "source.FetchCheck"})
		register(r, "Forecast", func(context.Context, step.Spec) ([]step.Action, error) {
			return []step.Action{{Call: "boot"}}, nil
		})
		register(r, "Observe", func(context.Context, step.Machine) (step.Health, error) {
			return step.Health{State: cmp.Or(test.state, step.Running)}, nil
		})
		in := PlanRequest{Deploy: order("/a", "x")}
		in.Deploy.Spec.Life, in.Deploy.Spec.Generation = "aa", 2
		in.Deploy.Spec.Toolchain.Kind = "lab"
		in.Current = &Current{Image: step.Image{Spec: in.Deploy.Spec}, Route: in.Deploy.Route,
			Machine: step.Machine{ID: "m", Registration: step.Registration{Spec: in.Deploy.Spec}}, Kernel: filesOf(step.Kernel{File: file("a")})}
		if test.change != nil {
			test.change(&in)
		}
		r.env.ExecuteWorkflow(Plan, in)
		var f Forecast
		if err := r.env.GetWorkflowResult(&f); err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if f.Why != test.why || f.Same != (test.why == "") {
			t.Errorf("%s: same %t, why %q; want %q", test.name, f.Same, f.Why, test.why)
		}
		lacks := len(strings.Fields(test.lacks))
		if in.Deploy.Route.Build.Activity == "x.Build" {
			lacks = 1
		}
		if len(f.Unknown) != lacks {
			t.Errorf("%s: unknown %q", test.name, f.Unknown)
		}
		for _, call := range r.calls {
			if name, _, _ := strings.Cut(call, " "); !slices.Contains([]string{"Check", "Built", "Forecast", "Observe"}, name) {
				t.Errorf("%s: it called %s", test.name, call)
			}
		}
	}
}
