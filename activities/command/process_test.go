package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// workerVar makes this binary a worker that builds the Source in the file that
// it names: somebody to kill.
const workerVar = "MORGANA_COMMAND_TEST_WORKER"

type workerInput struct {
	State, Store string
	Source       step.Source
}

func TestMain(m *testing.M) {
	if path := os.Getenv(workerVar); path != "" {
		text, err := os.ReadFile(path)
		var in workerInput
		if err == nil {
			err = json.Unmarshal(text, &in)
		}
		if err == nil {
			tc := New(step.Site{Host: "here", State: in.State, Store: folderStore(in.Store)})
			_, err = tc.Build(context.Background(), in.Source)
		}
		fmt.Println("worker:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// await polls until what it waits for is there.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(15 * time.Second)
	for !ok() {
		select {
		case <-deadline:
			t.Fatal("no sign of", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func running(pid int) bool {
	p, err := readProcess(pid)
	return err == nil && !p.dead()
}

// pidIn reads a pid from a file, 0 if it is not there yet.
func pidIn(path string) int {
	text, _ := os.ReadFile(path)
	if !strings.HasSuffix(string(text), "\n") {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

func TestCancel(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		most   time.Duration
		log    string
	}{
		"polite":    {`trap 'echo bye; exit 1' TERM; (sh -c 'echo $$ > pid; exec sleep 1000') & wait`, 2 * time.Second, "bye"},
		"obstinate": {`trap '' TERM; echo begun; (sh -c 'echo $$ > pid; while :; do sleep 1; done')`, 4500 * time.Millisecond, "begun"},
		"orphan":    {`(sh -c 'trap "" TERM; echo $$ > pid; while :; do sleep 1; done') & echo begun; wait`, 4500 * time.Millisecond, "begun"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			tc := New(b.site)
			src, err := tc.Configure(t.Context(), b.spec(sh(c.script), project))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				_, err := tc.Build(b.context(ctx), src)
				done <- err
			}()
			pid := 0
			await(t, "the grandchild", func() bool { pid = pidIn(filepath.Join(src.Tree, "pid")); return pid != 0 })
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
			if took := time.Since(begun); took > c.most {
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

// stored reports whether some log in the store holds text as a line.
func (b *bench) stored(text string) bool {
	files, _ := filepath.Glob(filepath.Join(string(b.site.Store.(folderStore)), "*"))
	for _, f := range files {
		if data, _ := os.ReadFile(f); strings.Contains(string(data), "\n"+text+"\n") {
			return true
		}
	}
	return false
}

// What a command leaves in the background ends with it, at once.
func TestBackgroundProcesses(t *testing.T) {
	b := newBench(t)
	tc := New(b.site)
	src, err := tc.Configure(t.Context(), b.spec(sh("(sh -c 'echo $$ > pid; exec sleep 1000') & sleep 0.3"), project))
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	_, err = tc.Build(t.Context(), src)
	_ = wantError(t, err, step.BuildFailed, "made no dist/hello")
	if took := time.Since(begun); took > drainTime {
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
	o.Build = append(o.Build, []string{"sh", "-c", "(setsid sh -c 'echo $$ > daemon; exec sleep 5') & sleep 0.2"})
	spec := b.spec(o, project)
	begun := time.Now()
	tc := New(b.site)
	src, err := tc.Configure(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tc.Build(t.Context(), src); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 4*time.Second {
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
			spec := b.spec(makeIt(), with(project, "Makefile", makefile(block)))
			tc := New(b.site)
			src, err := tc.Configure(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			grandchild := b.killWorker(src)
			if !running(grandchild) {
				t.Fatal("the grandchild died with the worker: this test proves nothing")
			}
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
				b.wantNothing()
			}
			if running(grandchild) {
				t.Error("the grandchild lives on")
			}
			if took := time.Since(begun); took > 3*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

// killWorker has another process build src until the build has a grandchild,
// whose pid it gives, and kills that process.
func (b *bench) killWorker(src step.Source) int {
	b.Helper()
	text, err := json.Marshal(workerInput{b.site.State, string(b.site.Store.(folderStore)), src})
	if err != nil {
		b.Fatal(err)
	}
	input := filepath.Join(b.TempDir(), "input.json")
	if err := os.WriteFile(input, text, 0o600); err != nil {
		b.Fatal(err)
	}
	worker := exec.Command(os.Args[0])
	worker.Env = append(os.Environ(), workerVar+"="+input)
	worker.Stdout, worker.Stderr = os.Stderr, os.Stderr
	if err := worker.Start(); err != nil {
		b.Fatal(err)
	}
	pid := 0
	await(b.T, "the grandchild", func() bool { pid = pidIn(filepath.Join(src.Tree, "pid")); return pid != 0 })
	leader := leaderIn(filepath.Join(filepath.Dir(src.Tree), groupFile))
	b.Cleanup(func() {
		// If the test fails, nobody else would; the group lasts as long as this.
		if p, err := readProcess(pid); err == nil && p.group == leader {
			_ = syscall.Kill(-leader, syscall.SIGKILL)
		}
	})
	if err := worker.Process.Kill(); err != nil {
		b.Fatal(err)
	}
	_ = worker.Wait() // killed
	await(b.T, "the end of the group's leader", func() bool { return !running(leader) })
	return pid
}

func leaderIn(path string) int {
	var g group
	text, _ := os.ReadFile(path)
	_ = json.Unmarshal(text, &g)
	return g.ID
}

// A process group of the same number that is not ours is left alone.
func TestGroupOfAnother(t *testing.T) {
	c := exec.Command("sleep", "1000")
	c.SysProcAttr = newGroup()
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

func newGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
