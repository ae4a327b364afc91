package workflows

import (
	"errors"
	"slices"

	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// Rollout takes an app from source to one booted machine:
//
//	check -> configure -> build -> package -> register -> boot
//
// A source in a git repository is fetched before. The fetch is no stage: it only completes
// the origin of the Spec, as the starter does with a source folder, and nothing is undone.
//
// A rollback begins with register: it has the image of an earlier generation. If the policy
// has a probe, the rollout succeeds only when the app on the new machine stays healthy.
//
// It is the workflow "rollout/<app>/<target>/<generation>", a child of the Deployment. If
// it fails or is cancelled, it undoes its stages in reverse order, unless in.Keep is set.
// It destroys the previous machine only when the new one is ready.
//
// The query "status" returns a [RolloutStatus].
func Rollout(ctx workflow.Context, in Request) (out Outcome, err error) {
	r, err := begin(ctx, in)
	if err != nil {
		return out, err
	}
	defer func() { err = r.end(&out, err) }()

	if in.Image != nil {
		out, err = r.again()
	} else {
		out, err = r.make(in)
	}
	if err != nil {
		return out, err
	}
	if unchanged(in, out.Image) { // boot adopts the machine if it still runs
		was := in.Current.Machine.Registration
		out.Machine, err = run[step.Machine](r, step.Boot, was.Spec.Host, was)
		if err == nil && !out.Machine.Ended || ctx.Err() != nil {
			out.Unchanged = true
			return out, err
		}
	}

	if slices.Contains(in.RolledBack, out.Image.Digest) {
		return out, Fail(&step.Error{Kind: step.Conflict, Err: errors.New("this image was rolled back; a schedule does not roll it out again"),
			Hint: "morgana deploy does"})
	}
	spec := out.Image.Spec
	r.undo.add(undoMachine("destroy the new machine and its image", in.Route, step.Removal{Spec: spec}))
	registration, err := run[step.Registration](r, step.Register, spec.Host, out.Image)
	if err != nil {
		return out, err
	}
	out.Machine, err = run[step.Machine](r, step.Boot, spec.Host, registration)
	if err != nil {
		return out, err
	}
	if err = r.probe(out.Machine); err != nil {
		return out, err
	}
	r.retire(spec)
	return out, nil
}

// make is the sentence up to package.
func (r *rollout) make(in Request) (out Outcome, err error) {
	spec, err := r.fetch(in.Spec)
	if err != nil {
		return out, err
	}
	spec, err = run[step.Spec](r, step.Check, anyHost, spec)
	if err != nil {
		return out, err
	}
	if err = checkProbe(r.ctx, in.Route, in.Policy.Health, spec); err != nil {
		r.leave(step.Check, spec, err)
		return out, err
	}

	var source step.Source
	var kernel step.Kernel
	for try := 1; ; try++ { // again if the tree, or its host's worker, is gone
		tree := r.undo.add(undoTree(in.Route, spec))
		if source, err = run[step.Source](r, step.Configure, anyHost, spec); err != nil {
			tree.Host = details(err).Host
			tree.never = Failure(err).Kind == step.NoWorker && tree.Host == ""
			return out, err
		}
		tree.Host, tree.never = source.Host, source.Tree == ""
		if kernel, err = run[step.Kernel](r, step.Build, source.Host, source); err == nil {
			break
		}
		if !treeGone(err) || try == maxConfigures {
			return out, err
		}
	}

	out.Kernel = filesOf(kernel)
	out.Image, err = run[step.Image](r, step.Package, anyHost, kernel)
	return out, err
}
