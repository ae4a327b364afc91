package tree

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

// Recipe says how a toolchain makes the kernel of one spec. Its paths are relative to the
// source folder, use slashes and stay inside. The toolchain has checked everything that the
// user wrote.
type Recipe struct {
	// Configure and Build are the commands of the two stages, in order. Build
	// has at least one.
	Configure, Build []Command
	// Refresh are commands that run before Configure in a rebuild. They make the host look
	// up which dependencies there are. They are no part of the key, so the kernel of a
	// rebuild serves later deploys.
	Refresh []Command
	// Product names the kernel and its files. A toolchain that knows them only after
	// the build leaves it empty and sets Find.
	Product Product
	// Find looks for the product in the tree after Build. An error without a kind becomes
	// BuildFailed, with the build's new files as its hint.
	Find func(tree *os.Root) (Product, error)
	// Accept returns an error, which names the kernel's kind, if the recipe does not make
	// that kind. Nil accepts any kernel.
	Accept func(image.Info) error
	// Refused returns the error of the option that a failed command refuses in its last
	// lines of output, nil if it failed for another reason.
	Refused func(lines []string) error
	// Discard lists files and folders that the commands make and that the source may have by
	// mistake. They are removed before Configure.
	Discard []string
	// CheckSource looks at the unpacked source before any command runs.
	CheckSource func(tree *os.Root) error
	// Inspect looks at the host, in the environment of the commands, before and after each
	// stage. A missing tool is Unsupported, with the command that installs it as Hint.
	Inspect func(ctx context.Context, e Environ) (Facts, error)
	// Env is added to the environment of all commands; see [EnvironOf].
	Env map[string]string
	// Timeout bounds the commands of each stage.
	Timeout time.Duration
}

// Command is one command of a stage.
type Command struct {
	// Argv is a program and its arguments. A program with a slash is the
	// source's own, any other is looked up in PATH.
	Argv []string
	// Exclusive names a thing that only one command of this toolchain on this host may use at
	// a time, as "switch $OPAMSWITCH"; empty for none. Variables of the commands'
	// environment are expanded. Waiting for it is not part of the Timeout.
	Exclusive string
}

// Product names the files that a build makes.
type Product struct {
	Kernel string
	Files  []File
}

// File travels with the kernel.
type File struct {
	Path string
	// Name is its name in [step.Kernel], different from the other files'.
	Name string
	// Optional files are left out if the build made none.
	Optional bool
}

// Facts describe the host, as far as a recipe depends on it.
type Facts struct {
	// Env is added to [Recipe.Env].
	Env map[string]string
	// Tools are the host's tools that shape the kernel, as "mirage 4.11.0".
	Tools []string
	// Bin is a folder that the commands themselves put before PATH, as opam exec does.
	// Installed and Tools describe its programs.
	Bin string
	// Sets names variables that the commands set themselves, whatever the worker's are.
	Sets []string
	// Installed are packages that the configure commands may install or replace, as
	// "solo5.0.9.1". They are listed again after configure.
	Installed []string
}

// work is a spec that has been read and checked.
type work struct {
	Recipe
	spec    step.Spec
	environ Environ
	facts   Facts
	// programs are those that the commands are known to use, see [programs].
	programs programs
	// key is a digest of everything that the kernel depends on and that is known before the
	// build. The key taken before Configure is for the cache; the tree keeps the one taken
	// after, see [Toolchain.lookAgain].
	key     string
	rollout rollout
	place   place
}

// read checks everything about a spec that needs neither its source nor the host.
func (t *Toolchain) read(spec step.Spec) (*work, error) {
	recipe, err := t.recipe(spec)
	if err != nil {
		return nil, err
	}
	w := &work{Recipe: recipe, spec: spec}
	if spec.Origin.Archive == nil {
		return nil, step.Invalid("toolchain", "give a source folder, or use toolchain prebuilt for a kernel that exists already", "%s builds from source, and there is none", t.kind)
	}
	folder, err := spec.Folder()
	if err != nil {
		return nil, err
	}
	w.rollout = rollout{tags: spec.Tags, dir: filepath.Join(t.folder, folder)}
	w.environ = EnvironOf(recipe.Env)
	w.place, err = t.placeOf(spec.App, recipe)
	return w, err
}

// look inspects the host and computes the key.
func (t *Toolchain) look(ctx context.Context, w *work) (err error) {
	if w.Inspect != nil {
		if w.facts, err = w.Inspect(ctx, w.environ); err != nil {
			return t.here(err)
		}
		env := maps.Clone(w.facts.Env)
		if env == nil {
			env = map[string]string{}
		}
		maps.Copy(env, w.Env)
		w.environ = EnvironOf(env)
	}
	w.programs = w.find(w.named())
	w.key, err = w.cacheKey(t.kind)
	return err
}

// lookAgain inspects the host after the configure commands, and updates the key with the
// packages that they installed. A missing tool is retried, because it was there before:
// another deploy may be replacing it.
func (t *Toolchain) lookAgain(ctx context.Context, w *work) error {
	if w.Inspect == nil || len(w.Configure) == 0 {
		return nil
	}
	now, err := w.Inspect(ctx, w.environ)
	if err != nil {
		return &step.Error{Op: "look at what configure has installed", Err: err}
	}
	w.facts.Installed = now.Installed
	w.key, err = w.cacheKey(t.kind)
	return err
}

// unchanged reports whether the host is still as w found it.
func (t *Toolchain) unchanged(ctx context.Context, w *work) bool {
	if w.Inspect == nil {
		return true
	}
	now, err := t.read(w.spec)
	return err == nil && t.look(ctx, now) == nil && now.key == w.key
}

// here adds the host's name to the error for a missing tool: to Op, and also to Hint if
// the error has a Field, because its message does not show Op then.
func (t *Toolchain) here(err error) error {
	var e *step.Error
	if errors.As(err, &e) && e.Kind == step.Unsupported && e.Op == "" {
		e.Op = "look for build tools on " + t.site.Host
		if e.Field != "" {
			e.Hint = "on host " + t.site.Host + ", as the worker's user: " + e.Hint
		}
	}
	return err
}

// cacheFormat is raised when a record or a part of the key gets another meaning.
const cacheFormat = 4

// cacheKey is the hex SHA-256 of all that shapes a kernel and is known before it is built.
// The timeout is not part of it.
func (w *work) cacheKey(kind string) (string, error) {
	environ := slices.DeleteFunc(slices.Clone(w.environ.shaping), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(w.facts.Sets, name)
	})
	inputs, err := json.Marshal(struct {
		Format           int
		Kind, Archive    string
		Configure, Build [][]string
		Product          Product
		Discard          []string
		Env              map[string]string
		Facts            Facts
		Environ          []string
		Programs         programs
	}{cacheFormat, kind, w.spec.Origin.Archive.SHA256, argvs(w.Configure), argvs(w.Build),
		w.Product, w.Discard, w.Env, w.facts, environ, w.programs})
	if err != nil {
		return "", fmt.Errorf("cache key: %w", err)
	}
	sum := sha256.Sum256(inputs)
	return hex.EncodeToString(sum[:]), nil
}

func argvs(commands []Command) [][]string {
	var all [][]string
	for _, c := range commands {
		all = append(all, c.Argv)
	}
	return all
}
