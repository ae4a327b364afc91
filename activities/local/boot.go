package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

const (
	// silence is how long a program that says nothing, and of which nothing is
	// expected, must run to be ready; settled how long one that has said
	// something must, for a program that fails says so first.
	silence = time.Second
	settled = 250 * time.Millisecond

	tick = 50 * time.Millisecond

	logFile = "supervisor.log"
)

// Boot starts the program, or adopts the one that runs, and waits until it is
// ready. One that has ended is not started again: if it was ready, or ended
// with status 0 and nothing else was expected, it is returned as Ended with its
// status in Ready; else it is BootFailed. One that was killed together with its
// supervisor or its host is started again.
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
		err := failed(step.Conflict, "", "deploy again", "another image is registered under this name")
		return step.Machine{}, step.During(op, err)
	}
	s, err := readRecord(rec.Options)
	if err != nil {
		return step.Machine{}, step.During(op, err)
	}
	b := &boot{t: t, m: m, s: s, began: time.Now(), console: m.Watch(s.expect)}
	ready, err := b.run(ctx)
	if err != nil {
		return step.Machine{}, step.During(op, err)
	}
	return step.Machine{Registration: r, ID: rec.UUID(), Ready: ready, Adopted: !b.started, Ended: b.ended}, nil
}

// boot is one call of Boot.
type boot struct {
	t       *Target
	m       machine.Machine
	s       settings
	began   time.Time
	console *machine.Watch

	started bool // by this call
	seen    bool // running, by this call
	ended   bool // ready, and gone since
}

// run takes the machine from whatever it is to ready.
func (b *boot) run(ctx context.Context) (ready string, err error) {
	for pause := tick / 10; ; pause = min(pause+time.Millisecond, tick) {
		pid, err := b.m.Pid()
		if err != nil {
			return "", err
		}
		if pid != 0 {
			b.seen = true
			if ready, err = b.isReady(); err == nil && ready != "" {
				err = b.m.SetReady(ready)
			}
		} else {
			ready, err = b.notRunning(ctx)
		}
		if ready != "" || err != nil {
			return ready, err
		}
		if time.Since(b.began) > b.s.timeout {
			return "", failed(step.BootFailed, "", b.consoleTail(ctx), "not ready after %s: %s", b.s.timeout, b.unmet())
		}
		step.Report(ctx, step.Progress{Note: fmt.Sprintf("waiting for %s (%s)", b.awaited(), time.Since(b.began).Round(time.Second))})
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(pause):
		}
	}
}

// notRunning deals with a machine that has no supervisor: it ran to its end, it
// died, it is being started by another call ("", nil), or it is to be started here.
func (b *boot) notRunning(ctx context.Context) (ready string, err error) {
	lock, err := b.m.Lock()
	if errors.Is(err, machine.ErrHeld) {
		return "", b.endOrphans(ctx) // they may be who keeps it
	}
	if err != nil {
		return "", err
	}
	defer lock.Close() //nolint:errcheck // the supervisor has its own handle by then
	switch end, err := readOutcome(b.m); {
	case err != nil:
		return "", err
	case end != nil:
		return b.judge(ctx, *end)
	case b.seen || b.started:
		return "", failed(step.BootFailed, "", b.consoleTail(ctx), "the machine was killed with its supervisor%s", b.supervisorSaid())
	}
	if err := b.endOrphans(ctx); err != nil {
		return "", err
	}
	if err := b.start(ctx, lock); err != nil {
		return "", err
	}
	b.started, b.began = true, time.Now()
	return "", nil
}

// endOrphans ends what a killed supervisor's program had started. The pid file
// of one that was killed is there; of one that starts it is not.
func (b *boot) endOrphans(ctx context.Context) error {
	_, err := os.Stat(b.m.File(machine.PidFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return b.t.endOrphans(ctx, func(tags step.Tags) bool { return tags == b.m.Tags })
}

// start starts the supervisor, and leaves to it the lock, the taps and the
// block devices.
func (b *boot) start(ctx context.Context, lock *os.File) (err error) {
	tender, err := b.s.tender()
	if err != nil {
		return err
	}
	var files []*os.File
	defer func() {
		for _, f := range files {
			_ = f.Close() // the program has its own
		}
	}()
	var ifaces []string
	for i, tap := range b.s.taps(b.m.Tags) {
		ifaces = append(ifaces, tap.Interface())
		if b.s.Networks[i].By == byName {
			if err := machine.MakeTap(ctx, tap); err != nil {
				return err
			}
			continue
		}
		f, err := machine.OpenTap(ctx, tap)
		if err != nil {
			return err
		}
		files = append(files, f)
	}
	for i, d := range b.s.Blocks {
		if d.Path == "" {
			continue
		}
		f, err := d.take(fmt.Sprintf("blocks[%d].path", i))
		if err != nil {
			return err
		}
		files = append(files, f)
	}
	for _, old := range []string{statusFile, logFile} {
		if err := os.Remove(b.m.File(old)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	log, err := os.OpenFile(b.m.File(logFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	p, err := b.s.command(b.m, tender, ifaces)
	if err != nil {
		return err
	}
	told, err := order{Program: p, Files: 1 + len(files)}.open()
	if err != nil {
		return err
	}
	defer told.Close() //nolint:errcheck // the supervisor has its own
	// The worker that runs, whatever lies at its path by now.
	cmd := exec.Command("/proc/self/exe", superviseWord) //nolint:noctx // it outlives the call
	cmd.Args[0] = "morgana-" + b.m.Name()
	cmd.ExtraFiles = files
	cmd.Stdin = told
	cmd.Stdout, cmd.Stderr = log, log
	return b.m.Start(cmd, lock)
}

// isReady says how the running machine is known to be ready, "" if it is not.
func (b *boot) isReady() (string, error) {
	if how, ok := b.m.Ready(); ok {
		return how, nil
	}
	if end, err := readOutcome(b.m); end != nil || err != nil {
		return "", err // its supervisor is about to go: judge says
	}
	if b.s.expect != nil {
		ok, err := b.console.Matched()
		if !ok || err != nil {
			return "", err
		}
		return b.matched(), nil
	}
	started, err := os.Stat(b.m.File(machine.PidFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // as above
	}
	if err != nil {
		return "", err
	}
	switch age := time.Since(started.ModTime()); {
	case age > silence:
		return fmt.Sprintf("ran for %s", silence), nil
	case age > settled && b.m.Printed() > 0:
		return "console printed", nil
	}
	return "", nil
}

func (b *boot) matched() string { return fmt.Sprintf("console matched %q", b.s.Expect) }

// judge says whether a machine that ran to its end was ready.
func (b *boot) judge(ctx context.Context, end outcome) (string, error) {
	if end.Error != "" {
		return "", failed(step.BootFailed, "", "is it a program for this host?", "%s", end)
	}
	how, ok := b.m.Ready()
	switch {
	case ok:
	case b.s.expect == nil:
		ok = end.Status == 0
	default:
		matched, err := b.console.Matched()
		if err != nil {
			return "", err
		}
		if ok = matched; ok {
			how = b.matched()
		}
	}
	if !ok {
		return "", failed(step.BootFailed, "", b.consoleTail(ctx), "%s and %s", end, b.unmet())
	}
	b.ended = true
	if how == "" {
		return end.String(), nil
	}
	return how + "; " + end.String(), nil
}

// readOutcome is nil if the program has not ended, or nobody knows how: a power
// cut may leave the file there and empty, and then the machine was killed.
func readOutcome(m machine.Machine) (*outcome, error) {
	b, err := os.ReadFile(m.File(statusFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var end *outcome
	if json.Unmarshal(b, &end) != nil {
		end = nil
	}
	return end, nil
}

func (o outcome) String() string {
	switch {
	case o.Error != "":
		return o.Error
	case o.Signal != 0:
		return fmt.Sprintf("killed by signal %d (%s)", o.Signal, syscall.Signal(o.Signal))
	}
	return fmt.Sprintf("ended with status %d", o.Status)
}

// tender finds the program that runs the kernel; a Linux program has none.
func (s *settings) tender() (string, error) {
	if s.ABI == image.LinuxExecutable {
		return "", nil
	}
	if s.ABI == image.Solo5HVT {
		if why := tryKVM(); why != "" {
			return "", failed(step.Unsupported, "", kvmFix, "a Solo5 hvt kernel needs kvm: %s", why)
		}
	}
	name := s.Tender
	if name == "" {
		name = s.ABI // solo5-spt, solo5-hvt
	}
	return findTender(name)
}

func findTender(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			err = fmt.Errorf("%s is not in the worker's PATH", name)
		}
		return "", failed(step.Unsupported, "tender", tenderFix, "%w", err)
	}
	return path, nil
}

// consoleTail is the console's last lines for an error's hint.
func (b *boot) consoleTail(ctx context.Context) string {
	if lines := b.t.room.ConsoleTail(ctx, b.m); lines != "" {
		return lines
	}
	return "the console is empty: the program printed nothing"
}

// supervisorSaid is empty unless something is wrong with the supervisor itself.
func (b *boot) supervisorSaid() string {
	if said := machine.Tail(b.m.File(logFile)); said != "" {
		return ": " + said
	}
	return ""
}

// awaited and unmet say what readiness waits for, and that it did not come.
func (b *boot) awaited() string {
	if b.s.expect != nil {
		return fmt.Sprintf("the console to match %q", b.s.Expect)
	}
	return "the console"
}

func (b *boot) unmet() string {
	if b.s.expect != nil {
		return fmt.Sprintf("its console did not match %q", b.s.Expect)
	}
	return "it was not ready"
}
