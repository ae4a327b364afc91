package xen

import (
	"fmt"
	"strings"

	"github.com/morgana-deploy/morgana/step"
)

func invalid(field, hint, format string, args ...any) error {
	return &step.Error{Kind: step.InvalidSpec, Field: field, Hint: hint, Err: fmt.Errorf(format, args...)}
}

func failed(kind step.Kind, hint, format string, args ...any) error {
	return &step.Error{Kind: kind, Hint: hint, Err: fmt.Errorf(format, args...)}
}

func oneOf(given string, known ...string) string {
	hint := "one of " + strings.Join(known, ", ")
	if near := step.Nearest(given, known); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	return hint
}

// said turns what xl printed into one line.
func said(stderr string) error {
	return failed("", "", "%s", strings.TrimSpace(stderr))
}

func failedAt(kind step.Kind, field, hint, format string, args ...any) error {
	return &step.Error{Kind: kind, Field: field, Hint: hint, Err: fmt.Errorf(format, args...)}
}
