package workflows

import (
	"fmt"

	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// ObserveRequest is the input of Observe: machines with the same step and host.
type ObserveRequest struct {
	Step     step.Step      `json:"step"`
	Machines []step.Machine `json:"machines"`
}

// Observed is the answer about one machine.
type Observed struct {
	// Health is nil if the target was not reached or does not observe.
	Health *step.Health `json:"health,omitempty"`
	// Failure says why the target was not reached; empty if it does not observe.
	Failure string `json:"failure,omitempty"`
}

// Observe asks for the states of machines, all at the same time and each with a time limit.
// It is a workflow for the same reason as [Console]. One activity asks for all, if the
// worker has it; otherwise one activity asks for each.
func Observe(ctx workflow.Context, in ObserveRequest) (out []Observed, err error) {
	if len(in.Machines) > 1 {
		all := in.Step
		all.Activity += "All"
		host := in.Machines[0].Registration.Spec.Host
		err = execute(ctx, all, host, observeOptions(), fmt.Sprintf("%d machines", len(in.Machines)), in.Machines, &out)
		if !NotRegistered(err) {
			return out, Fail(err)
		}
	}
	out = make([]Observed, len(in.Machines))
	numbers := make([]int, len(in.Machines))
	for i := range numbers {
		numbers[i] = i
	}
	together(ctx, numbers, func(ctx workflow.Context, i int) {
		m := in.Machines[i]
		var health step.Health
		err := execute(ctx, in.Step, m.Registration.Spec.Host, observeOptions(), "machine "+m.ID, m, &health)
		switch {
		case NotRegistered(err):
		case err != nil:
			out[i].Failure = Failure(err).Error()
		default:
			out[i].Health = &health
		}
	})
	return out, ctx.Err()
}
