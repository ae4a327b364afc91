package workflows

import (
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// All timeouts and retries of the product stand on this page.

const (
	// heartbeat: a worker that died is noticed after this long, and its work
	// given to another. In-tree steps beat every 2 s.
	heartbeat = 10 * time.Second

	// unpolled: how long a step may wait for a worker that may not exist. Only
	// check waits on a queue that is never busy, so only there is a minute
	// enough to say "nobody polls it".
	unpolled = time.Minute
	// hostGone: the same for a queue of one host, which may be busy (builds)
	// or rebooting.
	hostGone = 15 * time.Minute

	day = 24 * time.Hour

	// attempts bounds the tries of a step that takes minutes: enough to outlive a
	// worker that is killed again and again, few enough to end.
	attempts = 10
	// Patience bounds how long register and boot may fail by themselves without
	// getting further; the worker sees to it. It outlives the reboot of a host and
	// an outage of a network. A try whose worker died is no failure: ten restarts do
	// not end a day's upload.
	Patience = time.Hour

	// maxConfigures bounds how often a source tree may be lost before its
	// kernel is built.
	maxConfigures = 5

	// exhausted is the pause before asking again where a quota was used up.
	exhausted = 30 * time.Second

	// tellAfter: a stage that lasts this long is told to the search attribute.
	tellAfter = time.Second

	// abandoned: a Deployment that was started and asked for nothing ends.
	abandoned = time.Minute
)

// longest bounds one try of a stage: far above the longest honest run, so that
// only a step that hangs is ended by it. The heartbeat notices dead workers.
var longest = map[step.Stage]time.Duration{
	step.Check:     2 * time.Minute, // "in seconds", over ssh and cloud APIs
	step.Configure: day,             // the toolchain's own timeout is the real one
	step.Build:     day,             // the same, and it may wait for other builds
	step.Package:   time.Hour,       // gigabytes to disk and to the store
	step.Register:  day,             // gigabytes over a slow line; cloud imports
	step.Boot:      day,             // the target's own timeout is the real one
}

func optionsOf(stage step.Stage) workflow.ActivityOptions {
	o := workflow.ActivityOptions{
		StartToCloseTimeout: longest[stage],
		HeartbeatTimeout:    heartbeat,
		RetryPolicy:         retry(attempts),
		// An activity that is being cancelled may still create things: undo
		// must not start before it has stopped.
		WaitForCancellation: true,
	}
	o.ScheduleToStartTimeout = hostGone
	switch stage {
	case step.Check:
		o.ScheduleToStartTimeout = unpolled
	case step.Register, step.Boot: // bounded by time, not by a number of tries
		o.RetryPolicy = retry(0)
		o.ScheduleToCloseTimeout = 3 * day
	}
	return o
}

// undoOptions: undoing tries harder than doing, and for longer than a reboot.
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

// destroyOptions: somebody waits for the answer, as for the tidying after a
// rollout that went well.
func destroyOptions() workflow.ActivityOptions {
	o := undoOptions()
	o.ScheduleToStartTimeout = unpolled
	o.RetryPolicy = retry(attempts)
	return o
}

// consoleOptions: somebody is watching; give up soon.
func consoleOptions(wait time.Duration) workflow.ActivityOptions {
	return workflow.ActivityOptions{
		ScheduleToStartTimeout: 30 * time.Second,
		StartToCloseTimeout:    wait + 30*time.Second,
		HeartbeatTimeout:       heartbeat,
		RetryPolicy:            retry(3),
	}
}

// observeOptions: status waits for the answer, and does without.
func observeOptions() workflow.ActivityOptions {
	return workflow.ActivityOptions{
		ScheduleToStartTimeout: 5 * time.Second,
		StartToCloseTimeout:    20 * time.Second,
		HeartbeatTimeout:       heartbeat,
		RetryPolicy:            retry(1),
	}
}

// retry: errors of a final kind are marked non-retryable where they are made
// (see Fail), and named here as well for steps in other languages.
func retry(attempts int32) *temporal.RetryPolicy {
	return &temporal.RetryPolicy{
		InitialInterval:    time.Second,
		BackoffCoefficient: 2,
		MaximumInterval:    time.Minute,
		MaximumAttempts:    attempts,
		NonRetryableErrorTypes: []string{
			string(step.InvalidSpec), string(step.Unsupported), string(step.BuildFailed), string(step.BootFailed),
			string(step.Unauthorized), string(step.NotFound), string(step.Conflict), string(step.NoSpace),
			string(step.TreeGone), string(step.NoWorker),
		},
	}
}

// DeploymentOptions start a Deployment, with an update that it is for, or find the
// one that runs.
func DeploymentOptions(app, target string) client.StartWorkflowOptions {
	return client.StartWorkflowOptions{
		ID:                       DeploymentID(app, target),
		TaskQueue:                TaskQueue,
		WorkflowIDConflictPolicy: enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		StaticSummary:            app + " on " + target,
		StaticDetails:            "A running workflow is a running machine.",
		TypedSearchAttributes: temporal.NewSearchAttributes(
			attributes(step.Tags{App: app, Target: target, Generation: 1})...), // the first it gives out
	}
}

// rolloutOptions: a rollout whose Deployment is terminated cleans up after
// itself; a rollout is never run twice.
func rolloutOptions(t step.Tags) workflow.ChildWorkflowOptions {
	return workflow.ChildWorkflowOptions{
		WorkflowID:            RolloutID(t),
		TaskQueue:             TaskQueue,
		ParentClosePolicy:     enums.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
		WaitForCancellation:   true,
		WorkflowIDReusePolicy: enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		StaticSummary:         t.App + " on " + t.Target,
		TypedSearchAttributes: temporal.NewSearchAttributes(append(attributes(t), StageAttribute.ValueSet(string(step.Check)))...),
	}
}
