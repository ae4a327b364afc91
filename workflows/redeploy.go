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
	// ID names the request. A redeploy of the same id as the last one returns its result,
	// also after a continue-as-new, when the server has forgotten the id of the update.
	ID string `json:"id,omitempty"`
}

// Redeployed is how the last redeploy that had an id ended.
type Redeployed struct {
	ID     string         `json:"id"`
	Result RedeployResult `json:"result"`
	// Kind and Failure are those of its error.
	Kind    step.Kind `json:"kind,omitempty"`
	Failure string    `json:"failure,omitempty"`
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
	if err := d.beingDestroyed("redeploy"); err != nil {
		return err
	}
	if d.repeated() == nil {
		return Fail(&step.Error{Kind: step.NotFound, Err: errors.New("there is no deploy to repeat"),
			Hint: "a redeploy repeats the last deploy that was not cancelled; there was none since the last destroy"})
	}
	return nil
}

// repeated returns the request that a redeploy repeats: the one that runs or is queued, or
// else Repeat.
func (d *deployment) repeated() *DeployRequest {
	if last := d.lastWanted(); last != nil {
		return last.repeat()
	}
	return d.Repeat
}

// repeat returns the request that asks for the same machine as it did before its fetch and
// check. A later rollout of it completes its Spec anew.
func (r *Request) repeat() *DeployRequest {
	s := r.Spec
	s.Host, s.Alone = "", false
	if s.Origin.Git != nil {
		git := *s.Origin.Git
		git.Commit = ""
		s.Origin.Git, s.Origin.Archive, s.Origin.Kernel = &git, nil, nil
	}
	return &DeployRequest{Spec: s, Route: r.Route, Policy: r.Policy}
}

// settle makes the request of a rollout that ended the one to repeat, unless it was
// cancelled: then the request before it is the last one again.
func (d *deployment) settle(did *Request, err error) {
	if d.destroy == nil && (err == nil || !d.cancelling && !cancelled(err)) {
		d.Repeat = did.repeat()
	}
	if d.Repeat != nil && len(d.queue) == 0 {
		d.Last, d.LastRoute = d.Repeat.Spec, d.Repeat.Route
	}
}

// redeploy rolls out the last request again and waits for the end of the rollout.
func (d *deployment) redeploy(ctx workflow.Context, in RedeployRequest) (out RedeployResult, err error) {
	switch last := d.Redeployed; {
	case in.ID == "":
	case last == nil || last.ID != in.ID:
		defer func() {
			d.Redeployed = &Redeployed{ID: in.ID, Result: out}
			if f := Failure(err); err != nil {
				d.Redeployed.Kind, d.Redeployed.Failure = f.Kind, f.Error()
			}
		}()
	case last.Failure != "":
		return last.Result, Fail(&step.Error{Kind: last.Kind, Err: errors.New(last.Failure)})
	default:
		return last.Result, nil
	}
	again := d.repeated()
	next := Request{Spec: again.Spec, Route: again.Route, Policy: again.Policy, Why: BySchedule}
	next.Spec.Rebuild = in.Rebuild
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
		f, s := Failure(end.err), d.status()
		s.Back(f)
		return out, Fail(f)
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
func (d *deployment) unschedule(ctx workflow.Context) (removed step.Destroyed, left []string) {
	ctx = workflow.WithActivityOptions(ctx, unscheduleOptions())
	err := workflow.ExecuteActivity(ctx, ActivityUnschedule, d.Last.Tags).Get(ctx, &removed)
	if err != nil {
		left = append(left, fmt.Sprintf("could not remove %s: %s", ScheduleID(d.Last.App, d.Last.Target), Failure(err)))
	}
	return removed, left
}
