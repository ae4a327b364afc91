package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/morgana-deploy/morgana/step"
)

const hello = `app: hello
toolchain:
  kind: command
  build: [[make]]
  kernel: hello
targets:
  dev:
    kind: qemu
    memory: 64
`

// alone puts the test into an empty folder of its own, without settings or
// variables of whoever runs it.
func alone(t *testing.T) string {
	t.Helper()
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "MORGANA_") || strings.HasPrefix(name, "TEMPORAL_") || strings.HasPrefix(name, "XDG_") {
			t.Setenv(name, "")
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	home, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(home, "work")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", home)
	t.Chdir(folder)
	return folder
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, content string) *Project {
	t.Helper()
	write(t, Filename, content)
	p, err := Load("", nil)
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return p
}

// wantError checks kind, text and hint of an error, the line that a user sees.
func wantError(t *testing.T, err error, kind step.Kind, text, hint string) {
	t.Helper()
	var e *step.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want a *step.Error", err)
	}
	if e.Kind != kind || err.Error() != text || e.Hint != hint {
		t.Errorf("got  %s: %s\nhint %q\nwant %s: %s\nhint %q", e.Kind, err, e.Hint, kind, text, hint)
	}
}

func TestLoad(t *testing.T) {
	folder := alone(t)
	p := load(t, `app: hello
source: src
toolchain:
  kind: command
  build: [[make, "-j", 2]]
  kernel: hello
steps:
  build: {activity: acme.Build, taskQueue: acme, onHost: true}
  boot: {activity: acme.Boot, taskQueue: acme}
after:
  build: [{activity: scan.Scan, taskQueue: scan}]
  package: [{activity: sign.Sign, taskQueue: sign}]
targets:
  zoo:
    kind: qemu
    memory: 64
    Args: {b: 1, B: 2}
    steps: {boot: {activity: own.Boot, taskQueue: own}}
    after: {build: []}
  ec2:
`)
	want := Project{
		File: filepath.Join(folder, "morgana.yaml"), Folder: folder, App: "hello", Source: filepath.Join(folder, "src"),
		Toolchain: step.Recipe{Kind: "command", Options: []byte(`{"build":[["make","-j",2]],"kernel":"hello"}`)},
	}
	if p.File != want.File || p.Folder != want.Folder || p.App != want.App || p.Source != want.Source || p.Kernel != "" ||
		!reflect.DeepEqual(p.Toolchain, want.Toolchain) {
		t.Errorf("got %+v", p)
	}
	if len(p.Targets) != 2 || p.Targets[0].Name != "zoo" || p.Targets[1].Name != "ec2" {
		t.Fatalf("targets in the file's order: got %+v", p.Targets)
	}
	if got, want := string(p.Targets[0].Options), `{"Args":{"B":2,"b":1},"memory":64}`; got != want {
		t.Errorf("options: got %s, want %s", got, want)
	}
	if ec2 := p.Targets[1]; ec2.Kind != "ec2" || ec2.Options != nil {
		t.Errorf("a target without anything: got %+v", ec2)
	}

	scan, sign := step.Step{Activity: "scan.Scan", TaskQueue: "scan"}, step.Step{Activity: "sign.Sign", TaskQueue: "sign"}
	route := step.NewRoute("command", "qemu")
	route.Build = step.Step{Activity: "acme.Build", TaskQueue: "acme", OnHost: true}
	route.Boot = step.Step{Activity: "own.Boot", TaskQueue: "own"}
	route.After = map[step.Stage][]step.Step{step.Build: {}, step.Package: {sign}}
	if got := p.Route(p.Targets[0]); !reflect.DeepEqual(got, route) {
		t.Errorf("route of zoo:\n got %+v\nwant %+v", got, route)
	}
	route = step.NewRoute("command", "ec2")
	route.Build = step.Step{Activity: "acme.Build", TaskQueue: "acme", OnHost: true}
	route.Boot = step.Step{Activity: "acme.Boot", TaskQueue: "acme"}
	route.After = map[step.Stage][]step.Step{step.Build: {scan}, step.Package: {sign}}
	if got := p.Route(p.Targets[1]); !reflect.DeepEqual(got, route) {
		t.Errorf("route of ec2:\n got %+v\nwant %+v", got, route)
	}
}

// TestRouteReplacesAny: each step of a route can be replaced, and no other is then.
func TestRouteReplacesAny(t *testing.T) {
	alone(t)
	for _, which := range Replaceable {
		p := load(t, hello+"    steps: {"+string(which)+": {activity: own.Step, taskQueue: own}}\n")
		route, want := p.Route(p.Targets[0]), step.NewRoute("command", "qemu")
		got := reflect.ValueOf(&route).Elem().FieldByName(strings.ToUpper(string(which[:1])) + string(which[1:]))
		if got.Interface() != (step.Step{Activity: "own.Step", TaskQueue: "own"}) {
			t.Errorf("%s: got %+v", which, got)
		}
		got.Set(reflect.ValueOf(&want).Elem().FieldByName(strings.ToUpper(string(which[:1])) + string(which[1:])))
		if !reflect.DeepEqual(route, want) {
			t.Errorf("%s: others changed as well: %+v", which, route)
		}
	}
	if n := reflect.TypeFor[step.Route]().NumField() - 1; n != len(Replaceable) { // less After
		t.Errorf("%d of a route's %d steps can be replaced", len(Replaceable), n)
	}
}

func TestRouteWithoutSteps(t *testing.T) {
	alone(t)
	p := load(t, hello)
	if got, want := p.Route(p.Targets[0]), step.NewRoute("command", "qemu"); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestPrebuilt(t *testing.T) {
	folder := alone(t)
	write(t, "k/hello.xen", "kernel")
	p := load(t, "app: hello\nsource: nowhere\ntoolchain: {kind: prebuilt, kernel: k/hello.xen}\ntargets: {qemu: }\n")
	if p.Kernel != filepath.Join(folder, "k/hello.xen") || p.Source != "" || len(p.Toolchain.Options) != 0 {
		t.Errorf("got %+v", p)
	}
	if err := p.CheckInput(); err != nil {
		t.Errorf("CheckInput: %v", err)
	}
	write(t, Filename, "app: hello\ntoolchain:\n  kind: prebuilt\n  kernal: k/hello.xen\ntargets: {qemu: }\n")
	_, err := Load("", nil)
	wantError(t, err, step.InvalidSpec, "morgana.yaml:4: toolchain.kernal: unknown key", `did you mean "kernel"?`)
}

func TestCheckInput(t *testing.T) {
	prebuilt := "app: hello\ntoolchain:\n  kind: prebuilt\n  kernel: %\ntargets: {qemu: }\n"
	for name, c := range map[string]struct {
		file, env string
		kind      step.Kind
		want      string
		hint      string
	}{
		"no kernel":       {strings.Replace(prebuilt, "%", "nope.xen", 1), "", step.NotFound, "morgana.yaml:4: toolchain.kernel: no such file: nope.xen", pathInFile},
		"kernel a folder": {strings.Replace(prebuilt, "%", ".", 1), "", step.InvalidSpec, "morgana.yaml:4: toolchain.kernel: . is not a file", ""},
		"no source":       {hello + "source: nope\n", "", step.NotFound, "morgana.yaml:10: source: no such folder: nope", pathInFile},
		"source a file":   {hello + "source: morgana.yaml\n", "", step.InvalidSpec, "morgana.yaml:10: source: morgana.yaml is not a folder", ""},
		"source by env":   {hello, "nope", step.NotFound, "MORGANA_SOURCE: no such folder: nope", pathTyped},
	} {
		t.Run(name, func(t *testing.T) {
			alone(t)
			if c.env != "" {
				t.Setenv("MORGANA_SOURCE", c.env)
			}
			wantError(t, load(t, c.file).CheckInput(), c.kind, c.want, c.hint)
		})
	}
}

func TestFind(t *testing.T) {
	folder := alone(t)
	home := filepath.Dir(folder)
	noFile := func(err error, text string) {
		t.Helper()
		wantError(t, err, step.NotFound, text, initHint)
	}
	write(t, filepath.Join(home, "..", Filename), hello) // above home
	_, err := Load("", nil)
	noFile(err, "no morgana.yaml in "+folder+" or a folder above it")
	_, err = Load("sub", nil)
	noFile(err, "read sub: no such file or directory")

	write(t, Filename, hello+"sauce: 1\n")
	write(t, "sub/deep/x", "")
	_, err = Load("sub", nil) // a folder that was asked for is not searched above
	noFile(err, "read sub/morgana.yaml: no such file or directory")
	const hint = `did you mean "source"?`
	_, err = Load(".", nil)
	wantError(t, err, step.InvalidSpec, "morgana.yaml:10: sauce: unknown key", hint)
	_, err = Load(filepath.Join(folder, Filename), nil)
	wantError(t, err, step.InvalidSpec, "morgana.yaml:10: sauce: unknown key", hint)
	t.Chdir("sub/deep")
	_, err = Load("", nil)
	wantError(t, err, step.InvalidSpec, "../../morgana.yaml:10: sauce: unknown key", hint)
	t.Chdir(home)
	write(t, Filename, hello)
	t.Chdir(filepath.Join(folder, "sub"))
	if err := os.Remove(filepath.Join(folder, Filename)); err != nil {
		t.Fatal(err)
	}
	if p, err := Load("", nil); err != nil || p.Folder != home {
		t.Errorf("in home itself: got %+v, %v", p, err)
	}
}

// TestPrecedence: flags before environment before file before default.
func TestPrecedence(t *testing.T) {
	folder := alone(t)
	other := filepath.Join(folder, "other")
	write(t, filepath.Join(other, "x"), "")
	flags := func(args ...string) *pflag.FlagSet {
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		AppFlag(fs)
		SourceFlag(fs)
		if err := fs.Parse(args); err != nil {
			t.Fatal(err)
		}
		return fs
	}
	expect := func(fs *pflag.FlagSet, app, source string) {
		t.Helper()
		p, err := Load(folder, fs)
		if err != nil {
			t.Fatal(err)
		}
		if p.App != app || p.Source != source {
			t.Errorf("got app %s, source %s; want %s, %s", p.App, p.Source, app, source)
		}
	}
	write(t, Filename, hello)
	expect(flags(), "hello", folder)
	write(t, Filename, hello+"source: src\n")
	t.Chdir(other) // what was typed is relative to here, what is in the file to the file
	expect(flags(), "hello", folder+"/src")
	t.Setenv("MORGANA_APP", "by-env")
	t.Setenv("MORGANA_SOURCE", "env")
	expect(flags(), "by-env", other+"/env")
	expect(nil, "by-env", other+"/env")
	expect(flags("--app", "by-flag", "--source", "flag"), "by-flag", other+"/flag")
	expect(flags("--app", "by-flag"), "by-flag", other+"/env")

	const hint = "a name is a lower-case letter, then at most 39 lower-case letters, digits or hyphens"
	_, err := Load(folder, flags("--app", "A"))
	wantError(t, err, step.InvalidSpec, `--app: "A" is not a valid name`, hint)
	t.Setenv("MORGANA_APP", "B")
	_, err = Load(folder, flags())
	wantError(t, err, step.InvalidSpec, `MORGANA_APP: "B" is not a valid name`, hint)
}
