package config

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

// TestBad shows every refusal as the user sees it.
func TestBad(t *testing.T) {
	const (
		build     = "toolchain: {kind: command, build: [[make]]}\n"
		nameHint  = "a name is a lower-case letter, then at most 39 lower-case letters, digits or hyphens"
		topKeys   = "one of app, source, toolchain, targets, steps, after"
		runHint   = "say where to run it, as in `targets: {dev: {kind: qemu}}`"
		makesHint = "say what makes the kernel, as in `toolchain: {kind: command, build: [[make]]}`"
	)
	full := func(target string) string { return "app: a\n" + build + "targets:\n  dev:\n" + target }
	for name, c := range map[string]struct{ file, want, hint string }{
		"empty":         {"", "morgana.yaml: the file is empty", initHint},
		"only comments": {"# nothing\n---\n", "morgana.yaml: the file is empty", initHint},
		"a list":        {"\n- app\n", "morgana.yaml:2: want a mapping, not a list", ""},
		"too big":       {strings.Repeat("# filler\n", 10_000), "read morgana.yaml: more than 64 KiB", ""},

		// YAML
		"two documents":   {hello + "---\napp: b\n", "morgana.yaml:10: a second YAML document; want one", ""},
		"tab":             {"app: a\ntargets:\n\tdev: b\n", "morgana.yaml:3: not YAML: found character that cannot start any token", "indent by spaces: YAML takes no tabs there"},
		"bracket":         {"app: a\ntargets: {dev: {kind: qemu}\ntoolchain: b\nsource: c\n", "morgana.yaml:2: not YAML: did not find expected ',' or '}'", ""},
		"quote":           {"app: \"a\nsource: .\n\n", "morgana.yaml:1: not YAML: found unexpected end of stream", ""},
		"indentation":     {"targets:\n  dev:\n    memory: 1\n   cpus: 2\n", "morgana.yaml:4: not YAML: did not find expected key", ""},
		"no colon":        {"app: a\nsource\ntargets: b\n", "morgana.yaml:2: not YAML: could not find expected ':'", ""},
		"unknown anchor":  {"app: a\nsource: b\ntargets: *x\n", "morgana.yaml:3: not YAML: unknown anchor 'x' referenced", ""},
		"not UTF-8":       {"app: a\nsource: \xff\n", "morgana.yaml:2: not YAML: invalid leading UTF-8 octet", ""},
		"control":         {"app: a\nsource: \x01\n", "morgana.yaml:2: not YAML: control characters are not allowed", ""},
		"given twice":     {"app: a\nsource: b\napp: c\n", "morgana.yaml:3: app: given twice, first at morgana.yaml:1", ""},
		"twice below":     {full("    kernel: {a: 1,\n      a: 2}\n"), "morgana.yaml:6: targets.dev.kernel.a: given twice, first at morgana.yaml:5", ""},
		"number as key":   {full("    ports:\n      8080: 80\n"), "morgana.yaml:6: targets.dev.ports.8080: a key that is not a string", `write "8080"`},
		"list as key":     {full("    ? [a]\n    : b\n"), "morgana.yaml:5: targets.dev: a key that is not a string", ""},
		"tag":             {full("    memory: !env MEMORY\n"), "morgana.yaml:5: targets.dev.memory: tag !env is not supported", ""},
		"tag of a list":   {full("    ports: !set [a]\n"), "morgana.yaml:5: targets.dev.ports: tag !set is not supported", ""},
		"binary":          {full("    key: !!binary aGk=\n"), "morgana.yaml:5: targets.dev.key: tag !!binary is not supported", ""},
		"octal":           {full("    memory: 064\n"), "morgana.yaml:5: targets.dev.memory: 064 is octal to some and decimal to others", `drop the leading zeros; 0o17 is octal, "064" is a string`},
		"no octal":        {full("    memory: 089\n"), "morgana.yaml:5: targets.dev.memory: 089 is octal to some and decimal to others", `drop the leading zeros; 0o17 is octal, "089" is a string`},
		"infinite":        {full("    memory: .inf\n"), "morgana.yaml:5: targets.dev.memory: .inf is no number that JSON can carry", ""},
		"65 bits":         {full("    memory: 18446744073709551616\n"), "morgana.yaml:5: targets.dev.memory: 18446744073709551616 does not fit into 64 bits", ""},
		"forced int":      {full("    memory: !!int lots\n"), "morgana.yaml:5: targets.dev.memory: want a whole number, not \"lots\"", ""},
		"alias of itself": {full("    a: &a [*a]\n"), "morgana.yaml:5: values nested more than 50 deep", ""},
		"alias bomb": {full("    a: &a [x,x,x,x,x,x,x,x,x,x]\n    b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n    c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n" +
			"    d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"), "morgana.yaml:5: more than 10000 values", ""},
		"merged text": {full("    <<: base\n"), "morgana.yaml:5: targets.dev.<<: want a mapping or a list of them, not a string", ""},
		"merged list": {full("    <<: [base]\n"), "morgana.yaml:5: targets.dev.<<: want a mapping, not a string", ""},

		// our own keys
		"unknown key":       {hello + "targts: {}\n", "morgana.yaml:10: targts: unknown key", `did you mean "targets"?`},
		"key in other case": {"App: a\n", "morgana.yaml:1: App: unknown key", `did you mean "app"?`},
		"nothing near":      {hello + "zzzzzzzz: {}\n", "morgana.yaml:10: zzzzzzzz: unknown key", topKeys},
		"no app":            {build + "targets: {dev: }\n", "morgana.yaml: app: missing", "give the unikernel a name, as in `app: hello`"},
		"app a number":      {"app: 12\n", "morgana.yaml:1: app: want a string, not a number", ""},
		"app a list":        {"\napp: [a]\n", "morgana.yaml:2: app: want a string, not a list", ""},
		"app in upper case": {"app: Hello\n", `morgana.yaml:1: app: "Hello" is not a valid name`, nameHint},
		"source true":       {"app: a\nsource: true\n", "morgana.yaml:2: source: want a string, not true or false", ""},

		"no toolchain":     {"app: a\ntargets: {dev: }\n", "morgana.yaml: toolchain: missing", makesHint},
		"toolchain a word": {"app: a\ntoolchain: command\n", "morgana.yaml:2: toolchain: want a mapping, not a string", ""},
		"no kind":          {"app: a\n\ntoolchain: {}\n", "morgana.yaml:3: toolchain.kind: missing", "give a kind, as in `kind: command`"},
		"kind a number":    {"app: a\ntoolchain: {kind: 1}\n", "morgana.yaml:2: toolchain.kind: want a string, not a number", ""},
		"kind no name":     {"app: a\ntoolchain:\n  kind: ../x\n", `morgana.yaml:3: toolchain.kind: "../x" is not a valid name`, nameHint},
		"prebuilt nothing": {"app: a\ntoolchain: {kind: prebuilt}\n", "morgana.yaml:2: toolchain.kernel: missing", "give the path of the kernel, as in `kernel: build/hello.xen`"},
		"prebuilt empty":   {"app: a\ntoolchain:\n  kind: prebuilt\n  kernel: ''\n", "morgana.yaml:4: toolchain.kernel: want a path, not an empty string", ""},
		"prebuilt a list":  {"app: a\ntoolchain:\n  kind: prebuilt\n  kernel: [a]\n", "morgana.yaml:4: toolchain.kernel: want a string, not a list", ""},

		"no targets":          {"app: a\n" + build, "morgana.yaml: targets: missing", runHint},
		"null targets":        {"app: a\n" + build + "targets:\n", "morgana.yaml:3: targets: want at least one target", runHint},
		"empty targets":       {"app: a\n" + build + "targets: {}\n", "morgana.yaml:3: targets: want at least one target", runHint},
		"targets a list":      {"app: a\n" + build + "targets: [dev]\n", "morgana.yaml:3: targets: want a mapping, not a list", ""},
		"target's name":       {"app: a\n" + build + "targets:\n  Dev: {}\n", `morgana.yaml:4: targets.Dev: "Dev" is not a valid name`, nameHint},
		"target a word":       {"app: a\n" + build + "targets:\n  dev: qemu\n", "morgana.yaml:4: targets.dev: want a mapping, not a string", ""},
		"target's kind":       {full("    kind: [qemu]\n"), "morgana.yaml:5: targets.dev.kind: want a string, not a list", ""},
		"target's kind's use": {full("    kind: qemu@host\n"), `morgana.yaml:5: targets.dev.kind: "qemu@host" is not a valid name`, nameHint},

		"restart":            {full("    restart: on_failure\n"), `morgana.yaml:5: targets.dev.restart: "on_failure" is no restart policy`, `did you mean "on-failure"?`},
		"restart true":       {full("    restart: yes\n"), `morgana.yaml:5: targets.dev.restart: "yes" is no restart policy`, "one of always, on-failure, never"},
		"keep":               {full("    memory: 1\n    keep: 0\n"), "morgana.yaml:6: targets.dev.keep: 0 generations cannot be kept", "1, the running generation alone, to 50"},
		"health":             {full("    health:\n      http: /\n      failures: often\n"), "morgana.yaml:7: targets.dev.health.failures: want a whole number, not a string", "a whole number, as 64"},
		"health's key":       {full("    health:\n      http: /\n      failure: 1\n"), "morgana.yaml:7: targets.dev.health.failure: unknown field", `did you mean "failures"?`},
		"health of nothing":  {full("    health:\n      interval: 5s\n"), "morgana.yaml:5: targets.dev.health: want one of http, tcp and console, not 0", "as in `health: {http: /healthz}`"},
		"stage":              {full("    steps: {bild: {activity: a, taskQueue: b}}\n"), "morgana.yaml:5: targets.dev.steps.bild: unknown key", `did you mean "build"?`},
		"no step of a route": {full("    steps: {undo: {activity: a, taskQueue: b}}\n"), "morgana.yaml:5: targets.dev.steps.undo: unknown key", "one of check, configure, build, package, register, boot, fetch, console, destroy, clean, observe, watch, probe, list, forecast"},
		"after no stage":     {full("    after: {destroy: []}\n"), "morgana.yaml:5: targets.dev.after.destroy: unknown key", "one of check, configure, build, package, register, boot"},
		"clean as destroy": {full("    steps:\n      destroy: {activity: a, taskQueue: b}\n      clean: {activity: a, taskQueue: b, onHost: true}\n"),
			"morgana.yaml:7: targets.dev.steps.clean: want another activity than that of destroy", "clean removes build trees after every deploy, destroy machines"},
		"steps a list":        {full("    steps: []\n"), "morgana.yaml:5: targets.dev.steps: want a mapping, not a list", ""},
		"step a word":         {full("    steps:\n      build: acme\n"), "morgana.yaml:6: targets.dev.steps.build: want a mapping, not a string", stepHint},
		"step's key":          {full("    steps:\n      build: {activity: a, queue: b}\n"), "morgana.yaml:6: targets.dev.steps.build.queue: unknown key", "one of activity, taskQueue, onHost"},
		"step's queue":        {full("    steps:\n      build: {activity: a}\n"), "morgana.yaml:6: targets.dev.steps.build.taskQueue: missing", stepHint},
		"step's activity":     {full("    steps:\n      build: {activity: '', taskQueue: a}\n"), "morgana.yaml:6: targets.dev.steps.build.activity: want a name, not an empty string", ""},
		"step's host":         {full("    steps:\n      build: {activity: a, taskQueue: a, onHost: yes}\n"), "morgana.yaml:6: targets.dev.steps.build.onHost: want true or false, not a string", ""},
		"after no list":       {full("    after: {build: {activity: a, taskQueue: b}}\n"), "morgana.yaml:5: targets.dev.after.build: want a list, not a mapping", ""},
		"after's second step": {full("    after:\n      build:\n      - {activity: a, taskQueue: b}\n      - {taskQueue: b}\n"), "morgana.yaml:8: targets.dev.after.build[1].activity: missing", stepHint},
		"step at the top":     {"app: a\n" + build + "steps: {build: {}}\ntargets: {dev: }\n", "morgana.yaml:3: steps.build.activity: missing", stepHint},
	} {
		t.Run(name, func(t *testing.T) {
			alone(t)
			write(t, Filename, c.file)
			_, err := Load("", nil)
			wantError(t, err, step.InvalidSpec, c.want, c.hint)
		})
	}
}

func TestUnreadable(t *testing.T) {
	folder := alone(t)
	if err := os.Mkdir(Filename, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := Load("", nil)
	wantError(t, err, step.InvalidSpec, "read morgana.yaml: is a directory", "name a regular file")
	pipe := filepath.Join(folder, "pipe") // opening it as usual would block
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Load(pipe, nil)
	wantError(t, err, step.InvalidSpec, "read pipe: not a regular file", "name a regular file")
	denied := &fs.PathError{Op: "open", Path: "/x/morgana.yaml", Err: syscall.EACCES} // root may read all
	wantError(t, Unreadable("morgana.yaml", denied), step.Unauthorized, "read morgana.yaml: permission denied",
		"run as its owner, or let others read it: chmod a+r morgana.yaml, and a+x for its folders")
}

func FuzzLoad(f *testing.F) {
	for _, seed := range []string{
		hello, "app: a\nsteps: {build: {activity: a, taskQueue: b}}\nafter: {boot: []}\n",
		"a: &a [*a]\n", "a: &a {b: 1}\nc: {<<: [*a, *a], d: 0x10}\n", "? {a: b}\n: c\n", "--- !!map\n...\n---\n", "a: |2\n    x\n \n#\n",
		"- - \n #\n - -\n  0", "\xef\xbb\xbfapp: \"\\x00\"\n", "%YAML 1.2\n---\napp: 2001-01-01\n", "a: !!float 1\nb: .nan\n",
	} {
		f.Add(seed, "dev.memory=128", "ports[1].x")
	}
	folder := f.TempDir()
	path := filepath.Join(folder, Filename)
	f.Fuzz(func(t *testing.T, content, set, field string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := Load(path, nil)
		if err != nil {
			if step.KindOf(err) == "" {
				t.Errorf("an error without a kind: %v", err)
			}
			if p = asOptions(path); p == nil {
				return
			}
		}
		if err := p.Set(set); err != nil && step.KindOf(err) == "" {
			t.Errorf("Set: an error without a kind: %v", err)
		}
		for _, target := range p.Targets {
			p.Route(target)
			p.Locate(target.Name, field)
		}
	})
}

// asOptions wraps what is valid YAML as the options of a target.
func asOptions(path string) *Project {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	v, err := readYAML(data, lineOf(path))
	if err != nil {
		return nil
	}
	root, err := readYAML([]byte(hello), lineOf(path))
	if err != nil {
		return nil
	}
	root, err = put(root, []segment{{name: "targets"}, {name: "dev"}}, v, "here", "")
	if err != nil {
		return nil
	}
	p, err := newProject(Project{root: root})
	if err != nil {
		return nil
	}
	return p
}
