package step

import (
	"context"
	"encoding/json"
	"time"
)

// Progress tells how far long work is. It travels as the activity's heartbeat,
// so it is what people see and what a second try resumes from.
type Progress struct {
	Done  int64 `json:"done,omitempty"`
	Total int64 `json:"total,omitempty"`
	// Unit of Done and Total: "bytes", "blocks".
	Unit string `json:"unit,omitempty"`
	// State is what a second try resumes from where a number of Done is not
	// enough (an upload's id): the step's own JSON. A Report without it keeps
	// the last one.
	State json.RawMessage `json:"state,omitempty"`
	// Host is where the work is done; the worker fills it in.
	Host string `json:"host,omitempty"`
	// Furthest is the highest Done of all tries, and Failing the time of the first
	// error since it last grew; the worker fills them in.
	Furthest int64     `json:"furthest,omitempty"`
	Failing  time.Time `json:"failing,omitzero"`
	// Note is one line for people: the build's last output, "waiting for the console".
	Note string `json:"note,omitempty"`
}

type reporterKey struct{}

type reporter struct {
	report func(Progress)
	last   *Progress
}

// WithReporter gives ctx a place for [Report] to go, and the last Progress an
// earlier try reported (nil if none) for [Resume]. report must not block: it is
// called for each chunk of a transfer, also while Temporal does not answer.
func WithReporter(ctx context.Context, report func(Progress), last *Progress) context.Context {
	return context.WithValue(ctx, reporterKey{}, reporter{report, last})
}

// Report tells how far the work is. It is cheap and may be called often.
func Report(ctx context.Context, p Progress) {
	if r, ok := ctx.Value(reporterKey{}).(reporter); ok {
		r.report(p)
	}
}

// Resume is what the last try of this activity reported, if there was one.
func Resume(ctx context.Context) (Progress, bool) {
	if r, ok := ctx.Value(reporterKey{}).(reporter); ok && r.last != nil {
		return *r.last, true
	}
	return Progress{}, false
}
