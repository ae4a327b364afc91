package e2e

import (
	"encoding/json"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// A machine that is killed is restarted by its policy, also after the worker and the
// server were killed with it, as when a host loses its power.
func TestRestart(t *testing.T) {
	t.Parallel()
	l := newServerLab(t)
	c := l.client()
	folder := l.project(`app: prog
toolchain: {kind: command, build: [[cc, -o, prog, prog.c]], kernel: prog}
targets:
  dev: {kind: local, restart: always}
  failing: {kind: local, restart: on-failure}
  job: {kind: local, restart: on-failure, args: ["0"], expect: hello}
  never: {kind: local}
`)
	l.write(filepath.Join(folder, "prog.c"), program)
	machine, _ := l.built(l.kernel(), "vm", "restart: always, args: stay, expect: hello from a unikernel")
	l.deployed(folder, "--all")
	l.deployed(machine)
	of := func(name string) (s workflows.DeploymentStatus, state string) {
		r := l.morgana(folder, "status", name, "-o", "json")
		var line struct {
			State string
			workflows.DeploymentStatus
		}
		if err := json.Unmarshal([]byte(r.out), &line); err != nil {
			t.Fatalf("%v\n%s%s", err, r.out, r.errOut)
		}
		return line.DeploymentStatus, line.State
	}
	// kill kills all processes of machines, each program with its supervisor if told to.
	kill := func(supervisors bool) {
		for _, p := range l.processes() {
			word, _, _ := strings.Cut(p, " ")
			pid, err := strconv.Atoi(word)
			if err == nil && (supervisors || !strings.Contains(p, "supervise-local-machine")) {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended with its supervisor
			}
		}
	}
	back := func(restarts int) {
		t.Helper()
		for _, name := range []string{"prog/dev", "prog/failing", "vm/dev"} {
			l.eventually(name+" is restarted", func() bool { s, _ := of(name); return s.Restarts == restarts })
		}
		l.one("vm")
		if s, state := of("prog/dev"); state != "up" || s.Watch.InRow != restarts || !strings.HasPrefix(s.Watch.Ended.How, "killed") {
			t.Errorf("prog/dev is %s: %+v", state, s.Watch)
		}
	}
	if n := len(l.programs()); n != 3 {
		t.Fatalf("%d programs, want 3: %q", n, l.programs())
	}

	began := time.Now()
	kill(false)
	l.eventually("status says that prog/never has ended", func() bool { _, state := of("prog/never"); return state == "ended" })
	back(1)
	t.Logf("back %s after the kill", time.Since(began).Round(time.Second))

	l.kill(l.worker)
	l.kill(l.server)
	kill(true)
	l.startServer()
	began = time.Now()
	l.startWorker()
	back(2)
	t.Logf("back %s after the worker's start", time.Since(began).Round(time.Second))
	if n := len(l.programs()); n != 2 {
		t.Errorf("%d programs, want 2: %q", n, l.programs())
	}
	if s, state := of("prog/failing"); state != "up" || s.Restarts != 2 {
		t.Errorf("prog/failing is %s, %d restarts", state, s.Restarts)
	}
	if s, state := of("prog/job"); state != "ended" || s.Restarts != 0 {
		t.Errorf("prog/job is %s, %d restarts", state, s.Restarts)
	}
	if h := l.history(c, workflows.DeploymentID("prog", "dev"), ""); len(h.Events) > 100 {
		t.Errorf("%d events", len(h.Events))
	}
	if s, _ := of("prog/dev"); s.Policy.Restart != step.RestartAlways {
		t.Errorf("policy %+v", s.Policy)
	}
	l.ends(l.begin(machine, "destroy"), 0)
	l.ends(l.begin(folder, "destroy"), 0)
	l.eventually("the watches end", func() bool { left, _ := filepath.Glob(l.state("watch", "*")); return len(left) == 0 })
	l.gone()
}
