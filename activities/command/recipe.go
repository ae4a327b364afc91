package command

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// recipe is a spec, read and found good.
type recipe struct {
	spec    step.Spec
	options Options
	timeout time.Duration
	environ environ
	// key is what the kernel depends on, as far as it can be known beforehand.
	key     string
	rollout rollout
}

// read checks everything about a spec that can be checked by looking at it.
func (t *Toolchain) read(spec step.Spec) (*recipe, error) {
	r := &recipe{spec: spec}
	if err := step.Decode(spec.Toolchain.Options, &r.options); err != nil {
		return nil, err
	}
	timeout, err := r.options.check()
	if err != nil {
		return nil, err
	}
	r.timeout = timeout
	if spec.Origin.Archive == nil {
		return nil, &step.Error{Kind: step.InvalidSpec, Field: "toolchain",
			Err:  errors.New(Kind + " builds from source, and there is none"),
			Hint: "give a source folder, or use toolchain prebuilt for a kernel that exists already"}
	}
	folder, err := folderName(spec.Tags)
	if err != nil {
		return nil, err
	}
	r.rollout = rollout{tags: spec.Tags, dir: filepath.Join(t.folder, folder)}
	r.environ = environOf(os.Environ(), r.options.Env)
	r.key, err = cacheKey(spec.Origin.Archive.SHA256, r.options, r.environ.shaping)
	return r, err
}

var variableForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// check finds what is wrong with options and gives the timeout they ask for.
func (o *Options) check() (time.Duration, error) {
	if len(o.Build) == 0 {
		return 0, invalid("build", "no command is given", "as in: build: [[make]]")
	}
	if err := checkCommands("configure", o.Configure); err != nil {
		return 0, err
	}
	if err := checkCommands("build", o.Build); err != nil {
		return 0, err
	}
	if err := checkPath("kernel", o.Kernel); err != nil {
		return 0, err
	}
	seen := map[string]bool{}
	for i, f := range o.Files {
		field := fmt.Sprintf("files[%d]", i)
		if err := checkPath(field, f); err != nil {
			return 0, err
		}
		if seen[path.Base(f)] {
			return 0, invalid(field, fmt.Sprintf("another file is named %q as well", path.Base(f)),
				"files are known by the last part of their path: each needs its own")
		}
		seen[path.Base(f)] = true
	}
	for name, value := range o.Env {
		if !variableForm.MatchString(name) {
			return 0, invalid("env", fmt.Sprintf("%q is not a variable's name", name),
				"letters, digits and underscores, not starting with a digit")
		}
		if strings.ContainsRune(value, 0) {
			return 0, invalid("env."+name, "has a NUL byte", "")
		}
	}
	if o.Timeout == "" {
		return defaultTimeout, nil
	}
	d, err := time.ParseDuration(o.Timeout)
	if err != nil || d <= 0 {
		return 0, invalid("timeout", fmt.Sprintf("%q is not a time span", o.Timeout), `as in: "90s", "30m", "2h"`)
	}
	return d, nil
}

func checkCommands(field string, commands [][]string) error {
	for i, argv := range commands {
		at := fmt.Sprintf("%s[%d]", field, i)
		if len(argv) == 0 || argv[0] == "" {
			return invalid(at, "names no program", `a command is a list of a program and its arguments, as ["make", "-j4"]`)
		}
		for j, arg := range argv {
			if strings.ContainsRune(arg, 0) {
				return invalid(fmt.Sprintf("%s[%d]", at, j), "has a NUL byte", "")
			}
		}
	}
	return nil
}

func checkPath(field, p string) error {
	const hint = `a file relative to the source folder, as "dist/hello.xen"`
	switch {
	case p == "":
		return invalid(field, "is missing", hint)
	case strings.ContainsRune(p, 0):
		return invalid(field, "has a NUL byte", "")
	case !filepath.IsLocal(p) || path.Clean(p) == ".":
		return invalid(field, fmt.Sprintf("%q is not inside the source folder", p), hint)
	}
	return nil
}

func invalid(field, cause, hint string) error {
	return &step.Error{Kind: step.InvalidSpec, Field: field, Err: errors.New(cause), Hint: hint}
}

// cacheFormat changes when the meaning of a record or of an option does.
const cacheFormat = 1

// cacheKey is the hex SHA-256 over all that shapes a kernel and is known
// before it is built. The timeout is none of it.
func cacheKey(archive string, options Options, shaping []string) (string, error) {
	options.Timeout = ""
	inputs, err := json.Marshal(struct {
		Format  int
		Kind    string
		Archive string
		Options Options
		Environ []string
	}{cacheFormat, Kind, archive, options, shaping})
	if err != nil {
		return "", fmt.Errorf("cache key: %w", err)
	}
	sum := sha256.Sum256(inputs)
	return hex.EncodeToString(sum[:]), nil
}
