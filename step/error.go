package step

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"time"
)

// Kind is the class of an error. It is also the error's type in Temporal, the same
// in every language.
type Kind string

// The kinds of errors. Exhausted and errors without a kind are retried, all others
// are final.
const (
	// InvalidSpec: a field is wrong. Field names it, Hint gives the allowed values.
	InvalidSpec Kind = "InvalidSpec"
	// Unsupported: the request cannot work here. Hint says what would work.
	Unsupported Kind = "Unsupported"
	// BuildFailed: configure or build failed. Hint has the last lines.
	BuildFailed Kind = "BuildFailed"
	// BootFailed: the machine started but did not get ready. Hint has the console's
	// last lines.
	BootFailed Kind = "BootFailed"
	// Unhealthy: the app failed its health probe. Hint says what runs now.
	Unhealthy Kind = "Unhealthy"
	// Unauthorized: Hint names the permission or credential that is missing.
	Unauthorized Kind = "Unauthorized"
	// NotFound: a thing that the request names does not exist.
	NotFound Kind = "NotFound"
	// TreeGone: the configured tree is gone, or the host's tools or environment have
	// changed since. Only Build returns it; configure runs again.
	TreeGone Kind = "TreeGone"
	// NoWorker: no worker polls the step's task queue.
	NoWorker Kind = "NoWorker"
	// Conflict: something that exists is in the way. Hint says how to resolve it.
	Conflict Kind = "Conflict"
	// NoSpace: a disk is full. Hint names the folder.
	NoSpace Kind = "NoSpace"
	// Exhausted: a quota is used up or requests are throttled. Hint names the quota.
	Exhausted Kind = "Exhausted"
)

// Final reports whether errors of this kind are never retried.
func (k Kind) Final() bool { return k != "" && k != Exhausted }

// UserError reports whether the user's input or environment is to blame. The starter
// then exits with status 2.
func (k Kind) UserError() bool {
	switch k {
	case InvalidSpec, Unsupported, Unauthorized, NotFound, NoWorker, Conflict, NoSpace:
		return true
	}
	return false
}

// Error is the error of a step. Its text is "<Op>: <Field>: <Err>" without the empty
// parts: lower case, no period, the cause once. The text of an error that wraps it
// does not cross Temporal.
type Error struct {
	Kind Kind
	// Op is the operation that failed, as "register image in eu-west-1".
	Op string
	// Field is the option to blame, as "memory" or "ports[1].host"; empty if none.
	Field string
	// Hint is advice for the user, possibly in several lines; may be empty.
	Hint string
	// Left names the resources that were left behind.
	Left []string
	// Log is the whole output of a configure or build that failed, nil if it was not stored.
	Log *Artifact
	// Host is the host on which the step failed; the worker fills it in.
	Host string
	// RetryAfter is the pause before an error of kind Exhausted is retried; 0 means
	// 30 s. It does not change how often a step is tried.
	RetryAfter time.Duration
	Err        error
}

func (e *Error) Error() string {
	var parts []string
	if e.Op != "" {
		parts = append(parts, e.Op)
	}
	if e.Field != "" {
		parts = append(parts, e.Field)
	}
	if e.Err != nil {
		parts = append(parts, e.Err.Error())
	}
	return strings.Join(parts, ": ")
}

func (e *Error) Unwrap() error { return e.Err }

// Invalid makes an error of kind InvalidSpec. field is the option to blame, and
// format and args are the cause, as for [fmt.Errorf].
func Invalid(field, hint, format string, args ...any) *Error {
	return &Error{Kind: InvalidSpec, Field: field, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// OneOf returns the hint for a value that is not among known: the nearest known
// value, or all if none is near.
func OneOf(given string, known ...string) string {
	if near := Nearest(given, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "one of " + strings.Join(known, ", ")
}

// KindOf returns the kind of the first [*Error] in err's chain, "" if there is none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

// During returns err with op as its Op, unless err has an Op. An error of the file system
// becomes NoSpace (disk or quota full) or Unauthorized (no permission).
func During(op string, err error) error {
	var e *Error
	if errors.As(err, &e) {
		if e.Op != "" {
			return err
		}
		return Amend(err, func(e *Error) { e.Op = op })
	}
	e = &Error{Op: op, Err: err}
	where := "the state folder"
	var at *fs.PathError
	if errors.As(err, &at) {
		where = at.Path
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Kind, e.Hint = NoSpace, "free space for "+where
	case errors.Is(err, fs.ErrPermission):
		e.Kind, e.Hint = Unauthorized, "let the worker's user write to "+where
	}
	return e
}

// Amend returns a changed copy of the first [*Error] in err's chain, err itself if it has none.
func Amend(err error, change func(*Error)) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	own := *e
	change(&own)
	return &own
}

// SetOp adds op to *err as [During] does. Nil stays nil. A step defers it.
func SetOp(op string, err *error) {
	if *err != nil {
		*err = During(op, *err)
	}
}

// Leaving returns err with the names of the resources that are left, nil if err is nil.
func Leaving(err error, left []string) error {
	if err == nil {
		return nil
	}
	e := Error{Err: err}
	var first *Error
	if errors.As(err, &first) {
		e = *first
	}
	e.Left = left
	return &e
}
