package workflows

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// PlanRequest is the input of Plan. Its Spec has the tags of the rollout that a deploy
// would start.
type PlanRequest struct {
	Deploy DeployRequest `json:"deploy"`
	// Current is the running machine, nil if there is none.
	Current *Current `json:"current,omitempty"`
}

// Forecast is the result of Plan.
type Forecast struct {
	// Spec is as Check completed it.
	Spec step.Spec `json:"spec"`
	// Built is nil if the toolchain cannot tell whether it has to build.
	Built *step.Built `json:"built,omitempty"`
	// Actions are those of register and boot, nil if the target cannot tell.
	Actions []step.Action `json:"actions"`
	// Health is the running machine's, nil if there is none or the target cannot tell.
	Health *step.Health `json:"health,omitempty"`
	// Same says that a rollout would make the image that runs, by the same steps, and keep
	// its machine, or start it again if it is gone. Otherwise Why gives the reason.
	Same bool   `json:"same,omitempty"`
	Why  string `json:"why,omitempty"`
	// Unknown lists in words for the user what could not be found out.
	Unknown []string `json:"unknown,omitempty"`
}

// Plan forecasts a rollout: it runs Check, and asks the toolchain and the target. None of
// them makes anything.
func Plan(ctx workflow.Context, in PlanRequest) (f Forecast, err error) {
	route, tags := in.Deploy.Route, in.Deploy.Spec.Tags
	summary := tags.App + " on " + tags.Target
	spec, err := resolve(ctx, route, in.Deploy.Spec)
	if err == nil {
		err = execute(ctx, route.Check, anyHost, planOptions(), summary, spec, &f.Spec)
	}
	if err != nil {
		return f, Fail(Failure(err))
	}
	if err := blame(route.Check, step.SameOwner(step.Check, spec, f.Spec)); err != nil {
		return f, err
	}
	if err := checkProbe(ctx, route, in.Deploy.Policy.Health, f.Spec); err != nil {
		return f, Fail(Failure(err))
	}
	if git := f.Spec.Origin.Git; git != nil && in.Current != nil {
		if was := in.Current.Image.Spec.Origin; was.Git != nil {
			same := *was.Git
			same.Ref = git.Ref
			if same == *git { // the fetch would give that source again
				f.Spec.Origin = was
			}
		}
	}
	var failed error
	ask := func(ctx workflow.Context, s step.Step, host, lacks string, in, out any) bool {
		err := execute(ctx, s, host, planOptions(), summary, in, out)
		switch {
		case err == nil:
			return true
		case NotRegistered(err):
			f.Unknown = append(f.Unknown, lacks)
		case failed == nil:
			failed = err
			if s.TaskQueue == f.Spec.Toolchain.Kind {
				failed = ofToolchain(err)
			}
		}
		return false
	}
	together(ctx, []func(workflow.Context){
		func(ctx workflow.Context) {
			s, ok := asksBuilt(route, f.Spec)
			if o := f.Spec.Origin; o.Git != nil && o.Archive == nil && o.Kernel == nil {
				why := "deploy resolves the commit of the source in git"
				if o.Git.Commit != "" {
					why = fmt.Sprintf("commit %.12s is not fetched yet", o.Git.Commit)
				}
				f.Unknown = append(f.Unknown, "whether the kernel is built already: "+why)
				return
			}
			if !ok {
				f.Unknown = append(f.Unknown, "whether the kernel is built already: step "+route.Build.Activity+" does not tell")
				return
			}
			var built step.Built
			if ask(ctx, s, anyHost, "whether the kernel is built already: toolchain "+f.Spec.Toolchain.Kind+" does not tell", f.Spec, &built) {
				f.Built = &built
			}
		},
		func(ctx workflow.Context) {
			ask(ctx, route.Forecast, f.Spec.Host, "the actions of register and boot: kind "+f.Spec.Kind+" has no Forecast", f.Spec, &f.Actions)
		},
		func(ctx workflow.Context) {
			if in.Current == nil {
				return
			}
			var health step.Health
			m := in.Current.Machine
			if ask(ctx, in.Current.Route.Observe, m.Registration.Spec.Host, "whether the machine runs: its kind has no Observe", m, &health) {
				f.Health = &health
			}
		},
	}, func(ctx workflow.Context, ask func(workflow.Context)) { ask(ctx) })
	if failed != nil {
		return f, Fail(Failure(failed))
	}
	slices.Sort(f.Unknown)
	f.Why = change(in, f)
	f.Same = f.Why == ""
	return f, nil
}

// resolve completes the origin of a Spec whose source is in a git repository, as far as that
// is known without a fetch.
func resolve(ctx workflow.Context, route step.Route, spec step.Spec) (out step.Spec, err error) {
	if spec.Origin.Git == nil {
		return spec, nil
	}
	s, o := route.Fetch, planOptions()
	s.Activity += "Check"
	o.RetryPolicy.MaximumAttempts = 1 // a try waits a minute for a server that does not answer
	err = execute(ctx, s, anyHost, o, "commit of "+spec.Origin.Git.URL, spec, &out)
	if NotRegistered(err) {
		return spec, nil
	}
	if err != nil {
		return out, err
	}
	return out, blame(s, step.SameOwner(step.Fetch, spec, out))
}

// asksBuilt returns the step that asks the toolchain for an earlier build. ok is false if
// other steps than the toolchain's make the kernel.
func asksBuilt(route step.Route, spec step.Spec) (s step.Step, ok bool) {
	own := step.NewRoute(spec.Toolchain.Kind, spec.Kind)
	s = step.Step{Activity: spec.Toolchain.Kind + ".Built", TaskQueue: spec.Toolchain.Kind}
	return s, route.Configure == own.Configure && route.Build == own.Build
}

// change says why a rollout makes a new machine, "" if the running one has the image. It
// relies on package giving the same image for the same kernel and options.
func change(in PlanRequest, f Forecast) string {
	was := in.Current
	switch {
	case was == nil:
		return "no machine runs"
	case in.Deploy.Force:
		return "a new machine is forced"
	case !sameMaker(in.Deploy.Route, was.Route) || in.Deploy.Route.Package != was.Route.Package:
		return "other steps make the machine"
	case !equalJSON(was.Image.Spec.Options, f.Spec.Options):
		return "the target's options differ"
	case f.Built == nil:
		return "the kernel is not known before the build"
	case f.Built.Kernel == nil:
		return "the kernel is built"
	case step.DigestOf(filesOf(*f.Built.Kernel)) != step.DigestOf(was.Kernel):
		return "the kernel differs"
	}
	for _, stage := range []step.Stage{step.Configure, step.Build, step.Package} {
		if len(in.Deploy.Route.After[stage]) > 0 {
			return "a step after " + string(stage) + " may change the image"
		}
	}
	if f.Health != nil && f.Health.State == step.Ended { // boot does not start it again
		return "the machine has ended"
	}
	return ""
}

// filesOf returns the files of a kernel under the names that identify it.
func filesOf(k step.Kernel) []step.File {
	return append([]step.File{{Name: "kernel", Artifact: k.File}}, k.Files...)
}

func equalJSON(a, b json.RawMessage) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

// notRegistered are the error types for an activity that a worker does not have, of the
// SDKs for Go and Python.
var notRegistered = []string{"ActivityNotRegisteredError", "NotFoundError"}

// NotRegistered reports whether err says that the worker does not have the activity.
func NotRegistered(err error) bool {
	var app *temporal.ApplicationError
	return errors.As(err, &app) && slices.Contains(notRegistered, app.Type())
}

// planOptions give up soon: a user waits.
func planOptions() workflow.ActivityOptions {
	o := optionsOf(step.Check)
	o.RetryPolicy = retry(3)
	o.RetryPolicy.NonRetryableErrorTypes = append(o.RetryPolicy.NonRetryableErrorTypes, notRegistered...)
	return o
}
