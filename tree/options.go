package tree

import (
	"maps"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// Checks of options that every toolchain has. Their errors are InvalidSpec with
// the given field.

const defaultTimeout = time.Hour

// Timeout reads a time span as "90m"; empty is an hour.
func Timeout(field, text string) (time.Duration, error) {
	if text == "" {
		return defaultTimeout, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, step.Invalid(field, `as in: "90s", "30m", "2h"`, "%q is not a time span", text)
	}
	return d, nil
}

// CheckPath accepts a path, with slashes, that stays inside the source folder.
func CheckPath(field, p string) error {
	const hint = `a file relative to the source folder, as "dist/hello.xen"`
	switch {
	case p == "":
		return step.Invalid(field, hint, "is missing")
	case strings.ContainsRune(p, 0):
		return step.Invalid(field, "", "has a NUL byte")
	case !filepath.IsLocal(p) || path.Clean(p) == ".":
		return step.Invalid(field, hint, "%q is not inside the source folder", p)
	}
	return nil
}

var variableForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// CheckEnv accepts variables that an environment can hold.
func CheckEnv(field string, env map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if !variableForm.MatchString(name) {
			return step.Invalid(field, "letters, digits and underscores, not starting with a digit", "%q is not a variable's name", name)
		}
		if strings.ContainsRune(env[name], 0) {
			return step.Invalid(field+"."+name, "", "has a NUL byte")
		}
	}
	return nil
}
