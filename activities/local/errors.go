package local

import "github.com/morgana-deploy/morgana/step"

// deviceHint says which devices there are.
func deviceHint(given string, known []string, what string) string {
	if len(known) == 0 {
		return "there is no " + what
	}
	return step.OneOf(given, known...)
}
