package step

import (
	"context"
	"encoding/json"
	"time"
)

// Progress is how far a step is. It is sent as the activity's heartbeat. The starter
// shows it, and the next try resumes from it.
type Progress struct {
	Done  int64 `json:"done,omitempty"`
	Total int64 `json:"total,omitempty"`
	// Unit of Done and Total: "bytes", "blocks".
	Unit string `json:"unit,omitempty"`
	// State is JSON of the step's own that the next try needs beside Done, such as an
	// upload's id. If a Report has no State, the State of the Report before it is kept.
	State json.RawMessage `json:"state,omitempty"`
	// Host is the host of the step; the worker fills it in.
	Host string `json:"host,omitempty"`
	// Furthest is the highest Done of all tries. Failing is the time of the first
	// error since Furthest last grew. The worker fills them in.
	Furthest int64     `json:"furthest,omitempty"`
	Failing  time.Time `json:"failing,omitzero"`
	// Note is one line for people: the build's last output, "waiting for the console".
	Note string `json:"note,omitempty"`
	// Waiting says that the step has not begun its work: Note names what it waits for.
	// Such a note is shown even where progress is not.
	Waiting bool `json:"waiting,omitempty"`
}

type reporterKey struct{}

type reporter struct {
	report func(Progress)
	last   *Progress
}

// WithReporter returns a context in which [Report] calls report and [Resume] returns
// last, the last Progress of an earlier try (nil if none). report must not block: it
// is called for each chunk of a transfer, also while Temporal does not answer.
func WithReporter(ctx context.Context, report func(Progress), last *Progress) context.Context {
	return context.WithValue(ctx, reporterKey{}, reporter{report, last})
}

// Pause waits for d. If ctx ends before, it returns the error of ctx.
func Pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Report reports how far the step is. It is cheap and may be called often.
func Report(ctx context.Context, p Progress) {
	if r, ok := ctx.Value(reporterKey{}).(reporter); ok {
		r.report(p)
	}
}

// Resume returns the last Progress that an earlier try reported, false if there is
// none.
func Resume(ctx context.Context) (Progress, bool) {
	if r, ok := ctx.Value(reporterKey{}).(reporter); ok && r.last != nil {
		return *r.last, true
	}
	return Progress{}, false
}
