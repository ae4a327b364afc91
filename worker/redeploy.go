package main

import (
	"context"
	"errors"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// redeployer has the activities that ask the Temporal server itself.
type redeployer struct{ client client.Client }

func (r *redeployer) register(w worker.ActivityRegistry) {
	w.RegisterActivityWithOptions(r.redeploy, activity.RegisterOptions{Name: workflows.ActivityRedeploy})
	w.RegisterActivityWithOptions(r.unschedule, activity.RegisterOptions{Name: workflows.ActivityUnschedule})
}

// redeploy is [workflows.ActivityRedeploy]. A rollout that failed is not tried again.
// Without an answer the next try waits for the same rollout, since the id of the update is
// that of the workflow's run.
func (r *redeployer) redeploy(ctx context.Context, in workflows.RedeployInput) (out workflows.RedeployResult, err error) {
	name := in.App + "/" + in.Target
	step.Report(ctx, step.Progress{Note: "waiting for the rollout of " + name})
	in.ID = activity.GetInfo(ctx).WorkflowExecution.RunID
	handle, err := r.client.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
		UpdateID:   in.ID,
		WorkflowID: workflows.DeploymentID(in.App, in.Target), UpdateName: workflows.UpdateRedeploy,
		Args: []any{in.RedeployRequest}, WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	if err == nil {
		err = handle.Get(ctx, &out)
	}
	var failed *temporal.ApplicationError
	var absent *serviceerror.NotFound
	switch {
	case errors.As(err, &failed):
		return out, workflows.FailForGood(workflows.Failure(err))
	case errors.As(err, &absent):
		return out, &step.Error{Kind: step.NotFound, Err: errors.New(name + " is not deployed"),
			Hint: "deploy it, or remove its schedule: morgana schedule remove " + name}
	}
	return out, err
}

// unschedule is [workflows.ActivityUnschedule].
func (r *redeployer) unschedule(ctx context.Context, t step.Tags) (step.Destroyed, error) {
	id := workflows.ScheduleID(t.App, t.Target)
	err := r.client.ScheduleClient().GetHandle(ctx, id).Delete(ctx)
	var absent *serviceerror.NotFound
	switch {
	case errors.As(err, &absent):
		return step.Destroyed{}, nil
	case err != nil:
		return step.Destroyed{}, &step.Error{Op: "remove " + id, Err: err}
	}
	return step.Destroyed{Removed: []string{id}}, nil
}
