package tree

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/tree/treetest"
)

func TestCancel(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		log    string
	}{
		"polite":    {`trap 'echo bye; exit 1' TERM; (sh -c 'echo $$ > pid; exec sleep 1000') & wait`, "bye"},
		"obstinate": {`trap '' TERM; echo begun; (sh -c 'echo $$ > pid; while :; do sleep 1; done')`, "begun"},
		"orphan":    {`echo begun; (sh -c 'trap "" TERM; echo $$ > pid; while :; do sleep 1; done') & wait`, "begun"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			tc := b.toolchain()
			src, err := tc.Configure(t.Context(), b.Spec(sh(c.script), project))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				_, err := tc.Build(b.Reporting(ctx), src)
				done <- err
			}()
			pid := 0
			await(t, "the grandchild", func() bool { pid = pidIn(b.InPlace("pid")); return pid != 0 })
			started, err := readProcess(pid)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { // if the test fails, nobody else ends it
				if p, err := readProcess(pid); err == nil && p.started == started.started {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			})
			cancel()
			begun := time.Now()
			if err := <-done; !errors.Is(err, context.Canceled) || step.KindOf(err) != "" {
				t.Errorf("error is %v", err)
			}
			if took := time.Since(begun); took > time.Minute {
				t.Errorf("took %s", took)
			}
			if running(pid) {
				t.Error("the grandchild lives on")
			}
			if !b.stored(c.log) {
				t.Errorf("no log with %q in the store", c.log)
			}
			// Nothing is held: the next try and Clean get in at once.
			if _, err := os.Stat(filepath.Join(filepath.Dir(src.Tree), groupFile)); !errors.Is(err, os.ErrNotExist) {
				t.Error("the group is still on record:", err)
			}
			if _, err := tc.Clean(t.Context(), src.Spec); err != nil {
				t.Error(err)
			}
		})
	}
}

// What a command leaves in the background ends with it.
func TestBackgroundProcesses(t *testing.T) {
	b := newBench(t)
	tc := b.toolchain()
	src, err := tc.Configure(t.Context(), b.Spec(sh("(sh -c 'echo $$ > pid; exec sleep 1000') & until test -s pid; do sleep 0.05; done"), project))
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	_, err = tc.Build(t.Context(), src)
	_ = wantError(t, err, step.BuildFailed, "made no dist/hello")
	if took := time.Since(begun); took > time.Minute {
		t.Errorf("took %s", took)
	}
	if pid := pidIn(filepath.Join(src.Tree, "pid")); pid == 0 || running(pid) {
		t.Errorf("process %d lives on", pid)
	}
}

// A daemon that leaves the group is out of reach, but may not hold the build up.
func TestDaemon(t *testing.T) {
	b := newBench(t)
	o := makeIt()
	o.Build = append(o.Build, []string{"sh", "-c", "(setsid sh -c 'echo $$ > daemon; exec sleep 1000') & until test -s daemon; do sleep 0.05; done"})
	spec := b.Spec(o, project)
	begun := time.Now()
	tc := b.toolchain()
	src, err := tc.Configure(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tc.Build(t.Context(), src); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > time.Minute {
		t.Errorf("took %s", took)
	}
	if p, err := os.FindProcess(pidIn(filepath.Join(src.Tree, "daemon"))); err == nil {
		_ = p.Kill()
	}
}

// When a worker is killed in the middle of a build, the next to come ends what
// the build still runs: Build (which then goes on in the same tree), Configure
// and Clean.
func TestWorkerKilled(t *testing.T) {
	for _, next := range []string{"Build", "Configure", "Clean"} {
		t.Run(next, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			const block = `@if [ ! -e once ]; then touch once; (trap '' TERM HUP; sh -c 'echo $$$$ > pid; while :; do sleep 1; done') & wait; fi`
			spec := b.Spec(makeIt(), with(project, "Makefile", makefile(block)))
			tc := b.toolchain()
			src, err := tc.Configure(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			grandchild := b.KillWorker(step.Build, src)
			begun := time.Now()
			switch next {
			case "Build":
				if k, err := tc.Build(t.Context(), src); err != nil || k.Cached {
					t.Errorf("build: %+v, %v", k, err)
				}
			case "Configure":
				if _, err := tc.Configure(t.Context(), spec); err != nil {
					t.Error(err)
				}
				if _, err := os.Stat(filepath.Join(src.Tree, "once")); !errors.Is(err, os.ErrNotExist) {
					t.Error("the tree is not new:", err)
				}
			case "Clean":
				if gone, err := tc.Clean(t.Context(), spec); err != nil || len(gone.Removed) != 1 {
					t.Errorf("clean: %+v, %v", gone, err)
				}
				b.WantNothing()
			}
			if running(grandchild) {
				t.Error("the grandchild lives on")
			}
			if took := time.Since(begun); took > time.Minute {
				t.Errorf("took %s", took)
			}
		})
	}
}

// What a killed build leaves of its temporary files is nobody else's, and is gone
// when the next stage of the rollout is over.
func TestTempFolder(t *testing.T) {
	shared := t.TempDir()
	t.Setenv("TMPDIR", shared)
	t.Setenv("https_proxy", "http://ann:abracadabra@proxy:3128")
	b := newBench(t)
	const block = `@if [ ! -e temp ]; then mktemp $$TMPDIR/ccXXXXXX >temp; (sh -c 'echo $$$$ > pid; while :; do sleep 1; done') & wait; fi; false`
	src, err := b.toolchain().Configure(t.Context(), b.Spec(makeIt(), with(project, "Makefile", makefile(block))))
	if err != nil {
		t.Fatal(err)
	}
	b.KillWorker(step.Build, src)
	temp, err := os.ReadFile(b.InPlace("temp"))
	if err != nil {
		t.Fatal(err)
	}
	left := strings.TrimSpace(string(temp))
	if _, err := os.Stat(left); err != nil {
		t.Errorf("nothing was left: this shows nothing (%v)", err)
	}
	if entries, err := os.ReadDir(shared); len(entries) > 0 || err != nil {
		t.Errorf("the worker's TMPDIR has %v, %v", entries, err)
	}
	_, err = b.toolchain().Build(t.Context(), src)
	e := treetest.WantError(t, err, step.BuildFailed, "https_proxy")
	if strings.Contains(e.Hint, "abracadabra") {
		t.Errorf("the hint gives the password away: %s", e.Hint)
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there (%v)", left, err)
	}
}

// A process group of the same number that is not ours is left alone.
func TestGroupOfAnother(t *testing.T) {
	c := exec.Command("sleep", "1000")
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	}()
	g, err := groupOf(c.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if pids, err := g.members(); err != nil || len(pids) != 1 {
		t.Fatalf("members of its own: %v, %v", pids, err)
	}
	for name, other := range map[string]group{
		"started earlier": {g.ID, g.Started - 1, g.Session, g.Boot},
		"started later":   {g.ID, g.Started + 1, g.Session, g.Boot},
		"other boot":      {g.ID, g.Started, g.Session, "another"},
		"other session":   {g.ID, g.Started, g.Session + 1, g.Boot},
		"no group":        {-1, g.Started, g.Session, g.Boot},
	} {
		path := filepath.Join(t.TempDir(), groupFile)
		if err := other.record(path); err != nil {
			t.Fatal(err)
		}
		if err := endLeftGroup(t.Context(), path); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !running(c.Process.Pid) {
			t.Fatalf("%s: killed a stranger", name)
		}
	}
}
