package main

import (
	"context"
	"errors"
	"strings"
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
)

// lost reports whether the server, or a worker through it, did not answer.
func lost(err error) bool {
	var unavailable *serviceerror.Unavailable
	var late *serviceerror.DeadlineExceeded
	return errors.As(err, &unavailable) || errors.As(err, &late) || errors.Is(err, context.DeadlineExceeded)
}

// restartHint returns the hint for a server or worker that does not answer.
func (to *connection) restartHint() string {
	if to.ui != "" {
		return "run morgana dev up"
	}
	return "check the server at TEMPORAL_ADDRESS, or start morgana-worker with the same TEMPORAL_* settings"
}

func (to *connection) noServer(since time.Time) string {
	return "no answer from Temporal since " + since.Format(time.TimeOnly) + "; " + to.restartHint()
}

func (to *connection) noWorker(since time.Time) string {
	return "no worker answers since " + since.Format(time.TimeOnly) + "; " + to.restartHint()
}

const (
	// unanswered is how long a busy worker may take to answer.
	unanswered = 5 * time.Second
	// glance is the time between two looks at a workflow that must answer.
	glance = time.Second
)

// watched makes a call that a workflow must answer. While no answer comes it calls say
// with each new reason.
func (to *connection) watched(ctx context.Context, workflow string, say func(string), call func() error) error {
	began, done, said := time.Now(), make(chan error, 1), ""
	go func() { done <- call() }()
	for {
		select {
		case err := <-done:
			return err
		case <-time.After(glance):
			note := to.whyNoAnswer(ctx, workflow, began)
			about, _, _ := strings.Cut(note, " since ")
			if about != "" && about != said {
				say(note)
			}
			said = about
		}
	}
}

// whyNoAnswer returns why a workflow does not answer, "" if no reason is known.
func (to *connection) whyNoAnswer(ctx context.Context, workflow string, since time.Time) string {
	asking, cancel := context.WithTimeout(ctx, unanswered)
	defer cancel()
	about, err := to.DescribeWorkflowExecution(asking, workflow, "")
	task := about.GetPendingWorkflowTask()
	switch {
	case ctx.Err() != nil:
		return ""
	case err != nil && lost(err):
		return to.noServer(since)
	case err == nil && task.GetState() == enums.PENDING_WORKFLOW_TASK_STATE_SCHEDULED && time.Since(since) > 2*unanswered &&
		time.Since(task.GetScheduledTime().AsTime()) > unanswered/2:
		// The server waits 5 s for the worker that had the workflow last, then
		// lets any worker take the task.
		return to.noWorker(task.GetScheduledTime().AsTime().Local())
	}
	return to.stuck(asking, about)
}

// stuck returns why an activity of a workflow or of its children waits, "" if none does.
func (to *connection) stuck(ctx context.Context, about *workflowservice.DescribeWorkflowExecutionResponse) string {
	for _, p := range about.GetPendingActivities() {
		if note, stuck := pending(p); stuck {
			return note
		}
	}
	for _, c := range about.GetPendingChildren() {
		child, err := to.DescribeWorkflowExecution(ctx, c.GetWorkflowId(), c.GetRunId())
		if note := to.stuck(ctx, child); err == nil && note != "" {
			return note
		}
	}
	return ""
}
