package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
)

func TestHelpHasExamples(t *testing.T) {
	need.Tools(t, binary("morgana"))
	for _, command := range []string{"", "init", "deploy", "status", "console", "destroy", "version", "dev", "dev up", "dev down", "dev status"} {
		out, err := exec.Command(binary("morgana"), append(strings.Fields(command), "--help")...).Output()
		if err != nil {
			t.Errorf("morgana %s --help: %v", command, err)
		}
		_, example, _ := strings.Cut(string(out), "\nExamples:\n")
		if !strings.HasPrefix(example, strings.TrimRight("  morgana "+command, " ")) {
			t.Errorf("morgana %s --help has no example:\n%s", command, out)
		}
	}
}

func TestCompletion(t *testing.T) {
	need.Tools(t, binary("morgana"), "bash")
	script, err := exec.Command(binary("morgana"), "completion", "bash").Output()
	if err != nil {
		t.Fatal(err)
	}
	check := exec.Command("bash", "-n")
	check.Stdin = strings.NewReader(string(script))
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("bash: %v\n%s", err, out)
	}
	out, err := exec.Command(binary("morgana"), "__complete", "dep").Output() // what the script calls
	if err != nil || !strings.HasPrefix(string(out), "deploy\t") {
		t.Errorf("completes dep to %q, %v", out, err)
	}
}

// event is a line of -o json, as a script would read it.
type event struct {
	Time       time.Time     `json:"time"`
	Event      string        `json:"event"`
	App        string        `json:"app"`
	Target     string        `json:"target"`
	Generation int           `json:"generation"`
	Rollout    string        `json:"rollout"`
	Stage      string        `json:"stage"`
	State      string        `json:"state"`
	Machine    *step.Machine `json:"machine"`
	Error      *struct {
		Kind, Op, Field, Message, Hint string
	} `json:"error"`
}

// parsed reads standard output as lines of JSON and nothing else.
func parsed[Line any](t *testing.T, out string) (all []Line) {
	t.Helper()
	for text := range strings.Lines(out) {
		var line Line
		if err := json.Unmarshal([]byte(text), &line); err != nil || !strings.HasSuffix(text, "\n") {
			t.Errorf("%q: %v", text, err)
		}
		all = append(all, line)
	}
	return all
}

func TestJSON(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	folder, _ := l.built(l.kernel(), "said", stays)
	r := l.deployed(folder, "-o", "json")
	if r.errOut != "" {
		t.Errorf("also said %q", r.errOut)
	}
	var told []string
	for _, e := range parsed[event](t, r.out) {
		if e.Time.IsZero() || e.App != "said" || e.Target != "dev" || e.Generation != 1 {
			t.Errorf("event %+v", e)
		}
		if e.Event != "progress" && e.Event != "waiting" {
			told = append(told, strings.Trim(e.Event+" "+e.Stage+" "+e.State, " "))
		}
		if e.Event == "deployed" && (e.Machine == nil || !strings.Contains(e.Machine.Ready, "hello from a unikernel")) {
			t.Errorf("deployed %+v", e.Machine)
		}
	}
	want := []string{"accepted"}
	for _, stage := range step.Stages {
		want = append(want, "stage "+string(stage)+" running", "stage "+string(stage)+" done")
	}
	if want = append(want, "deployed"); !slices.Equal(told, want) {
		t.Errorf("told %q\nwant %q", told, want)
	}

	type object map[string]json.RawMessage
	for _, c := range []struct{ args, key, value string }{
		{"status", "state", `"up"`},
		{"status said", "app", `"said"`},
		{"console", "text", `hello from a unikernel`},
		{"version", "version", ``},
		{"dev status", "serverUp", `false`},
		{"destroy", "event", `"destroyed"`},
		{"status --all", "state", `"destroyed"`},
	} {
		r := l.morgana(folder, append(strings.Fields(c.args), "-o", "json")...)
		lines := parsed[object](t, r.out)
		if r.code != 0 || r.errOut != "" || len(lines) == 0 {
			t.Errorf("%s: %+v", c.args, r)
		} else if value, ok := lines[0][c.key]; !ok || !strings.Contains(string(value), c.value) {
			t.Errorf("%s: %s is %s, want %s", c.args, c.key, value, c.value)
		}
	}
	if r := l.morgana(folder, "status", "-o", "json"); r.out != "" || r.code != 0 {
		t.Errorf("status of nothing: %+v", r)
	}

	failed := l.morgana(folder, "deploy", "-o", "json", "--set", "dev.memroy=1")
	events := parsed[event](t, failed.out)
	if len(events) < 3 || failed.code != 2 {
		t.Fatalf("failed with %+v", failed)
	}
	if last := events[len(events)-1]; last.Event != "failed" || last.Error == nil || last.Error.Kind != "InvalidSpec" ||
		last.Error.Field != "memroy" || last.Error.Op != "--set dev.memroy=1" || last.Error.Hint == "" {
		t.Errorf("failed with %+v", last)
	}
	events = parsed[event](t, l.morgana(folder, "deploy", "-o", "json", "-t", "prod").out)
	if len(events) != 1 || events[0].Event != "error" || events[0].Error == nil || events[0].Error.Kind != "NotFound" {
		t.Errorf("error %+v", events)
	}
	l.nothing("said")
}

// A deploy goes on without a starter: after --detach and after Ctrl-C. The same
// command attaches to it.
func TestDetach(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	build, letGo := l.gated()
	folder := l.source("slow", build, stays)

	began := time.Now()
	r := l.deployed(folder, "--detach")
	if took := time.Since(began); took > waits || !strings.HasPrefix(r.out, "slow/dev generation 1") {
		t.Errorf("detached after %v: %+v", took, r)
	}
	watching := l.begin(folder, "deploy")
	l.eventually("it is building", func() bool { return strings.Contains(watching.out.String(), "configure  done") })
	if s := l.morgana(folder, "status", "slow/dev"); !strings.Contains(s.out, "rolling out 1") || s.code != 0 {
		t.Errorf("status %+v", s)
	}
	if err := watching.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if r := l.ends(watching, 130); !strings.Contains(r.out, "going on already") || strings.Count(r.errOut, "\n") != 1 ||
		!strings.HasPrefix(r.errOut, "detached: the deploy goes on") {
		t.Errorf("after Ctrl-C: %+v", r)
	}

	attached := l.begin(folder, "deploy")
	l.eventually("it attached", func() bool { return strings.Contains(attached.out.String(), "going on already") })
	letGo()
	if r := l.ends(attached, 0); !strings.Contains(r.out, "slow/dev deployed: machine ") {
		t.Errorf("attached: %+v", r)
	}
	if n := len(l.machines()); n != 1 {
		t.Errorf("%d machines", n)
	}
	if s := l.morgana(folder, "status"); !strings.Contains(s.out, " 1 ") || !strings.Contains(s.out, " up ") {
		t.Errorf("status %+v", s)
	}
	if d := l.morgana(folder, "destroy"); d.code != 0 {
		t.Errorf("destroy %+v", d)
	}
	l.nothing("slow")
}

// The morgana.yaml that init writes can be deployed unchanged.
func TestInit(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	folder := l.hello()
	file := filepath.Join(folder, "morgana.yaml")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if r := l.morgana(folder, "init"); r.code != 0 || r.out != "" {
		t.Fatalf("init %+v", r)
	}
	l.deployed(folder)
	before := readAll(t, file)
	refusal{code: 2, line: "morgana.yaml: exists already", hint: "--force"}.matches(t, l.morgana(folder, "init", "--app", "other"))
	if readAll(t, file) != before {
		t.Error("init changed the file that it refused to")
	}
	if r := l.morgana(folder, "destroy"); r.code != 0 {
		t.Errorf("destroy %+v", r)
	}

	// A ready-made kernel, its path relative to the user's folder.
	above := t.TempDir()
	l.write(filepath.Join(above, "k"), string(l.kernel()))
	if err := os.Mkdir(filepath.Join(above, "Web Site 2"), 0o755); err != nil {
		t.Fatal(err)
	}
	if r := l.morgana(above, "init", "Web Site 2", "--kernel", "k"); r.code != 0 {
		t.Fatalf("init %+v", r)
	}
	if r := l.deployed(filepath.Join(above, "Web Site 2")); !strings.Contains(r.out, "web-site-2/dev deployed") {
		t.Errorf("deploy %+v", r)
	}
	if r := l.morgana(filepath.Join(above, "Web Site 2"), "destroy"); r.code != 0 {
		t.Errorf("destroy %+v", r)
	}
	l.nothing("web-site")
}

func TestStatusAndConsole(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	folder, _ := l.built(l.kernel(), "talker", stays)
	if r := l.morgana(folder, "status"); r != (result{0, "", "no deployments run\n"}) {
		t.Errorf("status of nothing: %+v", r)
	}
	refusal{code: 2, line: "talker is not deployed", hint: "morgana status"}.matches(t, l.morgana(folder, "console"))
	l.deployed(folder)
	for _, args := range [][]string{{"status"}, {"status", "talker"}, {"status", "talker/dev"}, {"status", "--all"}} {
		if r := l.morgana(t.TempDir(), args...); r.code != 0 || !regexp.MustCompile(`(?m)^talker +dev +qemu +1 +up `).MatchString(r.out) {
			t.Errorf("%q: %+v", args, r)
		}
	}
	for _, name := range []string{"talk", "talker/de"} {
		if r := l.morgana(folder, "status", name); r != (result{0, "", "no deployment of " + name + " runs\n"}) {
			t.Errorf("status %s: %+v", name, r)
		}
	}

	follow := l.begin(t.TempDir(), "console", "talker", "--follow")
	l.eventually("the console is shown", func() bool { return strings.Contains(follow.out.String(), "staying") })
	if err := syscall.Kill(l.machines()[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if r := l.ends(follow, 0); strings.Count(r.out, "hello from a unikernel") != 1 || r.errOut != "" {
		t.Errorf("followed %+v", r)
	}
	if r := l.morgana(folder, "status"); !strings.Contains(r.out, " ended ") || !strings.Contains(r.out, "killed") {
		t.Errorf("status after kill -9: %+v", r)
	}
	if r := l.morgana(folder, "destroy"); r.code != 0 {
		t.Errorf("destroy %+v", r)
	}
	if r := l.morgana(folder, "status", "--all"); r.code != 0 || !strings.Contains(r.out, "destroyed") {
		t.Errorf("status --all: %+v", r)
	}

	// A machine that shuts down by itself.
	l.deployed(folder, "--set", `dev.args=""`)
	if r := l.ends(l.begin(folder, "console", "--follow"), 0); !strings.Contains(r.out, "shutting down") {
		t.Errorf("followed %+v", r)
	}
	if r := l.morgana(folder, "status"); !strings.Contains(r.out, " ended ") {
		t.Errorf("status %+v", r)
	}

	// Output into a closed pipe (morgana status | head -0).
	for _, command := range []string{"status", "console", "status -o json", "deploy", "version", "--help"} {
		closed, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		_ = closed.Close() // so that writing fails
		cmd := exec.Command(binary("morgana"), strings.Fields(command)...)
		var errOut strings.Builder
		cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = folder, l.env, out, &errOut
		err = cmd.Run()
		_ = out.Close() // nobody reads it
		if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); err != nil && (!ok || s.Signal() != syscall.SIGPIPE) || errOut.String() != "" {
			t.Errorf("%s to a closed pipe: %v, %q", command, err, errOut.String())
		}
	}
	if r := l.morgana(folder, "destroy"); r.code != 0 {
		t.Errorf("destroy %+v", r)
	}
	l.nothing("talker")
}

var escapes = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]|\r")

// On a terminal the stages are redrawn in place, and the last drawing stays.
func TestTerminal(t *testing.T) {
	t.Parallel()
	need.Tools(t, "script", "stty")
	l := newLab(t)
	l.env = append(l.env, "TERM=xterm")
	folder := l.hello()
	const width = 50
	cmd := exec.Command("script", "-qec", fmt.Sprintf("stty cols %d rows 24; %s deploy", width, binary("morgana")), "/dev/null")
	cmd.Dir, cmd.Env = folder, l.env
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	drawings := strings.Split(strings.TrimSuffix(string(out), "\x1b[J"), "\x1b[J")
	if len(drawings) < 3 {
		t.Fatalf("drawn %d times: %q", len(drawings), out)
	}
	// The last drawing is whole.
	last := escapes.ReplaceAllString(drawings[len(drawings)-1], "")
	for _, stage := range step.Stages {
		if !regexp.MustCompile(`(?m)^  ✓ ` + string(stage) + ` +\d+\.\ds  `).MatchString(last) {
			t.Errorf("the screen lacks %s:\n%s", stage, last)
		}
	}
	if !strings.Contains(last, "hello/dev deployed: machine ") {
		t.Errorf("the screen lacks the end:\n%s", last)
	}
	for _, drawing := range drawings[:len(drawings)-1] {
		for line := range strings.Lines(drawing) {
			if shown := strings.TrimRight(escapes.ReplaceAllString(line, ""), "\n"); utf8.RuneCountInString(shown) >= width {
				t.Errorf("%d columns of %d: %q", utf8.RuneCountInString(shown), width, line)
			}
		}
	}
	if r := l.morgana(folder, "destroy"); r.code != 0 {
		t.Errorf("destroy %+v", r)
	}
}
