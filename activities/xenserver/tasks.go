package xenserver

import (
	"context"
	"strconv"
	"time"
)

// await waits until a task has ended, and destroys it. result is what the task made, as a
// ref; "" if it made nothing. progress is told how far the task is, from 0 to 1; it may be
// nil. If ctx is done the task stays.
func (p *pool) await(ctx context.Context, task ref, progress func(float64)) (result string, err error) {
	for pause := 100 * time.Millisecond; ; pause = min(pause*3/2, 2*time.Second) {
		t, err := one[taskRecord](ctx, p, "task", task)
		if err != nil {
			return "", err
		}
		if t.Status != "pending" && t.Status != "cancelling" {
			return p.verdict(ctx, task, t)
		}
		if done, err := strconv.ParseFloat(t.Progress, 64); err == nil && progress != nil {
			progress(done)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// verdict returns the end of a task, and destroys the task.
func (p *pool) verdict(ctx context.Context, task ref, t taskRecord) (result string, err error) {
	if gone := p.call(ctx, nil, "task.destroy", task); gone != nil && !is(gone, "HANDLE_INVALID") {
		return "", gone
	}
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
