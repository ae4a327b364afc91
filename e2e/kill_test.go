package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// kill -9 of the worker while one app builds, one is packaged, one registered
// and one booted: all four deploys end well, each with one machine and one
// registration, and nothing of the first try is left.
func TestKillTheWorkerInEveryStage(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	store := l.withBucket("secret", "--builds", "4")
	c := l.client()
	kernel := l.kernel()

	builds := l.source("builds", l.once()+"make\n", stays)
	slow, letGo := l.slowQEMU("-pidfile")
	packaged, _ := l.built(kernel, "packaged", "args: stay packaged-here, expect: hello from a unikernel")
	registered, bytes := l.built(kernel, "registered", "args: stay registered-here, expect: hello from a unikernel")
	boots, _ := l.built(kernel, "boots", stays+", accel: tcg, qemu: "+slow)
	inPackage := store.holdPackage("packaged-here")
	inRegister := store.holdRegister("registered-here", bytes)

	cases := []struct{ app, folder, activity string }{
		{"packaged", packaged, "qemu.Package"},
		{"registered", registered, "qemu.Register"},
		{"builds", builds, "command.Build"},
		{"boots", boots, "qemu.Boot"},
	}
	var deploys []*running
	for _, k := range cases {
		deploys = append(deploys, l.begin(k.folder, "deploy"))
	}
	l.kept(inPackage, "package")
	l.kept(inRegister, "register")
	l.eventually("a build and a boot run", func() bool { return l.runs("sleep 1000") && l.runs("slow-qemu") })
	for _, k := range cases {
		l.started(c, rollout(k.app, 1), k.activity)
	}
	if half := l.registrations(); !strings.Contains(strings.Join(half, " "), ".registered.") {
		t.Errorf("no half-made registration in %q: register is not in its middle", half)
	}

	l.kill(l.worker)
	letGo()
	l.startWorker("--builds", "4")
	for i, k := range cases {
		l.ends(deploys[i], 0)
		if n := l.attempts(c, rollout(k.app, 1), k.activity); n < 2 {
			t.Errorf("%s was started %d times, want 2", k.activity, n)
		}
		l.one(k.app)
	}
	if n := len(l.processes()); n != len(cases) {
		t.Errorf("more runs than %d machines: %q", len(cases), l.processes())
	}
	for _, k := range cases {
		l.ends(l.begin(k.folder, "destroy"), 0)
	}
	l.gone()
	store.whole(l)
}

// kill -9 of the server while a build runs: after a restart the deploy goes on.
func TestKillTheServer(t *testing.T) {
	t.Parallel()
	l := newServerLab(t)
	build, letGo := l.gated()
	folder := l.source("survives", build, stays)
	deploy := l.begin(folder, "deploy")
	l.eventually("a build runs", func() bool { return l.runs("build.sh") })
	l.kill(l.server)
	letGo() // so the build ends while the server is down
	l.eventually("the build is over", func() bool { return len(l.processes()) == 0 })
	l.startServer()
	l.ends(deploy, 0)
	l.one("survives")
	l.ends(l.begin(folder, "destroy"), 0)
	l.gone()
}

// kill -9 of the starter: its deploy goes on, and the same command attaches to it.
func TestKillTheStarter(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	build, letGo := l.gated()
	folder := l.source("unwatched", build, stays)
	first := l.begin(folder, "deploy")
	l.eventually("a build runs", func() bool { return l.runs("build.sh") })
	_ = first.cmd.Process.Kill() // begin waits for it
	<-first.done                 //nolint:errcheck // killed
	second := l.begin(folder, "deploy", "-o", "json")
	l.eventually("the second deploy is accepted", func() bool { return strings.Contains(second.out.String(), `"event":"accepted"`) })
	letGo()
	if again := l.ends(second, 0); !strings.Contains(again.out, `"attached":true`) || strings.Contains(again.out, `"generation":2`) {
		t.Errorf("the second deploy did not attach to the first:\n%s", again.out)
	}
	l.one("unwatched")
	third := l.ends(l.begin(folder, "deploy"), 0)
	if !strings.Contains(third.out, "unchanged, generation 1 is kept") {
		t.Errorf("deployed anew:\n%s", third.out)
	}
	l.ends(l.begin(folder, "destroy"), 0)
	l.gone()
}

// A worker that gets SIGTERM waits ten seconds for a build. Then the next worker
// takes the build over.
func TestStopTheWorker(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	folder := l.source("handed-over", l.once()+"make\n", stays)
	deploy := l.begin(folder, "deploy")
	l.eventually("a build runs", func() bool { return l.runs("sleep 1000") })
	old := l.worker
	if err := old.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	l.startWorker()
	began := time.Now()
	if err := old.Wait(); err != nil {
		t.Errorf("the worker that was told to stop: %v", err)
	}
	if took := time.Since(began); took > waits {
		t.Errorf("the worker took %v to stop", took)
	}
	l.ends(deploy, 0)
	if n := l.attempts(l.client(), rollout("handed-over", 1), "command.Build"); n < 2 {
		t.Errorf("build was started %d times, want 2", n)
	}
	l.one("handed-over")
	l.ends(l.begin(folder, "destroy"), 0)
	l.gone()
}

// A machine outlives its worker, and the next worker adopts it.
func TestMachinesOutliveWorkers(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	folder, _ := l.built(l.kernel(), "outlives", stays)
	l.deployed(folder)
	pid := l.one("outlives")
	l.restartWorker(nil)
	if again := l.deployed(folder); !strings.Contains(again.out, "unchanged") {
		t.Errorf("deployed anew:\n%s", again.out)
	}
	if now := l.one("outlives"); now != pid {
		t.Errorf("process %d runs, it was %d", now, pid)
	}
	// The next deploy starts a machine that was killed.
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l.eventually("the machine is gone", func() bool { _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); return err != nil })
	l.deployed(folder)
	if now := l.one("outlives"); now == pid {
		t.Errorf("process %d still runs", now)
	}
	l.ends(l.begin(folder, "destroy"), 0)
	l.gone()
}
