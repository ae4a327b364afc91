package workflows

import (
	"errors"
	"fmt"

	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// fetch completes the origin of a Spec whose source is in a git repository. It returns any
// other Spec as it is.
func (r *rollout) fetch(spec step.Spec) (step.Spec, error) {
	if spec.Origin.Git == nil {
		return spec, nil
	}
	out, err := run[step.Spec](r, step.Fetch, anyHost, spec)
	if err != nil {
		return out, err
	}
	o := out.Origin
	if o.Git.Commit == "" || o.Archive == nil && o.Kernel == nil {
		return out, Fail(&step.Error{Kind: step.InvalidSpec, Op: "result of " + r.in.Route.Fetch.Activity,
			Err: errors.New("it has no commit, or neither archive nor kernel"), Hint: "see step/testdata/spec_fetched.json"})
	}
	r.status.Commit = o.Git.Commit
	what, file := "source", o.Archive
	if o.Kernel != nil {
		what, file = "kernel", o.Kernel
	}
	r.stage(step.Fetch).Result = fmt.Sprintf("commit %s, %s %s", o.Git.Commit, what, Size(file.Size))
	r.describe()
	return out, workflow.UpsertTypedSearchAttributes(r.ctx, commit(o)...)
}

// moving reports whether the same request may mean another commit later.
func moving(o step.Origin) bool { return o.Git != nil && !o.Git.Pinned() }
