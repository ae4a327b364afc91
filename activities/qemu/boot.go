package qemu

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// silence is how long a machine that says nothing, and of which nothing is
// expected, must run to be ready.
const silence = time.Second

// Boot starts the machine, or adopts the one that runs, and waits until it is
// ready; then it gets its ports. One that ran to its end is not started again:
// if it was ready, or its console still says so, it is returned with Ready
// telling that it ended, as is right for a unikernel that does a job. Else it
// is BootFailed. A machine that was killed is started again.
func (t *Target) Boot(ctx context.Context, r step.Registration) (step.Machine, error) {
	m, err := t.machine(r.Spec.Tags)
	if err != nil {
		return step.Machine{}, during("boot", err)
	}
	op := "boot " + m.name()
	rec, err := m.record()
	if err != nil {
		return step.Machine{}, during(op, err)
	}
	if rec.Digest != r.Digest {
		return step.Machine{}, failed(step.Conflict, op, "deploy again", "another image is registered under this name")
	}
	s, err := read(rec.Options)
	if err != nil {
		return step.Machine{}, during(op, err)
	}
	b := &boot{t: t, m: m, rec: rec, s: s, began: time.Now(), console: watch{m: m, expect: s.expect}}
	ready, err := b.run(ctx)
	if err != nil {
		return step.Machine{}, during(op, err)
	}
	out := step.Machine{Registration: r, ID: uuid(rec), Ready: ready, Adopted: !b.started, Ended: b.ended}
	for _, f := range s.forwards {
		out.Addresses = append(out.Addresses, f.host.String())
	}
	return out, nil
}

// boot is one call of Boot.
type boot struct {
	t       *Target
	m       machine
	rec     record
	s       settings
	began   time.Time
	console watch
	port    *portProbe

	started bool // by this call
	seen    bool // running, by this call
	ended   bool // ready, and gone since
}

// run takes the machine from whatever it is to ready.
func (b *boot) run(ctx context.Context) (ready string, err error) {
	defer func() { b.port.close() }()
	// A unikernel greets within 60 ms: look often at first, then less.
	for pause := tick / 10; ; pause = min(pause+time.Millisecond, tick) {
		pid, err := b.m.pid()
		if err != nil {
			return "", err
		}
		if pid != 0 {
			b.seen = true
			how, err := b.isReady(ctx)
			if err != nil {
				return "", err
			}
			if how != "" {
				err := b.settle(ctx, how)
				if err == nil {
					return how, nil
				}
				if pid, pidErr := b.m.pid(); pid != 0 || pidErr != nil {
					return "", err
				} // else it ended meanwhile, as one that does a job may
			}
		} else if how, err := b.notRunning(ctx); err != nil || how != "" {
			return how, err
		}
		if waited := time.Since(b.began); waited > b.s.timeout {
			return "", failed(step.BootFailed, "", b.consoleTail(ctx), "%s within %s", b.unmet(), b.s.timeout)
		}
		step.Report(ctx, step.Progress{Note: fmt.Sprintf("waiting for %s (%s)", b.awaited(), time.Since(b.began).Round(time.Second))})
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(pause):
		}
	}
}

// notRunning deals with a machine that has no QEMU: it ran to its end, it died,
// it is being started by another call ("", nil), or it is to be started here.
func (b *boot) notRunning(ctx context.Context) (ready string, err error) {
	lock, err := b.m.lock()
	if errors.Is(err, errHeld) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer lock.Close() //nolint:errcheck // QEMU has its own handle by then
	switch {
	case b.m.ended():
		return b.judge(ctx)
	case b.seen || b.started:
		return "", b.died(ctx)
	}
	if err := b.t.checkPorts(ctx, b.m.tags, b.s.forwards); err != nil {
		return "", err
	}
	with, err := b.t.accelerate(ctx, b.s)
	if err != nil {
		return "", err
	}
	if err := b.start(with, lock); err != nil {
		return "", err
	}
	b.started, b.began = true, time.Now()
	return "", nil
}

// start runs QEMU in a session of its own, bound to nothing of this process,
// and leaves the lock to it.
func (b *boot) start(with means, lock *os.File) (err error) {
	for _, old := range []string{readyFile, pidFile, qmpFile, consoleFile} {
		if err := os.Remove(b.m.file(old)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	log, err := os.Create(b.m.file(logFile))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	cmd := exec.Command(with.qemu, b.args(with)...) //nolint:noctx // it outlives the call and its context
	cmd.Dir = b.m.path
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = environment()
	if err := cmd.Start(); err != nil {
		return &step.Error{Kind: step.Unsupported, Err: err, Hint: "is " + with.qemu + " a program for this host?"}
	}
	// Reap it when it ends, so that it leaves no zombie; its status is not
	// needed, and the machine may outlive this goroutine.
	go func() { _ = cmd.Wait() }()
	return nil
}

// environment is what QEMU gets of the worker's: nothing that may be secret.
func environment() []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// args is QEMU's command line. Paths are relative to the machine's folder: a
// socket's may not be longer than 107 bytes, and commas would need quoting.
func (b *boot) args(with means) []string {
	args := []string{
		"-name", b.m.name(), "-uuid", uuid(b.rec),
		"-no-user-config", "-nodefaults", "-display", "none", // nothing but what is said here
		"-pidfile", pidFile,
		"-qmp", "unix:" + qmpFile + ",server=on,wait=off",
		"-accel", with.accel, "-cpu", with.cpu,
		"-m", fmt.Sprintf("%dM", b.s.Memory), "-smp", fmt.Sprint(b.s.CPUs),
		"-kernel", kernelFile, "-append", b.s.Args,
		"-serial", "file:" + consoleFile,
		"-no-reboot",                // a triple fault ends the machine instead of looping
		"-device", "isa-debug-exit", // how Solo5 and test kernels end
	}
	if with.sandbox {
		args = append(args, "-sandbox", sandbox)
	}
	if b.s.Network == "user" {
		// Solo5 knows legacy virtio only; every other driver knows it too.
		args = append(args, "-netdev", "user,id="+netdev, "-device", "virtio-net-pci,disable-modern=on,netdev="+netdev)
	}
	return args
}

// uuid is the machine's, the same whenever it is booted.
func uuid(rec record) string {
	u := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%d\n%s", rec.Tags.App, rec.Tags.Target, rec.Tags.Life, rec.Tags.Generation, rec.Digest))
	u[6] = u[6]&0x0f | 0x80 // version 8: made by a rule of our own
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

// isReady says how the running machine is known to be ready, "" if it is not.
func (b *boot) isReady(ctx context.Context) (string, error) {
	if how, ok := b.m.ready(); ok {
		return how, nil
	}
	if b.s.expect == nil && b.s.ExpectPort == 0 {
		return b.alive()
	}
	var how []string
	if b.s.expect != nil {
		ok, err := b.console.matched()
		if !ok || err != nil {
			return "", err
		}
		how = append(how, fmt.Sprintf("console matched %q", b.s.Expect))
	}
	if b.s.ExpectPort != 0 {
		if b.port == nil {
			b.port = &portProbe{m: b.m, guest: uint16(b.s.ExpectPort)}
		}
		if !b.port.answers(ctx) {
			return "", nil
		}
		how = append(how, fmt.Sprintf("port %d answered", b.s.ExpectPort))
	}
	return strings.Join(how, ", "), nil
}

// alive is readiness without an expectation.
func (b *boot) alive() (string, error) {
	if printed, err := os.Stat(b.m.file(consoleFile)); err == nil && printed.Size() > 0 {
		return "console printed", nil
	}
	started, err := os.Stat(b.m.file(pidFile))
	if err == nil && time.Since(started.ModTime()) > silence {
		return fmt.Sprintf("ran for %s", silence), nil
	}
	return "", nil
}

// settle completes a machine that is ready: its ports, then the mark.
func (b *boot) settle(ctx context.Context, how string) error {
	if b.s.Network == "user" {
		step.Report(ctx, step.Progress{Note: "opening ports"})
		if err := b.t.takePorts(ctx, b.m, b.s.forwards); err != nil {
			return err
		}
	}
	return b.m.setReady(how)
}

// judge says whether a machine that ran to its end was ready.
func (b *boot) judge(ctx context.Context) (string, error) {
	how, ok := b.m.ready()
	if !ok && b.s.ExpectPort == 0 {
		if b.s.expect == nil {
			how, ok = "console printed", true
		} else if matched, err := b.console.matched(); err != nil {
			return "", err
		} else if matched {
			how, ok = fmt.Sprintf("console matched %q", b.s.Expect), true
		}
		if ok {
			if err := b.m.setReady(how); err != nil {
				return "", err
			}
		}
	}
	if !ok {
		return "", failed(step.BootFailed, "", b.consoleTail(ctx), "the machine ended and %s", b.unmet())
	}
	b.ended = true
	return how + "; the machine has ended", nil
}

// died is the error for a QEMU that is gone and left no console, or was killed.
func (b *boot) died(ctx context.Context) error {
	said := tail(b.m.file(logFile))
	_, err := os.Lstat(b.m.file(pidFile))
	switch {
	case err == nil:
		return failed(step.BootFailed, "", strings.TrimSpace(said+"\n"+b.consoleTail(ctx)), "qemu was killed")
	case said != "":
		first, _, _ := strings.Cut(said, "\n")
		return failed(step.BootFailed, "", "qemu said:\n"+said, "%s", strings.TrimPrefix(first, "qemu-system-x86_64: "))
	default:
		return failed(step.BootFailed, "", b.consoleTail(ctx), "the machine ended at once")
	}
}

// consoleTail is the console's last lines for an error's hint. The whole of it
// goes to the store, for the machine's folder goes with the failed rollout.
func (b *boot) consoleTail(ctx context.Context) string {
	path := b.m.file(consoleFile)
	lines := tail(path)
	if lines == "" {
		return "the console is empty: the kernel printed nothing on the first serial port (COM1)"
	}
	where := ""
	if f, err := os.Open(path); err == nil {
		defer func() { _ = f.Close() }() // read only
		if a, err := b.t.site.Store.Put(ctx, f); err == nil {
			where = " (all of it: " + a.URI + ")"
		}
	}
	return "the console's last lines" + where + ":\n" + lines
}

// awaited and unmet say what readiness waits for, and that it did not come.
func (b *boot) awaited() string {
	switch {
	case b.s.expect != nil && !b.console.found:
		return fmt.Sprintf("the console to match %q", b.s.Expect)
	case b.s.ExpectPort != 0:
		return fmt.Sprintf("port %d to answer", b.s.ExpectPort)
	default:
		return "the console"
	}
}

func (b *boot) unmet() string {
	switch {
	case b.s.expect != nil && !b.console.found:
		return fmt.Sprintf("its console did not match %q", b.s.Expect)
	case b.s.ExpectPort != 0:
		return fmt.Sprintf("its port %d did not answer", b.s.ExpectPort)
	default:
		return "it did not start"
	}
}
