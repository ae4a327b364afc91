package machine

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

var fileForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}$`)

// CheckModules refuses names of option modules that are no plain names of files, or are given
// twice.
func CheckModules(names []string) error {
	for i, name := range names {
		field := fmt.Sprintf("modules[%d]", i)
		switch {
		case !fileForm.MatchString(name):
			return step.Invalid(field, `the plain name of a file that comes with the kernel, as "initrd.img"`, "%q cannot be the name of a file", name)
		case slices.Contains(names[:i], name):
			return step.Invalid(field, "", "%q is given twice", name)
		}
	}
	return nil
}

// ReadReady reads options expect and timeout. The expression is nil if there is none.
func ReadReady(expect, timeout string) (match *regexp.Regexp, limit time.Duration, err error) {
	if expect != "" {
		if match, err = regexp.Compile(expect); err != nil {
			if wrong := (*syntax.Error)(nil); errors.As(err, &wrong) {
				err = fmt.Errorf("%s: %s", wrong.Code, wrong.Expr)
			}
			return nil, 0, step.Invalid("expect", `a regular expression, as "listening on \\d+": https://github.com/google/re2/wiki/Syntax`, "%w", err)
		}
	}
	if limit, err = time.ParseDuration(timeout); err != nil || limit <= 0 {
		return nil, 0, step.Invalid("timeout", `a number with its unit, as "90s" or "5m"`, "%q is no duration", timeout)
	}
	return match, limit, nil
}
