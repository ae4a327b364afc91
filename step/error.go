package step

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"time"
)

// Kind says what sort of error it is. It is the Temporal error type as well,
// the same in every language.
type Kind string

// The kinds. All but Exhausted are final; an error without a kind is taken as
// passing trouble and retried.
const (
	// InvalidSpec: a field is wrong. Field names it, Hint gives the allowed values.
	InvalidSpec Kind = "InvalidSpec"
	// Unsupported: this cannot work here. Hint says what would.
	Unsupported Kind = "Unsupported"
	// BuildFailed: configure or build failed. Hint has the last lines.
	BuildFailed Kind = "BuildFailed"
	// BootFailed: the machine started and did not get ready. Hint has the
	// console's tail.
	BootFailed Kind = "BootFailed"
	// Unauthorized: Hint names the permission or credential that is missing.
	Unauthorized Kind = "Unauthorized"
	// NotFound: something named is not there.
	NotFound Kind = "NotFound"
	// TreeGone: the configured tree is gone, or the host's tools or environment have
	// changed since. Only Build returns it; configure runs again.
	TreeGone Kind = "TreeGone"
	// NoWorker: nobody polls the task queue a step is to run on.
	NoWorker Kind = "NoWorker"
	// Conflict: something is in the way. Hint names the flag that resolves it.
	Conflict Kind = "Conflict"
	// NoSpace: a disk is full. Hint names the folder.
	NoSpace Kind = "NoSpace"
	// Exhausted: a quota or throttle; retried later. Hint names the quota.
	Exhausted Kind = "Exhausted"
)

// Final reports whether trying again cannot help.
func (k Kind) Final() bool { return k != "" && k != Exhausted }

// UserError reports whether the user's input or environment is to blame rather
// than the deploy: the starter's exit code 2.
func (k Kind) UserError() bool {
	switch k {
	case InvalidSpec, Unsupported, Unauthorized, NotFound, NoWorker, Conflict, NoSpace:
		return true
	}
	return false
}

// Error is what a step returns when it fails. Its text is "<Op>: <Err>": lower
// case, no period, the cause once. It is the outermost error: what wraps it does
// not cross the wire.
type Error struct {
	Kind Kind
	// Op is what was being done, as "register image in eu-west-1".
	Op string
	// Field is the option to blame, as "memory" or "ports[1].host"; empty if none.
	Field string
	// Hint is what to do about it, possibly several lines; empty if nothing.
	Hint string
	// Left names what was left behind, if anything was.
	Left []string
	// Host is where it happened; the worker fills it in.
	Host string
	// RetryAfter is when to try again an error of kind Exhausted, 0 for 30 s. The
	// tries are limited as for any error: 10, but for register and boot.
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

// Invalid is an error of kind InvalidSpec: the option to blame, what to do, and
// the cause.
func Invalid(field, hint, format string, args ...any) *Error {
	return &Error{Kind: InvalidSpec, Field: field, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// OneOf is the hint for a value that is none of known: the nearest, or all.
func OneOf(given string, known ...string) string {
	if near := Nearest(given, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "one of " + strings.Join(known, ", ")
}

// KindOf is the kind of the first [*Error] in err's chain, "" if there is none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

// During says what was being done when err came up, unless err says so already,
// and gives the errors of the file system that a user can do something about
// their kind: NoSpace, Unauthorized.
func During(op string, err error) error {
	var e *Error
	if errors.As(err, &e) {
		if e.Op != "" {
			return err
		}
		with := *e
		with.Op = op
		return &with
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
