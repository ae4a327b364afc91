package local

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/morgana-deploy/morgana/step"
)

func invalid(field, hint, format string, args ...any) error {
	return &step.Error{Kind: step.InvalidSpec, Field: field, Hint: hint, Err: fmt.Errorf(format, args...)}
}

func failed(kind step.Kind, field, hint, format string, args ...any) error {
	return &step.Error{Kind: kind, Field: field, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// deviceHint says which devices there are.
func deviceHint(given string, known []string, what string) string {
	if near := step.Nearest(given, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	if len(known) == 0 {
		return "there is no " + what
	}
	return "there is " + strings.Join(known, ", ")
}

func contains(all []string, one string) bool { return slices.Contains(all, one) }

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
