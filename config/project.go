package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

// Filename is the name of a project's file.
const Filename = "morgana.yaml"

// Prebuilt is the kind of the toolchain that uses an existing kernel file.
const Prebuilt = "prebuilt"

// Project is a morgana.yaml:
//
//	app: hello
//	source: .                  # folder, relative to the file; default "."
//	                           # or {git: https://example.org/ann/hello.git, ref: main, path: .}
//	toolchain:
//	  kind: command
//	  build: [[make]]          # every key but kind is an option of the toolchain
//	targets:
//	  dev:
//	    kind: qemu             # default: the target's name
//	    memory: 64             # every key but these is an option of the target
//	    restart: always        # restart, health and keep: a [step.Policy]
//	    steps: {build: {activity: acme.Build, taskQueue: acme}}
//	    after: {package: [{activity: sign.Sign, taskQueue: sign}]}
//
// Steps may name any of [Replaceable]. Steps and after at the top of the file hold
// for every target; those of a target win, stage by stage.
type Project struct {
	File   string // absolute
	Folder string // File's folder
	App    string
	// Source is the source folder, absolute; empty if the toolchain is prebuilt or the
	// source is in git.
	Source string
	// Git is the repository with the source, nil if the source is a folder.
	Git *step.Git
	// Kernel is the kernel file, absolute, of a prebuilt toolchain; else, and with Git,
	// empty. It is not among the toolchain's options.
	Kernel    string
	Toolchain step.Recipe
	Targets   []Target // in the file's order, at least one

	shown string // File as [asTyped] shows it
	root  *value
	flags *pflag.FlagSet
	// Op and Field of an error about Source or Kernel.
	inputAt, inputField string
}

// Target is one of a project's targets.
type Target struct {
	Name string
	Kind string
	// Options are the target's own, as JSON with sorted keys; nil if it has none.
	Options json.RawMessage
	Policy  step.Policy
	// Steps replace steps of the route, and After inserts steps after stages. Both
	// include the entries at the top of the file.
	Steps map[step.Stage]step.Step
	After map[step.Stage][]step.Step
}

// AppFlag adds the flag that overrides a project's app.
func AppFlag(flags *pflag.FlagSet) {
	flags.String("app", "", "the app's name, instead of the project file's")
}

// SourceFlag adds the flag that overrides a project's source.
func SourceFlag(flags *pflag.FlagSet) {
	flags.String("source", "", "build this folder instead of the project file's")
}

var projectKeys = []scalarKey{{"app", "app", text}, {"source", "source", text}}

// Load reads a project. path is its file or the folder of its file. If path is empty,
// Load reads the morgana.yaml of the current folder or of the nearest folder above it,
// up to the user's home.
//
// Flags win over MORGANA_APP and MORGANA_SOURCE, and these over the file. flags may be
// nil, or lack [AppFlag] or [SourceFlag]. A source in the file is relative to the file's
// folder, one in a flag or variable to the current folder.
//
// Errors are InvalidSpec with the file and line as Op, NotFound or Unauthorized. Load
// does not check that the source or kernel exists, since status and destroy do not need
// it: see [Project.CheckInput].
func Load(path string, flags *pflag.FlagSet) (*Project, error) {
	file, err := find(path)
	if err != nil {
		return nil, err
	}
	shown := asTyped(file)
	data, err := files.Read(file, maxBytes)
	if err != nil {
		e := Unreadable(shown, err)
		if e.Kind == step.NotFound {
			e.Hint = initHint
		}
		return nil, e
	}
	root, err := readYAML(data, lineOf(shown))
	if err != nil {
		return nil, err
	}
	return newProject(Project{File: file, Folder: filepath.Dir(file), shown: shown, root: root, flags: flags})
}

// newProject returns p with the fields that it reads from p.root.
func newProject(p Project) (*Project, error) {
	root := p.root
	if root.is == null {
		return nil, &step.Error{Kind: step.InvalidSpec, Op: p.shown, Err: errors.New("the file is empty"), Hint: initHint}
	}
	if err := root.want("", mapping); err != nil {
		return nil, err
	}
	if err := root.known("", "app", "source", "toolchain", "targets", "steps", "after"); err != nil {
		return nil, err
	}
	scalars := root
	if f := root.field("source"); f != nil && f.is == mapping { // readGit reads it
		scalars = root.without("source")
	}
	settings, err := newLayers(projectKeys, p.flags, scalars)
	if err != nil {
		return nil, err
	}
	if p.App = settings.text("app", ""); p.App == "" {
		return nil, invalid(p.shown, "app", "give the unikernel a name, as in `app: hello`", "missing")
	}
	if err := settings.checkName("app", p.App); err != nil {
		return nil, err
	}
	if err := p.readToolchain(settings); err != nil {
		return nil, err
	}
	if err := p.readTargets(); err != nil {
		return nil, err
	}
	return &p, nil
}

func (p *Project) readToolchain(settings *layers) error {
	f := p.root.field("toolchain")
	if f == nil {
		return invalid(p.shown, "toolchain", "say what makes the kernel, as in `toolchain: {kind: command, build: [[make]]}`", "missing")
	}
	if err := f.want("toolchain", mapping); err != nil {
		return err
	}
	kind := f.field("kind")
	if kind == nil {
		return invalid(f.at, "toolchain.kind", "give a kind, as in `kind: command`", "missing")
	}
	if err := wantName(kind, "toolchain.kind"); err != nil {
		return err
	}
	p.Toolchain = step.Recipe{Kind: kind.text, Options: f.without("kind").json()}
	p.Source, p.Kernel = "", ""
	var err error
	if p.Git, err = p.readGit(settings); err != nil {
		return err
	}
	if kind.text != Prebuilt && p.Git != nil {
		return nil
	}
	if kind.text != Prebuilt {
		source, err := settings.path("source", ".", p.Folder)
		if err != nil {
			return fmt.Errorf("find the source folder: %w", err)
		}
		p.Source = source
		p.inputAt, p.inputField = settings.blame("source")
		if p.inputAt == "" {
			p.inputAt = p.shown
		}
		return nil
	}
	if err := f.known("toolchain", "kind", "kernel"); err != nil {
		return err
	}
	kernel := f.field("kernel")
	if kernel == nil {
		return invalid(f.at, "toolchain.kernel", "give the path of the kernel, as in `kernel: build/hello.xen`", "missing")
	}
	if err := kernel.want("toolchain.kernel", text); err != nil {
		return err
	}
	if kernel.text == "" {
		return invalid(kernel.at, "toolchain.kernel", "", "want a path, not an empty string")
	}
	p.Toolchain.Options = f.without("kind", "kernel").json()
	if p.Git != nil {
		return p.prebuiltInGit(kernel)
	}
	p.Kernel = kernel.text
	p.inputAt, p.inputField = kernel.at, "toolchain.kernel"
	if !filepath.IsAbs(p.Kernel) {
		p.Kernel = filepath.Join(p.Folder, p.Kernel)
	}
	return nil
}

func (p *Project) readTargets() error {
	f := p.root.field("targets")
	if f == nil {
		return invalid(p.shown, "targets", "say where to run it, as in `targets: {dev: {kind: qemu}}`", "missing")
	}
	if err := f.want("targets", mapping); err != nil {
		return err
	}
	if len(f.fields) == 0 {
		return invalid(f.at, "targets", "say where to run it, as in `targets: {dev: {kind: qemu}}`", "want at least one target")
	}
	steps, after, err := readSteps(p.root, "")
	if err != nil {
		return err
	}
	p.Targets = nil
	for _, tf := range f.fields {
		path := join("targets", tf.name)
		if err := checkName(tf.at, path, tf.name); err != nil {
			return err
		}
		if err := tf.want(path, mapping); err != nil {
			return err
		}
		t := Target{Name: tf.name, Kind: tf.name, Options: tf.without("kind", "steps", "after", "restart", "health", "keep").json()}
		if t.Policy, err = step.ReadPolicy(tf.only("restart", "health", "keep").json()); err != nil {
			if e, ok := errors.AsType[*step.Error](err); ok {
				e.Op, e.Field = p.Locate(t.Name, e.Field), join(path, e.Field)
			}
			return err
		}
		if kind := tf.field("kind"); kind != nil {
			if err := wantName(kind, path+".kind"); err != nil {
				return err
			}
			t.Kind = kind.text
		}
		own, ownAfter, err := readSteps(tf.value, path)
		if err != nil {
			return err
		}
		t.Steps, t.After = overlay(steps, own), overlay(after, ownAfter)
		if route := p.Route(t); route.Clean.Activity == route.Destroy.Activity && route.Clean.TaskQueue == route.Destroy.TaskQueue {
			return invalid(p.Locate(t.Name, "steps.clean"), path+".steps.clean", "clean removes build trees after every deploy, destroy machines",
				"want another activity than that of destroy")
		}
		p.Targets = append(p.Targets, t)
	}
	return nil
}

// Target returns the target of that name; NotFound if there is none.
func (p *Project) Target(name string) (Target, error) { return p.target(name, p.shown) }

// target is [Project.Target] with the Op of its error.
func (p *Project) target(name, at string) (Target, error) {
	names := make([]string, 0, len(p.Targets))
	for _, t := range p.Targets {
		if t.Name == name {
			return t, nil
		}
		names = append(names, t.Name)
	}
	return Target{}, &step.Error{Kind: step.NotFound, Op: at,
		Err: fmt.Errorf("no target %q", name), Hint: step.OneOf(name, names...)}
}

// Route returns the route of a deploy to t: the steps of the two kinds, with those that
// t replaces or inserts.
func (p *Project) Route(t Target) step.Route {
	route := step.NewRoute(p.Toolchain.Kind, t.Kind)
	for stage, s := range t.Steps {
		replace(&route, stage, s)
	}
	route.After = maps.Clone(t.After)
	return route
}

const (
	pathInFile = "paths in " + Filename + " start from its folder"
	pathTyped  = "it starts from the current folder"
)

// CheckInput checks that the source folder, or the prebuilt kernel's file, exists. The
// error is NotFound or InvalidSpec. It names the line or flag with the path. A source in
// git is for the worker to check.
func (p *Project) CheckInput() error {
	if p.Git != nil {
		return nil
	}
	path, what, right := p.Source, "folder", fs.FileMode.IsDir
	if p.Toolchain.Kind == Prebuilt {
		path, what, right = p.Kernel, "file", fs.FileMode.IsRegular
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e := &step.Error{Kind: step.NotFound, Op: p.inputAt, Field: p.inputField, Err: fmt.Errorf("no such %s: %s", what, asTyped(path))}
		if e.Hint = pathInFile; e.Field == "" {
			e.Hint = pathTyped
		}
		return e
	case err != nil:
		return invalid(p.inputAt, p.inputField, "", "%w", err)
	case !right(info.Mode()):
		return invalid(p.inputAt, p.inputField, "", "%s is not a %s", asTyped(path), what)
	}
	return nil
}
