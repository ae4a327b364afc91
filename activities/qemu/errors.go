package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/morgana-deploy/morgana/step"
)

func invalid(field, hint, format string, args ...any) error {
	return &step.Error{Kind: step.InvalidSpec, Field: field, Hint: hint, Err: fmt.Errorf(format, args...)}
}

func failed(kind step.Kind, op, hint, format string, args ...any) error {
	return &step.Error{Kind: kind, Op: op, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// during says what was being done when err came up, and gives the errors of
// the file system that a user can do something about their kind.
func during(op string, err error) error {
	var e *step.Error
	if errors.As(err, &e) {
		if e.Op != "" {
			return err
		}
		with := *e
		with.Op = op
		return &with
	}
	e = &step.Error{Op: op, Err: err}
	var at *fs.PathError
	where := "the state folder"
	if errors.As(err, &at) {
		where = at.Path
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Kind, e.Hint = step.NoSpace, "make room for "+where
	case errors.Is(err, fs.ErrPermission):
		e.Kind, e.Hint = step.Unauthorized, "let the worker's user write to "+where
	}
	return e
}

func oneOf(given string, known ...string) string {
	hint := "one of " + strings.Join(known, ", ")
	if near := step.Nearest(given, known); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	return hint
}
