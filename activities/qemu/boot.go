package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/machine"
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
	m, err := t.room.Of(r.Spec.Tags)
	if err != nil {
		return step.Machine{}, step.During("boot", err)
	}
	op := "boot " + m.Name()
	rec, err := m.Record()
	if err != nil {
		return step.Machine{}, step.During(op, err)
	}
	if rec.Digest != r.Digest {
		return step.Machine{}, failed(step.Conflict, op, "deploy again", "another image is registered under this name")
	}
	s, err := read(rec.Options)
	if err != nil {
		return step.Machine{}, step.During(op, err)
	}
	b := &boot{t: t, m: guest{m}, rec: rec, s: s, began: time.Now(), console: m.Watch(s.expect)}
	ready, err := b.run(ctx)
	if err != nil {
		return step.Machine{}, step.During(op, err)
	}
	out := step.Machine{Registration: r, ID: rec.UUID(), Ready: ready, Adopted: !b.started, Ended: b.ended}
	for _, f := range s.forwards {
		out.Addresses = append(out.Addresses, f.host.String())
	}
	return out, nil
}

// boot is one call of Boot.
type boot struct {
	t       *Target
	m       guest
	rec     machine.Record
	s       settings
	began   time.Time
	console *machine.Watch
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
		pid, err := b.m.Pid()
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
				if pid, pidErr := b.m.Pid(); pid != 0 || pidErr != nil {
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
	lock, err := b.m.Lock()
	if errors.Is(err, machine.ErrHeld) {
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
	if err := b.t.checkPorts(ctx, b.m.Tags, b.s.forwards); err != nil {
		return "", err
	}
	if err := b.t.checkDisks(b.m.Tags, b.s.Disks, false); err != nil {
		return "", err
	}
	with, err := b.t.accelerate(ctx, b.s)
	if err != nil {
		return "", err
	}
	if err := b.start(ctx, with, lock); err != nil {
		return "", err
	}
	b.started, b.began = true, time.Now()
	return "", nil
}

// start runs QEMU, and leaves the lock and the taps to it.
func (b *boot) start(ctx context.Context, with means, lock *os.File) (err error) {
	if err := os.Remove(b.m.File(qmpFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	manifest, err := readManifest(b.m.Machine)
	if err != nil {
		return err
	}
	devices, err := b.s.devices(manifest)
	if err != nil {
		return err
	}
	var uefi firmware
	if b.s.Via == viaUEFI {
		if uefi, err = findFirmware(b.s.Firmware); err == nil {
			err = uefi.install(b.m.File(varsFile))
		}
		if err != nil {
			return err
		}
	}
	args, err := b.args(with, devices, uefi)
	if err != nil {
		return err
	}
	log, err := os.Create(b.m.File(logFile))
	if err != nil {
		return err
	}
	taps, err := b.s.openTaps(ctx, b.m.Tags)
	defer func() {
		for _, f := range append(taps, log) {
			err = errors.Join(err, f.Close())
		}
	}()
	if err != nil {
		return err
	}
	cmd := exec.Command(with.qemu, args...) //nolint:noctx // it outlives the call and its context
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, taps
	return b.m.Start(cmd, lock)
}

// isReady says how the running machine is known to be ready, "" if it is not.
func (b *boot) isReady(ctx context.Context) (string, error) {
	if how, ok := b.m.Ready(); ok {
		return how, nil
	}
	if b.s.expect == nil && b.s.ExpectPort == 0 {
		return b.alive()
	}
	var how []string
	if b.s.expect != nil {
		ok, err := b.console.Matched()
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
	if b.m.Printed() > 0 {
		return "console printed", nil
	}
	started, err := os.Stat(b.m.File(machine.PidFile))
	if err == nil && time.Since(started.ModTime()) > silence {
		return fmt.Sprintf("ran for %s", silence), nil
	}
	return "", nil
}

// settle completes a machine that is ready: its ports, then the mark.
func (b *boot) settle(ctx context.Context, how string) error {
	if b.s.userNetwork() >= 0 {
		step.Report(ctx, step.Progress{Note: "opening ports"})
		if err := b.t.takePorts(ctx, b.m, b.s.forwards); err != nil {
			return err
		}
	}
	return b.m.SetReady(how)
}

// judge says whether a machine that ran to its end was ready.
func (b *boot) judge(ctx context.Context) (string, error) {
	how, ok := b.m.Ready()
	if !ok && b.s.ExpectPort == 0 {
		if status, err := b.solo5Status(); err != nil {
			return "", err
		} else if status != "" {
			return "", failed(step.BootFailed, "", b.consoleTail(ctx), "the kernel ended: %s", status)
		}
		if b.s.expect == nil {
			how, ok = "console printed", true
		} else if matched, err := b.console.Matched(); err != nil {
			return "", err
		} else if matched {
			how, ok = fmt.Sprintf("console matched %q", b.s.Expect), true
		}
		if ok {
			if err := b.m.SetReady(how); err != nil {
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

var solo5End = regexp.MustCompile(`solo5_exit\([1-9][0-9]*\) called|solo5_abort\(\) called`)

// solo5Status is how a Solo5 kernel says that it failed, "" if it does not. Its
// exit status is text.
func (b *boot) solo5Status() (string, error) {
	if m, err := readManifest(b.m.Machine); m == nil || err != nil {
		return "", err
	}
	return solo5End.FindString(machine.Tail(b.m.File(machine.ConsoleFile))), nil
}

// died is the error for a QEMU that is gone and left no console, or was killed.
func (b *boot) died(ctx context.Context) error {
	said := machine.Tail(b.m.File(logFile))
	_, err := os.Lstat(b.m.File(machine.PidFile))
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

// consoleTail is the console's last lines for an error's hint.
func (b *boot) consoleTail(ctx context.Context) string {
	if lines := b.t.room.ConsoleTail(ctx, b.m.Machine); lines != "" {
		return lines
	}
	return "the console is empty: the kernel printed nothing on the first serial port (COM1)"
}

// ended reports whether a machine that does not run ran to its end by itself.
// Only meaningful with the machine's lock, or without a pid.
func (m guest) ended() bool {
	_, err := os.Lstat(m.File(machine.PidFile))
	return errors.Is(err, fs.ErrNotExist) && m.Printed() > 0
}

// awaited and unmet say what readiness waits for, and that it did not come.
func (b *boot) awaited() string {
	switch {
	case b.s.expect != nil && !b.console.Found():
		return fmt.Sprintf("the console to match %q", b.s.Expect)
	case b.s.ExpectPort != 0:
		return fmt.Sprintf("port %d to answer", b.s.ExpectPort)
	default:
		return "the console"
	}
}

func (b *boot) unmet() string {
	switch {
	case b.s.expect != nil && !b.console.Found():
		return fmt.Sprintf("its console did not match %q", b.s.Expect)
	case b.s.ExpectPort != 0:
		return fmt.Sprintf("its port %d did not answer", b.s.ExpectPort)
	default:
		return "it did not start"
	}
}
