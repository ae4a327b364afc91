package workflows

import (
	"slices"

	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// CancelResult is the result of the update "cancel". It is zero if no rollout was running
// or queued.
type CancelResult struct {
	// Destroyed lists the resources of the running rollout that were removed.
	step.Destroyed
	// Cancelled are the generations whose rollouts were cancelled.
	Cancelled []int `json:"cancelled,omitempty"`
	// Succeeded is the generation of a rollout that had its machine ready before the
	// cancellation; 0 if there is none.
	Succeeded int `json:"succeeded,omitempty"`
	// Left names the resources that could not be removed.
	Left []string `json:"left,omitempty"`
}

// rolloutEnd is how the last rollout ended.
type rolloutEnd struct {
	generation int
	out        Outcome
	err        error
}

// cancelRollouts drops the queued requests, cancels the running rollout and waits until
// it has undone its work. The machine that ran before still runs.
func (d *deployment) cancelRollouts(ctx workflow.Context) (out CancelResult, err error) {
	out.Cancelled = d.dropQueue()
	if d.rolling == nil {
		d.describe()
		return out, nil
	}
	t := d.rolling.Spec.Tags
	d.cancel()
	d.cancelling = true
	if err := d.awaitRollout(ctx, t.Generation); err != nil {
		return out, err
	}
	end := d.lastEnd
	switch {
	case end.generation != t.Generation: // a destroy that forgets does not wait for it
		out.Left = append(out.Left, RolloutID(t)+" goes on to remove its resources")
	case end.err == nil:
		out.Succeeded = t.Generation
		return out, nil
	default:
		out.Removed, out.Left = details(end.err).Removed, Failure(end.err).Left
	}
	out.Cancelled = slices.Insert(out.Cancelled, 0, t.Generation)
	return out, nil
}

// dropQueue drops the queued requests and returns their generations.
func (d *deployment) dropQueue() (dropped []int) {
	for _, q := range d.queue {
		dropped = append(dropped, q.Spec.Generation)
		d.ended(q.Spec.Generation, EndCancelled, 0)
	}
	d.queue = nil
	return dropped
}

// awaitRollout waits until the rollout of a generation has ended or was dropped. d.lastEnd
// is then its end, if it has run.
func (d *deployment) awaitRollout(ctx workflow.Context, generation int) error {
	return workflow.Await(ctx, func() bool {
		return (d.rolling == nil || d.rolling.Spec.Generation != generation) &&
			!slices.ContainsFunc(d.queue, func(r Request) bool { return r.Spec.Generation == generation })
	})
}
