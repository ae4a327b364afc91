package workflows

import (
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// ListRequest is the input of List. Its Spec gives the place.
type ListRequest struct {
	Step step.Step `json:"step"`
	Spec step.Spec `json:"spec"`
}

// List lists the resources in one place. It is a workflow for the same reason as
// [Console].
func List(ctx workflow.Context, in ListRequest) (all []step.Resource, err error) {
	o := planOptions()
	o.ScheduleToStartTimeout = 30 * time.Second
	if err := execute(ctx, in.Step, in.Spec.Host, o, "resources in "+in.Step.Queue(in.Spec.Host), in.Spec, &all); err != nil {
		return nil, Fail(Failure(err))
	}
	return all, nil
}

// Swept is the result of one act of Sweep.
type Swept struct {
	step.Destroyed
	// Failure is the text of the error, empty if it went well.
	Failure string `json:"failure,omitempty"`
}

// sweepers bounds how many acts of a Sweep run at the same time.
const sweepers = 8

// Sweep runs acts that remove what belongs to no running Deployment. Which resources
// these are is decided by the starter. It returns the results in the order of the acts.
func Sweep(ctx workflow.Context, acts []*Undo) ([]Swept, error) {
	results := make([]Swept, len(acts))
	next := 0
	together(ctx, make([]struct{}, min(sweepers, len(acts))), func(ctx workflow.Context, _ struct{}) {
		for next < len(acts) {
			at := next
			next++
			removed, err := acts[at].run(ctx, destroyOptions())
			results[at].Destroyed = removed
			if err != nil {
				results[at].Failure = acts[at].Failure
			}
		}
	})
	return results, ctx.Err()
}
