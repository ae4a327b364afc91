package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/store"
)

// asMachine, when set, makes TestMain a machine's process that does what it says.
const asMachine = "MORGANA_TEST_MACHINE"

func TestMain(m *testing.M) {
	does, child := os.LookupEnv(asMachine)
	if !child {
		os.Exit(m.Run())
	}
	if state, ok := strings.CutPrefix(does, "scratch in "); ok {
		workUntilKilled(state)
	}
	f, err := os.OpenFile(PidFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = syscall.FcntlFlock(f.Fd(), syscall.F_SETLK, &syscall.Flock_t{Type: syscall.F_WRLCK})
	}
	if err == nil && does != "end" { // which is not to be ready before it has ended
		err = os.WriteFile(ConsoleFile, []byte("up\r\n"), 0o600)
	}
	switch {
	case err != nil:
		os.Exit(1)
	case does == "end":
		_ = os.WriteFile("end", nil, 0o600)
		_ = os.Remove(PidFile)
	case does == "die":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	default:
		time.Sleep(10 * time.Minute)
	}
	os.Exit(0)
}

// bench is a target with a machine of one image registered.
type bench struct {
	*testing.T
	machines *Machines
	reg      step.Registration
	does     string        // the machine's process
	within   time.Duration // it is to be ready
	expect   string
	// broken is an error of Ready, if it finds the machine ready.
	broken func(Machine) error
	held   func()
	files  []*os.File // that the process inherits
	starts atomic.Int32
}

func newBench(t *testing.T) *bench {
	t.Helper()
	return newBenchAt(t, t.TempDir())
}

func newBenchAt(t *testing.T, state string) *bench {
	t.Helper()
	s, err := store.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{T: t, machines: In(step.Site{State: state, Store: s}, "test"), within: 2 * time.Minute, expect: "up\n"}
	spec := step.Spec{Tags: step.Tags{App: "boottest", Target: "dev", Life: "0a1b2c3d", Generation: 1}, Kind: "test"}
	b.reg = b.register(b.image(spec, "kernel"))
	t.Cleanup(func() {
		if _, err := b.machines.Destroy(context.Background(), step.Removal{Spec: spec}, Quit{Ask: deaf}); err != nil {
			t.Error(err)
		}
	})
	return b
}

// deaf asks a machine that does not listen to end.
func deaf(context.Context, Machine, int) error { return errors.New("it does not listen") }

func (b *bench) image(spec step.Spec, kernel string) step.Image {
	b.Helper()
	a, err := b.machines.store.Put(b.Context(), strings.NewReader(kernel))
	if err != nil {
		b.Fatal(err)
	}
	img, err := b.machines.Image(b.Context(), spec, "kernel", json.RawMessage(`{}`), step.File{Name: "kernel", Artifact: a})
	if err != nil {
		b.Fatal(err)
	}
	return img
}

func (b *bench) register(img step.Image) step.Registration {
	b.Helper()
	prepare := func(_ context.Context, made Machine, _ json.RawMessage) error {
		return os.WriteFile(made.File("prepared"), []byte("by the target"), 0o600)
	}
	reg, err := b.machines.Register(b.Context(), img, prepare)
	if err != nil {
		b.Fatal(err)
	}
	return reg
}

func (b *bench) boot(ctx context.Context) (step.Machine, error) {
	return b.machines.Boot(ctx, b.reg, func(m Machine, rec Record) (Process, time.Duration, error) {
		return &process{b: b, m: m, console: m.Watch(regexp.MustCompile(b.expect))}, b.within, nil
	})
}

// process is the least that a target must know.
type process struct {
	b       *bench
	m       Machine
	console *Watch
}

func (p *process) Start(_ context.Context, lock *os.File) error {
	p.b.starts.Add(1)
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe)
	cmd.Env = []string{asMachine + "=" + p.b.does}
	cmd.ExtraFiles = p.b.files
	return p.m.Start(cmd, lock)
}

func (p *process) Ready(context.Context) (string, error) {
	ok, err := p.console.Matched()
	if !ok || err != nil {
		return "", err
	}
	if p.b.broken != nil {
		return "", p.b.broken(p.m)
	}
	return "it said so", nil
}

func (p *process) Ended(context.Context) (string, bool, error) {
	_, err := os.Stat(p.m.File("end"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	return "it said so, and ended", true, err
}

func (p *process) Held(context.Context) error {
	if p.b.held != nil {
		p.b.held()
	}
	return nil
}

func (p *process) Died(context.Context) error {
	return &step.Error{Kind: step.BootFailed, Err: errors.New("it died")}
}

func (p *process) Late(context.Context) error {
	return &step.Error{Kind: step.BootFailed, Err: fmt.Errorf("not within %s", p.b.within)}
}

func (p *process) Awaited() string { return "a word" }

func TestBootStartsOnceAndAdopts(t *testing.T) {
	b := newBench(t)
	var all sync.WaitGroup
	var adopted atomic.Int32
	for range 3 {
		all.Go(func() {
			m, err := b.boot(t.Context())
			if err != nil || m.Ready != "it said so" || m.Ended || m.ID == "" {
				t.Errorf("got %+v (%v)", m, err)
			}
			if m.Adopted {
				adopted.Add(1)
			}
		})
	}
	all.Wait()
	if n, a := b.starts.Load(), adopted.Load(); n != 1 || a != 2 {
		t.Errorf("started %d times, adopted %d times", n, a)
	}
	if how, ok := (Machine{Path: b.reg.ID}).Ready(); !ok || how != "it said so" {
		t.Errorf("its mark says %q", how)
	}
}

func TestBootOfOneThatEnds(t *testing.T) {
	b := newBench(t)
	b.does = "end"
	for i := range 2 {
		m, err := b.boot(t.Context())
		if err != nil || !m.Ended || m.Adopted != (i == 1) || !strings.HasSuffix(m.Ready, "ended") {
			t.Errorf("got %+v (%v)", m, err)
		}
	}
	if n := b.starts.Load(); n != 1 {
		t.Errorf("one that ran to its end was started %d times", n)
	}
}

// What Ready does for a machine may fail because it has just ended.
func TestBootOfOneThatEndsWhileItIsMadeReady(t *testing.T) {
	b := newBench(t)
	b.broken = func(m Machine) error {
		pid, err := m.Pid()
		if err == nil {
			err = errors.Join(os.WriteFile(m.File("end"), nil, 0o600), m.Signal(pid, syscall.SIGKILL))
		}
		for err == nil && pid != 0 {
			pid, err = m.Pid()
		}
		return errors.Join(err, errors.New("nobody answers"))
	}
	if m, err := b.boot(t.Context()); err != nil || !m.Ended {
		t.Errorf("got %+v (%v)", m, err)
	}
}

// What a killed process has left may keep the lock; the target knows how to end it.
func TestBootOfOneWhoseLockIsKept(t *testing.T) {
	b := newBench(t)
	lock, err := (Machine{Path: b.reg.ID}).Lock()
	if err != nil {
		t.Fatal(err)
	}
	b.held = sync.OnceFunc(func() {
		if err := lock.Close(); err != nil {
			t.Error(err)
		}
	})
	if m, err := b.boot(t.Context()); err != nil || m.Adopted {
		t.Errorf("got %+v (%v)", m, err)
	}
}

func TestDestroyOfOneWhoseLockIsKept(t *testing.T) {
	b := newBench(t)
	m := Machine{Path: b.reg.ID}
	lock, err := m.Lock()
	if err != nil {
		t.Fatal(err)
	}
	held := func(_ context.Context, held Machine) error {
		if held.Path != m.Path {
			t.Errorf("held is %s", held.Path)
		}
		return lock.Close()
	}
	began := time.Now()
	if _, err := b.machines.Destroy(t.Context(), step.Removal{Spec: b.reg.Spec}, Quit{Ask: deaf, Held: held}); err != nil || time.Since(began) > killGrace {
		t.Errorf("got %v after %s", err, time.Since(began))
	}
}

func TestBootFails(t *testing.T) {
	dead, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		name, does, expect string
		ctx                context.Context
		broken             error
		kind               step.Kind
		text               string
		starts             int32 // of two calls
	}{
		{"killed", "die", "never", t.Context(), nil, step.BootFailed, "it died", 2},
		{"late", "stay", "never", t.Context(), nil, step.BootFailed, "not within 1s", 1},
		{"cannot be made ready", "stay", "up", t.Context(), errors.New("no port"), "", "no port", 1},
		{"cancelled", "stay", "up", dead, nil, "", "context canceled", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			b.does, b.expect = test.does, test.expect
			if test.name == "late" {
				b.within = time.Second
			}
			if test.broken != nil {
				b.broken = func(Machine) error { return test.broken }
			}
			for range 2 {
				m, err := b.boot(test.ctx)
				if step.KindOf(err) != test.kind || err == nil || !strings.HasSuffix(err.Error(), test.text) || !strings.HasPrefix(err.Error(), "boot boottest.dev.") {
					t.Errorf("got %+v (%v)", m, err)
				}
			}
			if n := b.starts.Load(); n != test.starts {
				t.Errorf("started %d times", n)
			}
			if _, ok := (Machine{Path: b.reg.ID}).Ready(); ok {
				t.Error("it has the mark of one that is ready")
			}
		})
	}
}

func TestBootOfWhatIsNotRegistered(t *testing.T) {
	b := newBench(t)
	good := b.reg
	b.reg.Digest = "another"
	if _, err := b.boot(t.Context()); step.KindOf(err) != step.Conflict {
		t.Errorf("another image: %v", err)
	}
	b.reg = good
	b.reg.Spec.Generation++
	if _, err := b.boot(t.Context()); step.KindOf(err) != step.NotFound {
		t.Errorf("another generation: %v", err)
	}
	b.reg = good
	unread := errors.New("unread")
	_, err := b.machines.Boot(t.Context(), b.reg, func(Machine, Record) (Process, time.Duration, error) { return nil, 0, unread })
	if !errors.Is(err, unread) {
		t.Errorf("got %v", err)
	}
	if n := b.starts.Load(); n != 0 {
		t.Errorf("started %d times", n)
	}
	if _, err := os.Stat(b.reg.ID); err != nil {
		t.Error(err)
	}
}
