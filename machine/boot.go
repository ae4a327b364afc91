package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// Process is a target's part of [Machines.Boot]: it starts a machine's process and knows
// its state. Boot calls one method at a time.
type Process interface {
	// Start starts the process with [Machine.Start], to which it passes lock.
	Start(ctx context.Context, lock *os.File) error
	// Ready returns how the running process showed that it is ready, "" if it is not ready
	// yet. Boot calls it often, so it does not wait. It also does the work that needs a ready
	// machine, such as opening ports; such work may be done twice. An error ends Boot, unless
	// the process has ended meanwhile.
	Ready(ctx context.Context) (how string, err error)
	// Ended reads the files of a process that does not run. ended is false if the process
	// never started or was killed. Otherwise the process ran to its end. how tells how it
	// became ready and how it ended. err is BootFailed if it was never ready.
	Ended(ctx context.Context) (how string, ended bool, err error)
	// Held is called while no process runs but the machine's lock is held. The holder is
	// another call that is about to start the process, or a child of a killed process, which
	// inherited the lock. A target whose process has children ends them here; other targets
	// do nothing.
	Held(ctx context.Context) error
	// Died returns the error (BootFailed) for a process that was killed after this Boot had
	// started it or had seen it run.
	Died(ctx context.Context) error
	// Late returns the error (BootFailed) for a process that is not ready in time.
	Late(ctx context.Context) error
	// Awaited names the event that Boot waits for, as `the console to match "up"`.
	Awaited() string
}

// Boot starts the registered machine, or adopts the one that runs, and waits until it is
// ready. A machine that ran to its end is not started again: it is returned as Ended if it
// was ready. A machine that was killed, for example with its host, is started again.
//
// enter is called once, before the process is started, with the record that Register wrote.
// It reads the options and returns the target's Process and the timeout for getting ready.
// The timeout counts from the process's start, or from the call of Boot if the process is
// adopted:
//
//	func (t *Target) Boot(ctx context.Context, reg step.Registration) (step.Machine, error) {
//		return t.machines.Boot(ctx, reg, func(m machine.Machine, rec machine.Record) (machine.Process, time.Duration, error) {
//			s, err := readOptions(rec.Options)
//			return &process{t: t, m: m, s: s, console: m.Watch(s.expect)}, s.timeout, err
//		})
//	}
//
// The caller adds the machine's addresses. Errors have Op "boot" and the machine's name.
// They are Conflict if another image is registered under its name, NotFound if none is, and
// those of enter, of the Process and of ctx.
func (r *Machines) Boot(ctx context.Context, reg step.Registration,
	enter func(Machine, Record) (p Process, timeout time.Duration, err error)) (_ step.Machine, err error) {
	m, err := r.Of(reg.Spec.Tags)
	if err != nil {
		return step.Machine{}, step.During("boot", err)
	}
	defer step.SetOp("boot "+m.Name(), &err)
	return m.boot(ctx, reg, enter)
}

func (m Machine) boot(ctx context.Context, reg step.Registration, enter func(Machine, Record) (Process, time.Duration, error)) (out step.Machine, err error) {
	rec, err := m.Record()
	if err != nil {
		return out, err
	}
	if rec.Digest != reg.Digest {
		return out, &step.Error{Kind: step.Conflict, Hint: "deploy again", Err: errors.New("another image is registered under this name")}
	}
	b := &boot{m: m, began: time.Now()}
	if b.p, b.timeout, err = enter(m, rec); err != nil {
		return out, err
	}
	how, err := b.run(ctx)
	if err != nil {
		return out, err
	}
	return step.Machine{Registration: reg, ID: rec.UUID(), Ready: how, Adopted: !b.started, Ended: b.ended}, nil
}

// BootFailed returns an error of that kind. The hint is usually the console's tail.
func BootFailed(hint, format string, args ...any) error {
	return &step.Error{Kind: step.BootFailed, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// Connects reports whether a TCP port of a remote machine takes a connection.
func Connects(ctx context.Context, address string, port int) bool {
	dialer := net.Dialer{Timeout: 2 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// Met says how a remote machine became ready: by a match of its console, unless expect is nil,
// and by a connection to a port, unless that is 0. It is "" with neither.
func Met(expect *regexp.Regexp, port int) string {
	var all []string
	if expect != nil {
		all = append(all, fmt.Sprintf("console matched %q", expect))
	}
	if port != 0 {
		all = append(all, fmt.Sprintf("port %d took a connection", port))
	}
	return strings.Join(all, "; ")
}

// boot is one call of Boot.
type boot struct {
	m       Machine
	p       Process
	timeout time.Duration
	began   time.Time

	started bool // this call started the process
	seen    bool // this call saw the process running
	ended   bool // the process was ready and has ended
}

// run starts the machine, unless it runs already, and waits until it is ready.
func (b *boot) run(ctx context.Context) (how string, err error) {
	// A unikernel greets within 60 ms: look often at first, then less.
	for pause := tick / 10; ; pause = min(pause+time.Millisecond, tick) {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if how, err = b.look(ctx); how != "" || b.ended || err != nil {
			return how, err
		}
		waited := time.Since(b.began)
		if waited > b.timeout {
			return "", b.p.Late(ctx)
		}
		step.Report(ctx, step.Progress{Note: fmt.Sprintf("waiting for %s (%s)", b.p.Awaited(), waited.Round(time.Second))})
		if err := step.Pause(ctx, pause); err != nil {
			return "", err
		}
	}
}

// look looks at the machine once. how describes how the machine showed that it is ready,
// "" if it has not yet.
func (b *boot) look(ctx context.Context) (how string, err error) {
	pid, err := b.m.Pid()
	if err != nil {
		return "", err
	}
	if pid == 0 {
		return b.notRunning(ctx)
	}
	b.seen = true
	if how, err = b.p.Ready(ctx); how == "" && err == nil {
		return "", nil
	}
	if err == nil {
		return how, b.m.SetReady(how)
	}
	if now, gone := b.m.Pid(); now != 0 || gone != nil {
		return "", err
	}
	return "", nil // the process has ended: the next look says how
}

// notRunning handles a machine without a process: it ran to its end, it was killed, another
// call is starting it ("", nil), or this call starts it ("", nil).
func (b *boot) notRunning(ctx context.Context) (how string, err error) {
	lock, err := b.m.Lock()
	if errors.Is(err, ErrHeld) {
		return "", b.p.Held(ctx)
	}
	if err != nil {
		return "", err
	}
	defer lock.Close() //nolint:errcheck // a started process has a copy
	how, b.ended, err = b.p.Ended(ctx)
	if b.ended || err != nil {
		return how, err
	}
	if b.seen || b.started {
		return "", b.p.Died(ctx)
	}
	if err := b.p.Start(ctx, lock); err != nil {
		return "", err
	}
	b.started, b.began = true, time.Now()
	return "", nil
}
