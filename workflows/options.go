package workflows

import (
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// All timeouts and retries of the workflows are in this file.

const (
	// heartbeat is the time without a heartbeat after which a worker counts as dead and
	// the activity is retried. In-tree steps send one every 2 s.
	heartbeat = 10 * time.Second

	// unpolled is how long fetch and check wait for a worker that may not exist. Their
	// queues are not busy: after a minute no worker polls them.
	unpolled = time.Minute
	// hostGone is how long other steps wait for a worker, whose host may be rebooting.
	hostGone = 15 * time.Minute

	day = 24 * time.Hour

	// attempts bounds the tries of a step. It is high enough for a worker that is
	// killed several times.
	attempts = 10
	// Patience bounds how long register and boot may fail without progress. It is
	// longer than a host's reboot or a network outage. The worker enforces it. A try
	// whose worker died does not count, so restarts do not end a day's upload.
	Patience = time.Hour

	// maxConfigures bounds how often configure runs if its tree is lost before build.
	maxConfigures = 5

	// exhausted is the default pause before an error of kind Exhausted is retried.
	exhausted = 30 * time.Second

	// tellAfter is how long a stage must last to be written to the search attribute.
	tellAfter = time.Second

	// undoing is how long a destroy that forgets waits for the rollout that it cancelled.
	undoing = 30 * time.Second

	// LookTime is how long a look of status may take. It is shorter than the timeout of its
	// activity, which asks for many machines.
	LookTime = 8 * time.Second

	// WatchBeat is the time between the heartbeats of a watch. Each one costs the server
	// about 3 ms.
	WatchBeat = 2 * time.Minute
	// watchGone is the time without a heartbeat after which a watch is given to another
	// worker. A worker that starts again on the same host does not wait for it.
	watchGone = 5 * time.Minute
	// watchAgain is the pause after a watch that failed, as of a kind that has none.
	watchAgain = time.Hour

	// steady is how long a machine must run for its next restart to come at once.
	steady = 10 * time.Minute
	// restartPause is the pause before the first restart. It doubles with each, up to
	// restartPauseMost.
	restartPause     = time.Second
	restartPauseMost = 5 * time.Minute

	// abandoned is how long a new Deployment waits for its first request before it ends.
	abandoned = time.Minute
)

// longest bounds one try of a stage. It ends steps that hang, so it is far above the
// longest real run.
var longest = map[step.Stage]time.Duration{
	step.Fetch:     time.Hour,       // gigabytes over a slow line
	step.Check:     2 * time.Minute, // seconds, plus slow ssh and cloud APIs
	step.Configure: day,             // the toolchain has a timeout of its own
	step.Build:     day,             // the same, and it may wait for other builds first
	step.Package:   time.Hour,       // gigabytes to disk and to the store
	step.Register:  day,             // gigabytes over a slow line; cloud imports
	step.Boot:      day,             // the target has a timeout of its own
}

func optionsOf(stage step.Stage) workflow.ActivityOptions {
	o := workflow.ActivityOptions{
		StartToCloseTimeout: longest[stage],
		HeartbeatTimeout:    heartbeat,
		RetryPolicy:         retry(attempts),
		// A cancelled activity may still create things: undo must not start before
		// it has ended.
		WaitForCancellation: true,
	}
	o.ScheduleToStartTimeout = hostGone
	if stage == step.Check || stage == step.Fetch {
		o.ScheduleToStartTimeout = unpolled
	}
	if BoundedByTime(stage) {
		o.RetryPolicy = retry(0)
		o.ScheduleToCloseTimeout = 3 * day
	}
	return o
}

// BoundedByTime reports whether the retries of a stage are bounded by time, not by tries.
func BoundedByTime(stage step.Stage) bool { return stage == step.Register || stage == step.Boot }

// undoOptions are for the undo acts of a failed rollout and of a cancelled deployment.
// These are retried for an hour, which is longer than a reboot.
func undoOptions() workflow.ActivityOptions {
	return workflow.ActivityOptions{
		ScheduleToStartTimeout: hostGone,
		ScheduleToCloseTimeout: time.Hour,
		StartToCloseTimeout:    15 * time.Minute,
		HeartbeatTimeout:       heartbeat,
		RetryPolicy:            retry(0),
		WaitForCancellation:    true,
	}
}

// destroyOptions are for destroy and for the acts after a successful rollout. A user
// waits for them, so they give up sooner than undoOptions.
func destroyOptions() workflow.ActivityOptions {
	o := undoOptions()
	o.ScheduleToStartTimeout = unpolled
	o.RetryPolicy = retry(attempts)
	return o
}

// forgetOptions are for a destroy that ends even if something cannot be removed: two tries,
// because one may meet a short failure, and the time that a cloud takes to remove a machine.
func forgetOptions() workflow.ActivityOptions {
	o := destroyOptions()
	o.ScheduleToStartTimeout = 30 * time.Second
	o.ScheduleToCloseTimeout = 2 * time.Minute
	o.RetryPolicy = retry(2)
	return o
}

// consoleOptions give up soon: a user waits.
func consoleOptions(wait time.Duration) workflow.ActivityOptions {
	return workflow.ActivityOptions{
		ScheduleToStartTimeout: 30 * time.Second,
		StartToCloseTimeout:    wait + 30*time.Second,
		HeartbeatTimeout:       heartbeat,
		RetryPolicy:            retry(3),
	}
}

// redeployOptions are those of a wait for a rollout, which may take days. Tries that lose
// the server or the worker are repeated: the update has an id, so it is made once.
func redeployOptions() workflow.ActivityOptions {
	return workflow.ActivityOptions{
		StartToCloseTimeout: 7 * day,
		HeartbeatTimeout:    heartbeat,
		RetryPolicy:         retry(0),
	}
}

// unscheduleOptions give up soon: a user waits for the destroy, and a schedule that is left
// does no harm.
func unscheduleOptions() workflow.ActivityOptions {
	o := workflow.ActivityOptions{
		ScheduleToCloseTimeout: 30 * time.Second,
		StartToCloseTimeout:    10 * time.Second,
		RetryPolicy:            retry(5),
	}
	o.RetryPolicy.NonRetryableErrorTypes = append(o.RetryPolicy.NonRetryableErrorTypes, notRegistered...)
	return o
}

// observeOptions do not retry: status works without the answer, and waits for the slowest.
func observeOptions() workflow.ActivityOptions {
	return workflow.ActivityOptions{
		ScheduleToStartTimeout: 5 * time.Second,
		StartToCloseTimeout:    10 * time.Second,
		HeartbeatTimeout:       heartbeat,
		RetryPolicy:            retry(1),
	}
}

// watchOptions wait for a worker without limit, whose host may be down for days, and try
// without limit. A try ends with its worker; the timeout is for one that never ends. The
// pause does not grow, since the tries add up over a machine's life.
func watchOptions() workflow.ActivityOptions {
	o := workflow.ActivityOptions{
		StartToCloseTimeout: 30 * day,
		HeartbeatTimeout:    watchGone,
		RetryPolicy:         retry(0),
	}
	o.RetryPolicy.BackoffCoefficient = 1
	o.RetryPolicy.NonRetryableErrorTypes = append(o.RetryPolicy.NonRetryableErrorTypes, notRegistered...)
	return o
}

// retry returns the retry policy; 0 attempts means no limit. It names the final kinds for
// steps in other languages; [Fail] also marks their errors as non-retryable.
func retry(attempts int32) *temporal.RetryPolicy {
	return &temporal.RetryPolicy{
		InitialInterval:    time.Second,
		BackoffCoefficient: 2,
		MaximumInterval:    time.Minute,
		MaximumAttempts:    attempts,
		NonRetryableErrorTypes: []string{
			string(step.InvalidSpec), string(step.Unsupported), string(step.BuildFailed), string(step.BootFailed), string(step.Unhealthy),
			string(step.Unauthorized), string(step.NotFound), string(step.Conflict), string(step.NoSpace),
			string(step.TreeGone), string(step.NoWorker),
		},
	}
}

// DeploymentOptions start the Deployment of an app and target, or find the running one.
func DeploymentOptions(app, target string) client.StartWorkflowOptions {
	return client.StartWorkflowOptions{
		ID:                       DeploymentID(app, target),
		TaskQueue:                TaskQueue,
		WorkflowIDConflictPolicy: enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		StaticSummary:            app + " on " + target,
		StaticDetails:            "A running workflow is a running machine.",
		TypedSearchAttributes: temporal.NewSearchAttributes(
			attributes(step.Tags{App: app, Target: target, Generation: 1})...), // the generation of its first rollout
	}
}

// rolloutOptions cancel a rollout whose Deployment is terminated, so that it undoes its
// work.
func rolloutOptions(spec step.Spec) workflow.ChildWorkflowOptions {
	t := spec.Tags
	searched := append(attributes(t), StageAttribute.ValueSet(string(step.Check)))
	return workflow.ChildWorkflowOptions{
		WorkflowID:            RolloutID(t),
		TaskQueue:             TaskQueue,
		ParentClosePolicy:     enums.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
		WaitForCancellation:   true,
		WorkflowIDReusePolicy: enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		StaticSummary:         t.App + " on " + t.Target,
		TypedSearchAttributes: temporal.NewSearchAttributes(append(searched, commit(spec.Origin)...)...),
	}
}
