// Package workflows is how a deploy runs: [Rollout] is one deploy, [Deployment]
// the life of the machine it makes. They call steps by name only, as the Route
// in their input says, and do no I/O.
package workflows

import (
	"fmt"

	"go.temporal.io/sdk/temporal"

	"github.com/morgana-deploy/morgana/step"
)

// TaskQueue is the queue that workers poll for the workflows of this package.
const TaskQueue = "morgana"

// Names of a Deployment's updates, and of the query that Deployment and
// Rollout answer.
const (
	UpdateDeploy  = "deploy"
	UpdateDestroy = "destroy"
	QueryStatus   = "status"
)

// Search attributes of Deployment and Rollout. MorganaStage is the stage of a
// rollout that runs, or that failed; one that ended well keeps the last it told. A server must know them before
// a workflow runs; the worker registers them.
var (
	AppAttribute        = temporal.NewSearchAttributeKeyKeyword("MorganaApp")
	TargetAttribute     = temporal.NewSearchAttributeKeyKeyword("MorganaTarget")
	GenerationAttribute = temporal.NewSearchAttributeKeyInt64("MorganaGeneration")
	StageAttribute      = temporal.NewSearchAttributeKeyKeyword("MorganaStage")
)

// DeploymentID is the workflow id of a deployment: "deployment/<app>/<target>".
func DeploymentID(app, target string) string { return fmt.Sprintf("deployment/%s/%s", app, target) }

// RolloutID is the workflow id of a rollout: "rollout/<app>/<target>/<generation>".
func RolloutID(t step.Tags) string {
	return fmt.Sprintf("rollout/%s/%s/%d", t.App, t.Target, t.Generation)
}

// attributes are the search attributes of a Deployment whose last generation is
// t's, and of a Rollout beside its stage.
func attributes(t step.Tags) []temporal.SearchAttributeUpdate {
	return []temporal.SearchAttributeUpdate{
		AppAttribute.ValueSet(t.App),
		TargetAttribute.ValueSet(t.Target),
		GenerationAttribute.ValueSet(int64(t.Generation)),
	}
}
