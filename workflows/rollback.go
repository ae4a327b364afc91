package workflows

import (
	"errors"
	"fmt"
	"strings"

	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// RollbackRequest is the argument of a Deployment's update "rollback", whose result is
// [Accepted].
type RollbackRequest struct {
	// To is the generation whose image is booted. 0 is the newest one before the current
	// one that has another image and was not rolled back.
	To int `json:"to,omitempty"`
}

// rollBack queues a generation that boots an earlier one's image. If the last rollout that
// runs or is queued is that rollback, it returns that rollout and queues nothing.
func (d *deployment) rollBack(ctx workflow.Context, in RollbackRequest) (Accepted, error) {
	if last := d.lastWanted(); last != nil {
		return Accepted{Tags: last.Spec.Tags, RolloutID: RolloutID(last.Spec.Tags), Attached: true, Of: last.Of}, nil
	}
	back, err := d.earlier(in.To)
	if err != nil {
		return Accepted{}, err
	}
	next := Request{Spec: back.Image.Spec, Route: back.Route, Policy: d.Policy, Why: ByRollback,
		Of: back.generation(), Image: &back.Image, Kernel: back.Kernel}
	accepted, err := d.enqueue(ctx, next)
	accepted.Of = next.Of
	return accepted, err
}

// canRollBack is the validator of rollback.
func (d *deployment) canRollBack(in RollbackRequest) error {
	if err := d.beingDestroyed("roll back"); err != nil {
		return err
	}
	last := d.lastWanted()
	if last == nil {
		_, err := d.earlier(in.To)
		return err
	}
	if last.Of != 0 && (in.To == 0 || in.To == last.Of) {
		return nil
	}
	if last = d.rolling; last == nil {
		last = &d.queue[0]
	}
	// Its end decides which generations are kept.
	return Fail(&step.Error{Kind: step.Conflict, Err: fmt.Errorf("generation %d of %s is being rolled out", last.Spec.Generation, d.name()),
		Hint: "wait for it to end, or morgana cancel " + d.name()})
}

func (d *deployment) name() string { return d.Last.App + "/" + d.Last.Target }

// beingDestroyed returns the Conflict error of a request to a deployment that is ending.
func (d *deployment) beingDestroyed(what string) error {
	if d.destroy == nil && d.ctx.Err() == nil {
		return nil
	}
	_, name, _ := strings.Cut(workflow.GetInfo(d.ctx).WorkflowExecution.ID, "/")
	return Fail(&step.Error{Kind: step.Conflict, Err: fmt.Errorf("%s is being destroyed", name), Hint: "wait for it to end, then " + what + " again"})
}

// earlier returns the kept generation that a rollback boots.
func (d *deployment) earlier(to int) (*Current, error) {
	refuse := func(kind step.Kind, hint, format string, args ...any) (*Current, error) {
		return nil, Fail(&step.Error{Kind: kind, Hint: hint, Err: fmt.Errorf(format, args...)})
	}
	var kept []string
	for _, k := range d.Kept {
		if to == k.generation() || to == 0 && d.Current != nil &&
			d.record(k.generation()).End != EndRolledBack && k.Image.Digest != d.Current.Image.Digest {
			return k, nil
		}
		kept = append(kept, fmt.Sprint(k.generation()))
	}
	have := "keep in morgana.yaml says how many generations stay registered, the running one included"
	if len(kept) > 0 {
		have = "those that can be booted: --to " + strings.Join(kept, ", --to ")
	}
	current, runs := 0, &Generation{}
	if d.Current != nil {
		current = d.Current.generation()
		runs = d.record(current)
	}
	switch g := d.record(to); {
	case to == 0 && len(kept) > 0:
		return refuse(step.NotFound, have, "%s has no earlier generation with another image that was not rolled back", d.name())
	case to == 0:
		return refuse(step.NotFound, have, "%s has no earlier generation to go back to", d.name())
	case to < 0 || to > d.Generation:
		return refuse(step.NotFound, "see morgana history "+d.name(), "%s has no generation %d", d.name(), to)
	case to == current:
		return refuse(step.Conflict, have, "generation %d of %s runs already", to, d.name())
	case to == runs.Of:
		return refuse(step.Conflict, have, "generation %d of %s, which runs, is a rollback to generation %d", current, d.name(), to)
	case g.End == EndUnchanged:
		return refuse(step.NotFound, have, "generation %d of %s has the image of generation %d", to, d.name(), g.By)
	case g.Failure != "" || g.End == EndCancelled:
		return refuse(step.NotFound, have, "generation %d of %s never became the current one", to, d.name())
	}
	return refuse(step.NotFound, have, "the image of generation %d of %s was removed", to, d.name())
}

// imageOf returns the generation that made the image of a generation.
func (d *deployment) imageOf(generation int) int {
	for of := d.record(generation).Of; of != 0; of = d.record(generation).Of {
		generation = of
	}
	return generation
}

// again is the part of a rollback that stands for the stages before register.
func (r *rollout) again() (out Outcome, err error) {
	if r.in.Image.Digest == "" {
		return out, Fail(&step.Error{Kind: step.InvalidSpec, Err: errors.New("the request has no image")})
	}
	for i, s := range r.status.Stages {
		if s.Stage == step.Register {
			break
		}
		r.status.Stages[i].State = Skipped
	}
	r.stage(step.Package).Result = fmt.Sprintf("the image of generation %d", r.in.Of)
	out.Image, out.Kernel = *r.in.Image, r.in.Kernel
	out.Image.Spec = r.in.Spec
	return out, nil
}
