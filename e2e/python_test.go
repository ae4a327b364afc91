package e2e

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.temporal.io/sdk/client"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// A target that a third party wrote in Python is deployed to, looked at and
// destroyed as if it were ours.
func TestPythonTarget(t *testing.T) {
	t.Parallel()
	p := newPythonLab(t)
	p.edit(filepath.Join(p.folder, "morgana.yaml"), "memory: 64", "memory: 64\n    keep: 1")
	r := p.deployed(p.folder, "-t", "lab")
	for _, want := range []string{"hello/lab boot", `console has "hello from a unikernel"`} {
		if !strings.Contains(r.out, want) {
			t.Errorf("no %q in:\n%s", want, r.out)
		}
	}
	first, _ := p.only("hello.lab")
	if c := p.morgana(p.folder, "console", "hello/lab"); c.code != 0 || !strings.Contains(c.out, "command line: [stay]") {
		t.Errorf("console %+v", c)
	}
	if s := p.morgana(p.folder, "status"); !strings.Contains(s.out, "pyqemu") || !strings.Contains(s.out, "up") {
		t.Errorf("status %+v", s)
	}

	if again := p.deployed(p.folder, "-t", "lab"); !strings.Contains(again.out, "unchanged, generation 1 is kept") {
		t.Errorf("deployed anew:\n%s", again.out)
	}
	if same, _ := p.only("hello.lab"); same != first {
		t.Errorf("process %s runs, it was %s", same, first)
	}
	// It has no abilities.
	if r := p.morgana(p.folder, "plan", "-t", "lab"); r.code != 0 || !strings.Contains(r.out, "kind pyqemu has no Forecast") || !strings.Contains(r.out, "has no Observe") {
		t.Errorf("plan %+v", r)
	}
	if r := p.morgana(p.folder, "sweep", "pyqemu", "--yes"); r.code != 0 || !strings.Contains(r.errOut, "this kind has no List") {
		t.Errorf("sweep %+v", r)
	}
	p.deployed(p.folder, "-t", "lab", "--set", "lab.memory=72")
	if next, folder := p.only("hello.lab"); next == first || !strings.HasSuffix(folder, "-3") {
		t.Errorf("process %s of %s runs, it was %s", next, folder, first)
	}

	_, folder := p.only("hello.lab")
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(readAll(t, filepath.Join(folder, "kernel")))))
	if d := p.morgana(p.folder, "destroy", "hello/lab"); d.code != 0 || !strings.Contains(d.out, "removed machine hello.lab.") {
		t.Errorf("destroy %+v", d)
	}

	// The target verifies the digest of an artifact that it reads.
	stored := p.state("store", "sha256", sum[:2], sum)
	p.edit(stored, "hello from", "hullo from")
	if bad := p.morgana(p.folder, "deploy", "-t", "lab"); bad.code != 2 || !strings.Contains(bad.errOut, stored+" has other bytes") {
		t.Errorf("deploy of a damaged kernel: %+v", bad)
	}
	p.nothingLeft()
}

// An error of the Python target is reported as an error of a Go target: one line
// with its place.
func TestPythonTargetRefuses(t *testing.T) {
	t.Parallel()
	p := newPythonLab(t)
	file := filepath.Join(p.folder, "morgana.yaml")
	whole := readAll(t, file)
	for _, c := range []struct {
		old, text string
		refusal
	}{
		{"memory: 64", "memroy: 64", refusal{code: 2, line: "morgana.yaml:11: memroy: unknown field", hint: `did you mean "memory"?`}},
		{"memory: 64", "colour: red", refusal{code: 2, line: "morgana.yaml:11: colour: unknown field", hint: "known fields: args, expect, memory, timeout"}},
		{"memory: 64", "memory: true", refusal{code: 2, line: "morgana.yaml:11: memory: want a whole number, not true"}},
		{"memory: 64", "memory: 0", refusal{code: 2, line: "morgana.yaml:11: memory: 0 MiB is not enough", hint: "1 or more"}},
	} {
		p.write(file, strings.Replace(whole, c.old, c.text, 1))
		c.matches(t, p.morgana(p.folder, "deploy", "-t", "lab"))
	}
	// A machine that starts and does not get ready is removed.
	p.write(file, strings.Replace(whole, "memory: 64", "timeout: 15", 1))
	refusal{code: 1, line: `boot hello.lab.LIFE-1: within 15 s the console did not have "never"`, hint: "hello from a unikernel"}.
		matches(t, p.morgana(p.folder, "deploy", "-t", "lab", "--set", "lab.expect=never"))
	refusal{code: 1, line: `boot hello.lab.LIFE-1: the machine ended and did not print "never"`, hint: "shutting down"}.
		matches(t, p.morgana(p.folder, "deploy", "-t", "lab", "--set", "lab.expect=never", "--set", "lab.args=now"))
	p.nothingLeft()
}

// kill -9 of the Python worker while it boots a machine: the next worker adopts
// the machine, or removes it after a destroy.
func TestKillThePythonWorkerInBoot(t *testing.T) {
	t.Parallel()
	p := newPythonLab(t)
	slowly, letGo, hold := p.slowly()
	wanted := p.begin(p.folder, "deploy", "-t", "lab")
	p.eventually("a machine starts", func() bool { return p.runs("-pidfile pid") })
	p.kill(p.worker)
	if len(p.folders()) != 1 || !p.runs("-pidfile pid") {
		t.Fatalf("not in the middle of boot: folders %q, processes %q", p.folders(), p.processes())
	}
	p.startPython(slowly)
	letGo()
	p.ends(wanted, 0)
	p.only("hello.lab")
	if n := p.attempts(p.client(), p.rollout(), "pyqemu.Boot"); n < 2 {
		t.Errorf("boot was started %d times, want 2", n)
	}

	hold()
	unwanted := p.begin(p.folder, "deploy", "-t", "lab", "--app", "unwanted")
	p.eventually("another machine starts", func() bool { return p.runs("-name unwanted.lab.") })
	p.kill(p.worker)
	destroy := p.begin(p.folder, "destroy", "unwanted/lab")
	p.startPython(slowly)
	if r := p.ends(unwanted, 1); !strings.Contains(r.errOut, "cancelled") {
		t.Errorf("deploy:\n%s%s", r.out, r.errOut)
	}
	p.ends(destroy, 0)
	p.only("hello.lab")
	p.ends(p.begin(p.folder, "destroy", "hello/lab"), 0)
	p.nothingLeft()
}

// A Python worker that gets SIGTERM while it boots a machine fails the activity at
// once, so that the next worker need not wait for the heartbeat timeout.
func TestStopThePythonWorkerInBoot(t *testing.T) {
	t.Parallel()
	p := newPythonLab(t)
	slowly, letGo, _ := p.slowly()
	deploy := p.begin(p.folder, "deploy", "-t", "lab")
	p.eventually("a machine starts", func() bool { return p.runs("-pidfile pid") })
	old := p.worker
	p.startPython(slowly)
	if err := errors.Join(old.Process.Signal(syscall.SIGTERM), old.Wait()); err != nil {
		t.Errorf("the worker that was told to stop: %v", err)
	}
	letGo()
	p.ends(deploy, 0)
	p.only("hello.lab")
	if n := p.attempts(p.client(), p.rollout(), "pyqemu.Boot"); n < 2 {
		t.Errorf("boot was started %d times, want 2", n)
	}
	if failure := p.lastFailure(p.client(), p.rollout(), "pyqemu.Boot"); strings.Contains(failure, "heartbeat") {
		t.Errorf("the first try ended with %q: it was missed, not handed over", failure)
	}
	p.ends(p.begin(p.folder, "destroy", "hello/lab"), 0)
	p.nothingLeft()
}

// rollout is the workflow id of the first rollout on target lab.
func (p *pythonLab) rollout() string {
	return workflows.RolloutID(step.Tags{App: "hello", Target: "lab", Generation: 1})
}

// slowly restarts the Python worker with a QEMU that waits: letGo lets it start,
// hold makes the next one wait.
func (p *pythonLab) slowly() (env string, letGo, hold func()) {
	p.t.Helper()
	slow, letGo := p.slowQEMU("-pidfile")
	path := p.t.TempDir()
	if err := os.Symlink(slow, filepath.Join(path, "qemu-system-x86_64")); err != nil {
		p.t.Fatal(err)
	}
	p.edit(slow, "exec qemu", "PATH=${PATH#*:}; exec qemu") // the real QEMU
	p.edit(slow, "$0.go", slow+".go")
	p.stopPython()
	env = "PATH=" + path + ":" + os.Getenv("PATH")
	p.startPython(env)
	return env, letGo, func() {
		if err := os.Remove(slow + ".go"); err != nil {
			p.t.Fatal(err)
		}
	}
}

// lastFailure is the error of an activity's last attempt but one.
func (p *pythonLab) lastFailure(c client.Client, id, activity string) (text string) {
	p.t.Helper()
	scheduled := int64(-1)
	for _, e := range p.history(c, id, "").Events {
		if a := e.GetActivityTaskScheduledEventAttributes(); a.GetActivityType().GetName() == activity {
			scheduled = e.GetEventId()
		}
		if a := e.GetActivityTaskStartedEventAttributes(); a != nil && a.GetScheduledEventId() == scheduled {
			text = a.GetLastFailure().String()
		}
	}
	return text
}
