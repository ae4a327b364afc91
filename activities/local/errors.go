package local

import "github.com/morgana-deploy/morgana/step"

// deviceHint is the hint that names the known devices.
func deviceHint(given string, known []string, what string) string {
	if len(known) == 0 {
		return "there is no " + what
	}
	return step.OneOf(given, known...)
}
