package xenserver

import (
	"context"
	"strconv"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

const (
	// maxMissed is how many questions about a task may go unanswered, one after the other:
	// a try of the step may have sent a disk before.
	maxMissed      = 10
	discardTimeout = 5 * time.Second
)

// await waits until a task has ended, and destroys it. result is what the task made, as a
// ref; "" if it made nothing. progress is told how far the task is, from 0 to 1; it may be
// nil. If ctx is done the task stays.
func (p *pool) await(ctx context.Context, task ref, progress func(float64)) (result string, err error) {
	missed := 0
	for pause := 20 * time.Millisecond; ; pause = min(pause*3/2, 2*time.Second) {
		t, err := one[taskRecord](ctx, p, "task", task)
		switch {
		case err == nil && t.Status != "pending" && t.Status != "cancelling":
			return p.verdict(ctx, task, t)
		case err == nil:
			missed = 0
		case code(err) != "" || ctx.Err() != nil || missed == maxMissed:
			return "", err
		default:
			missed++
		}
		if done, err := strconv.ParseFloat(t.Progress, 64); err == nil && progress != nil {
			progress(done)
		}
		if err := step.Pause(ctx, pause); err != nil {
			return "", err
		}
	}
}

// discard destroys a task. xapi removes a task that goes on at its end. A lost answer is no error:
// the pool removes tasks that stay after a day.
func (p *pool) discard(ctx context.Context, task ref) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardTimeout)
	defer cancel()
	for range 2 {
		if err := p.call(ctx, nil, "task.destroy", task); err == nil || code(err) != "" {
			return
		}
	}
}

// abandon destroys the task of an import that was cut off. Nothing ends such a task, and xapi
// removes a task only after its end. So abandon ends it first.
func (p *pool) abandon(ctx context.Context, task ref) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardTimeout)
	defer cancel()
	if err := p.call(ctx, nil, "task.set_status", task, "cancelled"); err != nil {
		return err
	}
	return p.call(ctx, nil, "task.destroy", task)
}

// verdict returns the end of a task, and destroys the task.
func (p *pool) verdict(ctx context.Context, task ref, t taskRecord) (result string, err error) {
	p.discard(ctx, task)
	switch t.Status {
	case "success":
		return taskResult(t.Result)
	case "cancelled":
		return "", explained(&apiError{code: "TASK_CANCELLED", params: []string{string(task)}})
	}
	return "", explained(newAPIError(t.ErrorInfo))
}

// taskResult reads the result of a task, which is a value of XML-RPC as text, as
// "<value>OpaqueRef:...</value>", or empty.
func taskResult(text string) (result string, err error) {
	if text == "" {
		return "", nil
	}
	if err = decode([]byte(text), &result); err != nil {
		return "", err
	}
	return result, nil
}
