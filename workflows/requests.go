package workflows

import (
	"encoding/json"
	"fmt"

	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// DeployRequest is the argument of a Deployment's update "deploy".
type DeployRequest struct {
	// Spec without Life and Generation: the Deployment gives those.
	Spec  step.Spec  `json:"spec"`
	Route step.Route `json:"route"`
	// Keep leaves the pieces of a failed rollout for debugging.
	Keep bool `json:"keep,omitempty"`
	// Force makes a new machine even if the image is the same.
	Force bool `json:"force,omitempty"`
	// TakeOver allows a deploy of another project than the last one's.
	TakeOver bool `json:"takeOver,omitempty"`
}

// Accepted answers the update "deploy": the rollout is running or next in line.
type Accepted struct {
	Tags step.Tags `json:"tags"`
	// RolloutID is the workflow id to follow.
	RolloutID string `json:"rolloutId"`
	// Attached says that the same deploy was going on already.
	Attached bool `json:"attached,omitempty"`
}

// DestroyRequest is the argument of a Deployment's update "destroy". Spec and
// Route say where to look if the Deployment does not know yet: leftovers of a
// deployment that was terminated.
type DestroyRequest struct {
	Spec  step.Spec  `json:"spec"`
	Route step.Route `json:"route"`
	// Forget ends the deployment even if something could not be removed, as on a
	// host that is gone for good.
	Forget bool `json:"forget,omitempty"`
}

// DestroyResult answers the update "destroy".
type DestroyResult struct {
	step.Destroyed
	// Left names what could not be removed and was forgotten.
	Left []string `json:"left,omitempty"`
}

// DeploymentStatus answers a Deployment's query "status".
type DeploymentStatus struct {
	// Project, Folder and Host say where it is deployed from.
	Project string `json:"project,omitempty"`
	Folder  string `json:"folder,omitempty"`
	Host    string `json:"host,omitempty"`
	Kind    string `json:"kind,omitempty"`
	// Generation is the last one given out.
	Generation int `json:"generation"`
	// Machine runs now, nil if none does; Route is the one that made it.
	Machine *step.Machine `json:"machine,omitempty"`
	Route   step.Route    `json:"route"`
	// Rolling is being rolled out, and Queued wait behind it.
	Rolling *step.Tags  `json:"rolling,omitempty"`
	Queued  []step.Tags `json:"queued,omitempty"`
	// Failure is the text of the last rollout's error, empty if it went well.
	Failure string `json:"failure,omitempty"`
	// Left names what should have been removed and could not be, or was kept.
	Left []string `json:"left,omitempty"`
	// Destroying says that the end has been asked for.
	Destroying bool `json:"destroying,omitempty"`
}

// DeploymentState is what a Deployment hands to its next run when it continues
// as new; zero at its start.
type DeploymentState struct {
	Life       string `json:"life,omitempty"`
	Generation int    `json:"generation,omitempty"`
	// Current runs; Previous ran before it, and can be gone back to: its image is
	// in the store.
	Current  *Current `json:"current,omitempty"`
	Previous *Current `json:"previous,omitempty"`
	// Remains are the acts that would remove what rollouts left, wherever it is.
	Remains []*Undo `json:"remains,omitempty"`
	Failure string  `json:"failure,omitempty"`
	// Last is the Spec of the newest accepted deploy.
	Last      step.Spec  `json:"last,omitzero"`
	LastRoute step.Route `json:"lastRoute,omitzero"`
}

func (d *deployment) listen() error {
	err := workflow.SetQueryHandler(d.ctx, QueryStatus, func() (DeploymentStatus, error) { return d.status(), nil })
	if err != nil {
		return err
	}
	err = workflow.SetUpdateHandlerWithOptions(d.ctx, UpdateDeploy, d.accept,
		workflow.UpdateHandlerOptions{Validator: d.acceptable, Description: "roll out a new generation"})
	if err != nil {
		return err
	}
	return workflow.SetUpdateHandlerWithOptions(d.ctx, UpdateDestroy, d.awaitEnd,
		workflow.UpdateHandlerOptions{Validator: d.destroyable, Description: "remove the machine and its image, and end"})
}

// acceptable refuses a deploy before it leaves a trace in history.
func (d *deployment) acceptable(in DeployRequest) error {
	if err := d.addressed(in.Spec); err != nil {
		return err
	}
	last, now := d.Last.Origin, in.Spec.Origin
	switch {
	case d.destroy != nil, d.ctx.Err() != nil:
		return Fail(&step.Error{Kind: step.Conflict, Err: fmt.Errorf("%s/%s is being destroyed", in.Spec.App, in.Spec.Target),
			Hint: "wait for it to end, then deploy again"})
	case last.Folder != "" && !in.TakeOver && !sameProject(last, now):
		return d.foreign("choose another name for this app, or pass --take-over to replace that one; " +
			"a host whose name changes wants MORGANA_HOST")
	}
	return nil
}

// foreign is the Conflict of a request that comes from another project.
func (d *deployment) foreign(hint string) error {
	last := d.Last.Origin
	from := fmt.Sprintf("folder: %s on %s", last.Folder, last.Host)
	if last.Project != "" {
		from = fmt.Sprintf("project: %s (%s on %s)", last.Project, last.Folder, last.Host)
	}
	return Fail(&step.Error{Kind: step.Conflict, Hint: hint,
		Err: fmt.Errorf("%s/%s is deployed from another %s", d.Last.App, d.Last.Target, from)})
}

// sameProject reports whether two deploys come from the same folder, or from
// checkouts of the same repository.
func sameProject(a, b step.Origin) bool {
	return a.Folder == b.Folder && a.Host == b.Host || a.Project != "" && a.Project == b.Project
}

// destroyable refuses a destroy without a Spec before any deploy, and one for the
// project of another folder than the deploys came from.
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

// addressed refuses a request that is meant for another deployment, or for none.
func (d *deployment) addressed(s step.Spec) error {
	id := workflow.GetInfo(d.ctx).WorkflowExecution.ID
	if DeploymentID(s.App, s.Target) == id && s.Kind != "" {
		return nil
	}
	return Fail(&step.Error{Kind: step.InvalidSpec, Err: fmt.Errorf("the request is for %q on %q of kind %q, not for %s",
		s.App, s.Target, s.Kind, id)})
}

// accept gives the request a generation, or attaches it to the same request
// that is going on.
func (d *deployment) accept(ctx workflow.Context, in DeployRequest) (Accepted, error) {
	next := Request{Spec: in.Spec, Route: in.Route, Keep: in.Keep, Force: in.Force}
	if last := d.lastWanted(); last != nil && same(last, &next) {
		return Accepted{Tags: last.Spec.Tags, RolloutID: RolloutID(last.Spec.Tags), Attached: true}, nil
	}
	d.Generation++
	next.Spec.Life, next.Spec.Generation = d.Life, d.Generation
	d.Last, d.LastRoute = next.Spec, next.Route
	d.queue = append(d.queue, next)
	d.describe()
	accepted := Accepted{Tags: next.Spec.Tags, RolloutID: RolloutID(next.Spec.Tags)}
	if told, ok := workflow.GetTypedSearchAttributes(ctx).GetInt64(GenerationAttribute); ok && told == int64(d.Generation) {
		return accepted, nil // as its start told
	}
	return accepted, workflow.UpsertTypedSearchAttributes(ctx, attributes(next.Spec.Tags)...)
}

// lastWanted is the request that will have been rolled out last.
func (d *deployment) lastWanted() *Request {
	if n := len(d.queue); n > 0 {
		return &d.queue[n-1]
	}
	return d.rolling
}

func same(a, b *Request) bool {
	x, y := *a, *b
	x.Current, y.Current, x.Stale, y.Stale = nil, nil, nil, nil
	x.Spec.Life, x.Spec.Generation = y.Spec.Life, y.Spec.Generation
	one, err1 := json.Marshal(x)
	two, err2 := json.Marshal(y)
	return err1 == nil && err2 == nil && string(one) == string(two)
}
