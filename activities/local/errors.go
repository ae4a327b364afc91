package local

import (
	"fmt"
	"strings"

	"github.com/morgana-deploy/morgana/step"
)

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
