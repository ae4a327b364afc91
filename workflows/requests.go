package workflows

import (
	"encoding/json"
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// DeployRequest is the argument of a Deployment's update "deploy".
type DeployRequest struct {
	// Spec has no Life and Generation: the Deployment sets them.
	Spec  step.Spec  `json:"spec"`
	Route step.Route `json:"route"`
	// Policy is completed by its defaults.
	Policy step.Policy `json:"policy,omitzero"`
	// Keep leaves the pieces of a failed rollout for debugging.
	Keep bool `json:"keep,omitempty"`
	// Force makes a new machine even if the image is the same.
	Force bool `json:"force,omitempty"`
	// TakeOver allows a deploy from another project than the last one.
	TakeOver bool `json:"takeOver,omitempty"`
}

// Accepted is the result of the update "deploy": the rollout is running or queued.
type Accepted struct {
	Tags step.Tags `json:"tags"`
	// RolloutID is the workflow id of the rollout.
	RolloutID string `json:"rolloutId"`
	// Attached says that the last rollout, running or queued, is the same deploy.
	Attached bool `json:"attached,omitempty"`
	// Of is the generation whose image a rollback boots.
	Of int `json:"of,omitempty"`
}

// DestroyRequest is the argument of a Deployment's update "destroy". A new Deployment
// uses Spec and Route to find the leftovers of one that was terminated.
type DestroyRequest struct {
	Spec  step.Spec  `json:"spec"`
	Route step.Route `json:"route"`
	// Forget ends the deployment even if a resource cannot be removed, as on a host
	// that no longer exists.
	Forget bool `json:"forget,omitempty"`
}

// DestroyResult is the result of the update "destroy".
type DestroyResult struct {
	step.Destroyed
	// Cancelled are the generations whose rollouts it cancelled.
	Cancelled []int `json:"cancelled,omitempty"`
	// Left names the resources that were forgotten.
	Left []string `json:"left,omitempty"`
}

// DeploymentStatus is the result of a Deployment's query "status".
type DeploymentStatus struct {
	// Project, Folder and Host are the origin of the last accepted deploy.
	Project string `json:"project,omitempty"`
	Folder  string `json:"folder,omitempty"`
	Host    string `json:"host,omitempty"`
	// Git is the repository of the last accepted deploy, nil if its source is a folder.
	Git *step.Git `json:"git,omitempty"`
	// Commit is the [step.Origin.Revision] of the last successful deploy: the current
	// machine's, or one that made the same image.
	Commit string `json:"commit,omitempty"`
	Kind   string `json:"kind,omitempty"`
	// Started is when the deployment began.
	Started time.Time `json:"started,omitzero"`
	// Generation is that of the last accepted deploy.
	Generation int `json:"generation"`
	// Machine is the running machine, nil if there is none. Route is the route that
	// made it, or that of the last accepted deploy.
	Machine *step.Machine `json:"machine,omitempty"`
	Route   step.Route    `json:"route"`
	// RolledBackTo is the earlier generation whose image the machine runs after a rollback.
	RolledBackTo int `json:"rolledBackTo,omitempty"`
	// LastDeploy is how the last rollout ended: [EndFailed], [EndRolledBack] if its app was
	// not healthy, or [EndCancelled]; empty if it went well.
	LastDeploy End `json:"lastDeploy,omitempty"`
	// Rolling is the running rollout, Queued are those that wait for it.
	Rolling *step.Tags  `json:"rolling,omitempty"`
	Queued  []step.Tags `json:"queued,omitempty"`
	// Failure is the text of the last rollout's error, empty if it went well or was cancelled.
	Failure string `json:"failure,omitempty"`
	// Left lists the resources that rollouts could not remove or were told to keep.
	Left []string `json:"left,omitempty"`
	// Destroying says that a destroy was requested.
	Destroying bool `json:"destroying,omitempty"`
	// Policy, Watch and Restarts are of Machine.
	Policy   step.Policy `json:"policy,omitzero"`
	Watch    Watch       `json:"watch,omitzero"`
	Restarts int         `json:"restarts,omitempty"`
}

// DeploymentState is the input of a Deployment: zero at its start, its state when it
// continues as new.
type DeploymentState struct {
	Life       string    `json:"life,omitempty"`
	Started    time.Time `json:"started,omitzero"`
	Generation int       `json:"generation,omitempty"`
	// Current runs. Kept ran before it, the newest first; their images are still registered.
	Current *Current   `json:"current,omitempty"`
	Kept    []*Current `json:"kept,omitempty"`
	// Remains are the acts that would remove the leftovers of rollouts, in any place.
	Remains []*Undo `json:"remains,omitempty"`
	// Commit is that of DeploymentStatus.
	Commit string `json:"commit,omitempty"`
	// History lists the last generations, the oldest first.
	History []Generation `json:"history,omitempty"`
	// Last is the Spec of the newest accepted deploy that was not cancelled.
	Last      step.Spec  `json:"last,omitzero"`
	LastRoute step.Route `json:"lastRoute,omitzero"`
	// Repeat is the request that a redeploy repeats: the last one whose rollout ended and
	// was not cancelled. A destroy makes it nil: if the destroy fails, no restart and no
	// schedule boots the machine again.
	Repeat *DeployRequest `json:"repeat,omitempty"`
	// RolledBack are the digests of images that were rolled back and not current since, the
	// newest last.
	RolledBack []string `json:"rolledBack,omitempty"`
	// Redeployed is the last redeploy.
	Redeployed *Redeployed `json:"redeployed,omitempty"`
	// Policy is that of the last rollout that succeeded.
	Policy step.Policy `json:"policy,omitzero"`
	Watch  Watch       `json:"watch,omitzero"`
}

// DeploymentDetails is the result of a Deployment's query "details": all that it knows.
type DeploymentDetails struct {
	DeploymentState
	Rolling *Request  `json:"rolling,omitempty"`
	Queued  []Request `json:"queued,omitempty"`
}

func (d *deployment) listen() error {
	for _, q := range []struct {
		name   string
		answer any
	}{
		{QueryStatus, func() (DeploymentStatus, error) { return d.status(), nil }},
		{QueryHistory, d.history},
		{QueryDetails, func() (DeploymentDetails, error) {
			return DeploymentDetails{d.DeploymentState, d.rolling, d.queue}, nil
		}},
	} {
		if err := workflow.SetQueryHandler(d.ctx, q.name, q.answer); err != nil {
			return err
		}
	}
	for _, u := range []struct {
		name        string
		do, valid   any
		description string
	}{
		{UpdateDeploy, d.accept, d.acceptable, "roll out a new generation"},
		{UpdateRollback, d.rollBack, d.canRollBack, "boot the image of an earlier generation"},
		{UpdateCancel, d.cancelRollouts, nil, "cancel the running and queued rollouts; the machine stays"},
		{UpdateRedeploy, d.redeploy, d.redeployable, "roll out the last request again, and wait for it"},
		{UpdateDestroy, d.awaitEnd, d.destroyable, "remove the machine and its image, and end"},
	} {
		err := workflow.SetUpdateHandlerWithOptions(d.ctx, u.name, u.do, workflow.UpdateHandlerOptions{Validator: u.valid, Description: u.description})
		if err != nil {
			return err
		}
	}
	return nil
}

// acceptable is the validator of deploy. A refused request is not written to history.
func (d *deployment) acceptable(in DeployRequest) error {
	if err := d.addressed(in.Spec); err != nil {
		return err
	}
	if err := in.Policy.WithDefaults().Valid(); err != nil {
		return Fail(err)
	}
	if err := d.beingDestroyed("deploy"); err != nil {
		return err
	}
	return d.Foreign(in)
}

// Foreign refuses a deploy from another project than the last deploy's.
func (d *DeploymentState) Foreign(in DeployRequest) error {
	if last := d.Last.Origin; last.Folder == "" || in.TakeOver || sameProject(last, in.Spec.Origin) {
		return nil
	}
	return d.foreign("choose another name for this app, or pass --take-over to replace that one; " +
		"a host whose name changes wants MORGANA_HOST")
}

// foreign returns the Conflict error of a request from another project.
func (d *DeploymentState) foreign(hint string) error {
	last := d.Last.Origin
	from := fmt.Sprintf("folder: %s on %s", last.Folder, last.Host)
	if last.Project != "" {
		from = fmt.Sprintf("project: %s (%s on %s)", last.Project, last.Folder, last.Host)
	}
	return Fail(&step.Error{Kind: step.Conflict, Hint: hint,
		Err: fmt.Errorf("%s/%s is deployed from another %s", d.Last.App, d.Last.Target, from)})
}

// sameProject reports whether two deploys are from the same folder of the same host, or
// from checkouts of the same repository.
func sameProject(a, b step.Origin) bool {
	return a.Folder == b.Folder && a.Host == b.Host || a.Project != "" && a.Project == b.Project
}

// destroyable is the validator of destroy. It refuses a request from another project than
// the last deploy's. A request without Origin is accepted. A Deployment without a deploy
// needs the request's Spec.
func (d *deployment) destroyable(in DestroyRequest) error {
	last, now := d.Last.Origin, in.Spec.Origin
	switch {
	case d.Last.App == "":
		return d.addressed(in.Spec)
	case last.Folder != "" && now.Folder != "" && !sameProject(last, now):
		return d.foreign(fmt.Sprintf("to destroy it all the same, name it: morgana destroy %s/%s", d.Last.App, d.Last.Target))
	}
	return nil
}

// addressed refuses a Spec of another deployment, or one without a kind.
func (d *deployment) addressed(s step.Spec) error {
	id := workflow.GetInfo(d.ctx).WorkflowExecution.ID
	if DeploymentID(s.App, s.Target) == id && s.Kind != "" {
		return nil
	}
	return Fail(&step.Error{Kind: step.InvalidSpec, Err: fmt.Errorf("the request is for %q on %q of kind %q, not for %s",
		s.App, s.Target, s.Kind, id)})
}

// accept queues a deploy as a new generation. If the last rollout that runs or is queued
// is the same deploy, accept returns that rollout and queues nothing.
func (d *deployment) accept(ctx workflow.Context, in DeployRequest) (Accepted, error) {
	next := Request{Spec: in.Spec, Route: in.Route, Policy: in.Policy.WithDefaults(), Keep: in.Keep, Force: in.Force, Why: ByDeploy}
	return d.attach(ctx, next)
}

// attach returns the last rollout that runs or is queued if it is for the same request.
// Otherwise it queues the request.
func (d *deployment) attach(ctx workflow.Context, next Request) (Accepted, error) {
	last := d.lastWanted()
	if last == d.rolling && moving(next.Spec.Origin) {
		last = nil // the running rollout may have fetched an older commit
	}
	if last != nil && same(last, &next) {
		return Accepted{Tags: last.Spec.Tags, RolloutID: RolloutID(last.Spec.Tags), Attached: true}, nil
	}
	return d.enqueue(ctx, next)
}

// enqueue gives a request a generation and queues it.
func (d *deployment) enqueue(ctx workflow.Context, next Request) (Accepted, error) {
	d.Generation++
	next.Spec.Life, next.Spec.Generation = d.Life, d.Generation
	d.Last, d.LastRoute = next.Spec, next.Route
	d.queue = append(d.queue, next)
	d.begin(next)
	d.describe()
	accepted := Accepted{Tags: next.Spec.Tags, RolloutID: RolloutID(next.Spec.Tags)}
	if told, ok := workflow.GetTypedSearchAttributes(ctx).GetInt64(GenerationAttribute); ok && told == int64(d.Generation) {
		return accepted, nil // set when the workflow was started
	}
	return accepted, workflow.UpsertTypedSearchAttributes(ctx, attributes(next.Spec.Tags)...)
}

// lastWanted returns the last request that is queued or running, nil if there is none or it
// was cancelled.
func (d *deployment) lastWanted() *Request {
	switch n := len(d.queue); {
	case n > 0:
		return &d.queue[n-1]
	case d.cancelling:
		return nil
	}
	return d.rolling
}

func same(a, b *Request) bool {
	x, y := *a, *b
	x.Current, y.Current, x.Kept, y.Kept, x.Stale, y.Stale, x.Why, y.Why = nil, nil, nil, nil, nil, nil, "", ""
	x.RolledBack, y.RolledBack = nil, nil
	x.Spec.Life, x.Spec.Generation = y.Spec.Life, y.Spec.Generation
	one, err1 := json.Marshal(x)
	two, err2 := json.Marshal(y)
	return err1 == nil && err2 == nil && string(one) == string(two)
}
