package workflows

import (
	"cmp"
	"errors"
	"fmt"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"

	"github.com/morgana-deploy/morgana/step"
)

// detail is details[0] of the ApplicationError of a step.Error. The error's type is the
// Kind and its message is the text of Err.
type detail struct {
	Op    string   `json:"op,omitempty"`
	Field string   `json:"field,omitempty"`
	Hint  string   `json:"hint,omitempty"`
	Left  []string `json:"left,omitempty"`
	Host  string   `json:"host,omitempty"`
	// Log is the whole output of a configure or build that failed or was cancelled.
	Log *step.Artifact `json:"log,omitempty"`
	// Remains are the acts that would remove the leftovers of a failed rollout.
	Remains []*Undo `json:"remains,omitempty"`
	// Commit is the [step.Origin.Revision] of the source of a failed rollout.
	Commit string `json:"commit,omitempty"`
	// Logs are the logs of a failed rollout, under the names of their stages.
	Logs []step.File `json:"logs,omitempty"`
	// Digest is the image's, if the rollout failed after package.
	Digest string `json:"digest,omitempty"`
	// Probed says that the rollout has probed its machine, which may have had the ports and
	// addresses of the machine before.
	Probed bool `json:"probed,omitempty"`
	// Cancelled says that the rollout was cancelled. Removed is its [step.Destroyed].
	Cancelled bool     `json:"cancelled,omitempty"`
	Removed   []string `json:"removed,omitempty"`
}

// Fail turns err into an ApplicationError whose type is the Kind, non-retryable if the
// kind is final. It returns nil, an ApplicationError and a CanceledError as they are.
func Fail(err error) error {
	var done *temporal.ApplicationError
	var canceled *temporal.CanceledError
	if err == nil || errors.As(err, &done) || errors.As(err, &canceled) {
		return err
	}
	e := &step.Error{Err: err}
	_ = errors.As(err, &e) // a plain error keeps its text
	return failWith(e, detail{}, e.Kind.Final())
}

// FailForGood is [Fail], but non-retryable whatever the kind.
func FailForGood(e *step.Error) error { return failWith(e, detail{}, true) }

// failWith is [Fail] with the members of d that are not the error's.
func failWith(e *step.Error, d detail, final bool) error {
	d.Op, d.Field, d.Hint, d.Left, d.Host, d.Log = e.Op, e.Field, e.Hint, e.Left, e.Host, e.Log
	o := temporal.ApplicationErrorOptions{NonRetryable: final, Details: []any{d}}
	if e.Kind == step.Exhausted {
		o.NextRetryDelay = cmp.Or(e.RetryAfter, exhausted)
	}
	text := "unknown"
	if e.Err != nil {
		text = e.Err.Error()
	}
	return temporal.NewApplicationErrorWithOptions(text, string(e.Kind), o)
}

// Failure returns the step.Error inside Temporal's wrappers. For any other error it makes
// a step.Error with the innermost text. It returns nil for nil.
func Failure(err error) *step.Error {
	if err == nil {
		return nil
	}
	var own *step.Error
	if errors.As(err, &own) {
		return own
	}
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		d := details(app)
		return &step.Error{Kind: step.Kind(app.Type()), Op: d.Op, Field: d.Field, Hint: d.Hint, Left: d.Left, Host: d.Host,
			Log: d.Log, Err: errors.New(app.Message())}
	}
	var canceled *temporal.CanceledError
	if errors.As(err, &canceled) {
		return &step.Error{Err: errors.New("cancelled")}
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return &step.Error{Err: err}
}

// details returns the details of an ApplicationError or a CanceledError in err. They are
// zero if err is another error or has details of another shape.
func details(err error) (d detail) {
	if e, ok := errors.AsType[*temporal.ApplicationError](err); ok && e.HasDetails() {
		_ = e.Details(&d) // of another shape: not known
	} else if e, ok := errors.AsType[*temporal.CanceledError](err); ok && e.HasDetails() {
		_ = e.Details(&d) // of another shape: not known
	}
	return d
}

// Cancelled returns the error of a step that was cancelled on host. log is its output.
func Cancelled(host string, log *step.Artifact) error {
	return temporal.NewCanceledError(detail{Host: host, Log: log})
}

// failureOf replaces a timeout by an error that explains it, and returns any other
// error as it is.
func failureOf(err error, activity, queue string) error {
	var timeout *temporal.TimeoutError
	if !errors.As(err, &timeout) {
		return err
	}
	switch timeout.TimeoutType() {
	case enums.TIMEOUT_TYPE_SCHEDULE_TO_START:
		e := NoWorker(queue)
		if before := timeout.Unwrap(); before != nil {
			e.Host = Failure(before).Host // an earlier try ran there
		}
		return Fail(e)
	case enums.TIMEOUT_TYPE_HEARTBEAT:
		var last step.Progress
		if timeout.HasLastHeartbeatDetails() {
			_ = timeout.LastHeartbeatDetails(&last) // details of another shape: not known
		}
		return Fail(&step.Error{Op: activity, Err: fmt.Errorf("no heartbeat for %s, again and again", heartbeat), Host: last.Host,
			Hint: "the worker died each time, or the step does not heartbeat"})
	case enums.TIMEOUT_TYPE_START_TO_CLOSE, enums.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE:
		var last *temporal.ApplicationError
		if errors.As(timeout.Unwrap(), &last) {
			return last
		}
		return Fail(&step.Error{Op: activity, Err: errors.New("took too long")})
	}
	return err
}

// NoWorker returns the error of a task queue that no worker polls.
func NoWorker(queue string) *step.Error {
	return &step.Error{Kind: step.NoWorker, Op: "find a worker",
		Err:  fmt.Errorf("no worker polls task queue %q", queue),
		Hint: "start a worker that serves it, or correct the kind or taskQueue in morgana.yaml"}
}

// treeGone reports whether build found no tree, or no worker on the tree's host.
func treeGone(err error) bool {
	kind := Failure(err).Kind
	return kind == step.TreeGone || kind == step.NoWorker
}
