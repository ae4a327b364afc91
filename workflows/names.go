// Package workflows has the workflows. [Rollout] is one deploy, [Deployment] the life
// of an app on a target. They call steps by the names in the Route of their input, and
// do no I/O.
package workflows

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"

	"github.com/morgana-deploy/morgana/step"
)

// TaskQueue is the queue that workers poll for the workflows of this package.
const TaskQueue = "morgana"

// The names of Deployment's updates and queries. Rollout has the query "status", too.
const (
	UpdateDeploy   = "deploy"
	UpdateCancel   = "cancel"
	UpdateRollback = "rollback"
	UpdateDestroy  = "destroy"
	UpdateRedeploy = "redeploy"
	QueryStatus    = "status"
	QueryHistory   = "history"
	QueryDetails   = "details"
)

// The search attributes of Deployment and Rollout. MorganaStage and MorganaCommit are of
// Rollout only. MorganaStage is the running stage, with a delay, or the stage that failed;
// after a success it keeps its last value. MorganaCommit is the commit of the source, if it
// has one. The worker registers the attributes with the server.
var (
	AppAttribute        = temporal.NewSearchAttributeKeyKeyword("MorganaApp")
	TargetAttribute     = temporal.NewSearchAttributeKeyKeyword("MorganaTarget")
	GenerationAttribute = temporal.NewSearchAttributeKeyInt64("MorganaGeneration")
	StageAttribute      = temporal.NewSearchAttributeKeyKeyword("MorganaStage")
	CommitAttribute     = temporal.NewSearchAttributeKeyKeyword("MorganaCommit")
)

// DeploymentID is the workflow id of a deployment: "deployment/<app>/<target>".
func DeploymentID(app, target string) string { return fmt.Sprintf("deployment/%s/%s", app, target) }

// RolloutID is the workflow id of a rollout: "rollout/<app>/<target>/<generation>".
func RolloutID(t step.Tags) string {
	return fmt.Sprintf("rollout/%s/%s/%d", t.App, t.Target, t.Generation)
}

// ScheduleID is the id of the schedule of a deployment: "schedule/<app>/<target>".
func ScheduleID(app, target string) string { return fmt.Sprintf("schedule/%s/%s", app, target) }

// LifeOf returns the life of a deployment by the id of its workflow's first run.
func LifeOf(firstRun string) string {
	sum := sha256.Sum256([]byte(firstRun))
	return hex.EncodeToString(sum[:4])
}

// SearchAttributes returns the types of the search attributes by their names.
func SearchAttributes() map[string]enums.IndexedValueType {
	all := map[string]enums.IndexedValueType{}
	for _, a := range []temporal.SearchAttributeKey{AppAttribute, TargetAttribute, GenerationAttribute, StageAttribute, CommitAttribute} {
		all[a.GetName()] = a.GetValueType()
	}
	return all
}

// commit returns the search attribute of the source's commit, if it has one.
func commit(o step.Origin) []temporal.SearchAttributeUpdate {
	if hash := strings.TrimSuffix(o.Revision(), "+"); hash != "" {
		return []temporal.SearchAttributeUpdate{CommitAttribute.ValueSet(hash)}
	}
	return nil
}

// attributes returns the search attributes of a Deployment whose last generation is
// t.Generation, or of a Rollout without its stage.
func attributes(t step.Tags) []temporal.SearchAttributeUpdate {
	return []temporal.SearchAttributeUpdate{
		AppAttribute.ValueSet(t.App),
		TargetAttribute.ValueSet(t.Target),
		GenerationAttribute.ValueSet(int64(t.Generation)),
	}
}
