package workflows

import (
	"errors"
	"fmt"

	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// RedeployRequest is the argument of a Deployment's update "redeploy".
type RedeployRequest struct {
	// Rebuild makes the build look up its dependencies anew.
	Rebuild bool `json:"rebuild,omitempty"`
}

// RedeployResult is the result of the update "redeploy" and of the workflow Redeploy.
type RedeployResult struct {
	Tags      step.Tags `json:"tags"`
	RolloutID string    `json:"rolloutId"`
	// Unchanged says that the machine that ran before was kept.
	Unchanged bool `json:"unchanged,omitempty"`
	// Running is the generation of the running machine.
	Running int `json:"running"`
	// Revision is the commit of the source, see [step.Origin.Revision].
	Revision string `json:"revision,omitempty"`
	// Left lists the resources that could not be removed.
	Left []string `json:"left,omitempty"`
}

// redeployable is the validator of redeploy.
func (d *deployment) redeployable(RedeployRequest) error {
	if d.Last.App == "" {
		return Fail(&step.Error{Kind: step.NotFound, Err: errors.New("there is no deploy to repeat")})
	}
	return d.beingDestroyed("redeploy")
}

// redeploy rolls out the last request again and waits for the end of the rollout.
func (d *deployment) redeploy(ctx workflow.Context, in RedeployRequest) (out RedeployResult, err error) {
	next := Request{Spec: d.Last, Route: d.LastRoute, Policy: d.Policy.WithDefaults(), Why: BySchedule}
	next.Spec.Rebuild = in.Rebuild
	if last := d.lastWanted(); last != nil {
		next.Policy = last.Policy
	}
	accepted, err := d.attach(ctx, next)
	if err != nil {
		return out, err
	}
	out = RedeployResult{Tags: accepted.Tags, RolloutID: accepted.RolloutID}
	if err := d.awaitRollout(ctx, out.Tags.Generation); err != nil {
		return out, err
	}
	end := d.lastEnd
	switch {
	case end.generation != out.Tags.Generation:
		return out, Fail(&step.Error{Kind: step.Conflict, Op: out.RolloutID, Err: errors.New("cancelled before it began")})
	case end.err != nil:
		return out, Fail(Failure(end.err))
	}
	out.Unchanged, out.Left = end.out.Unchanged, end.out.Left
	out.Running = end.out.Machine.Registration.Spec.Generation
	out.Revision = end.out.Image.Spec.Origin.Revision()
	return out, nil
}

// RedeployInput is the input of the workflow Redeploy.
type RedeployInput struct {
	App    string `json:"app"`
	Target string `json:"target"`
	RedeployRequest
}

// The activities of the worker itself, on [TaskQueue].
const (
	// ActivityRedeploy takes a [RedeployInput], sends the Deployment the update
	// "redeploy" and returns its result.
	ActivityRedeploy = "morgana.Redeploy"
	// ActivityUnschedule takes the [step.Tags] of a Deployment, removes its schedule and
	// returns a [step.Destroyed].
	ActivityUnschedule = "morgana.Unschedule"
)

// Redeploy is the workflow "redeploy/<app>/<target>-<time>", which a schedule starts. It
// rolls out the last request of a Deployment again. It fails if the rollout fails or if
// the Deployment does not run; then it makes nothing.
func Redeploy(ctx workflow.Context, in RedeployInput) (out RedeployResult, err error) {
	o := redeployOptions()
	o.Summary = in.App + " on " + in.Target
	err = workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, o), ActivityRedeploy, in).Get(ctx, &out)
	return out, err
}

// unschedule removes the schedule of a Deployment that ends. A schedule that stays is
// listed as left: its redeploys fail, since they find no Deployment.
func (d *deployment) unschedule(ctx workflow.Context) {
	var removed step.Destroyed
	ctx = workflow.WithActivityOptions(ctx, unscheduleOptions())
	err := workflow.ExecuteActivity(ctx, ActivityUnschedule, d.Last.Tags).Get(ctx, &removed)
	e := &d.destroy.result
	e.Removed = append(e.Removed, removed.Removed...)
	if err != nil {
		e.Left = append(e.Left, fmt.Sprintf("could not remove %s: %s", ScheduleID(d.Last.App, d.Last.Target), Failure(err)))
	}
}
