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

func bootFailed(hint, format string, args ...any) error {
	return &step.Error{Kind: step.BootFailed, Hint: hint, Err: fmt.Errorf(format, args...)}
}

func oneOf(given string, known ...string) string {
	hint := "one of " + strings.Join(known, ", ")
	if near := step.Nearest(given, known); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	return hint
}

// cause is what the system said, without Go's words for what was called on what.
func cause(err error) error {
	var errno syscall.Errno
	var path *fs.PathError
	switch {
	case errors.As(err, &errno):
		return errno
	case errors.As(err, &path):
		return path.Err
	}
	return err
}
