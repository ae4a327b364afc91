package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"time"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

const logFile = "supervisor.log"

// patience is how long a target waits for its programs.
type patience struct {
	silence time.Duration // a silent program must run so long to be ready without Expect
	settled time.Duration // a program must run on so long after its first output or its match, for one that fails prints why: a usage text may match
	quit    time.Duration // a program may take so long to end after SIGTERM, until its supervisor kills it
}

var usual = patience{silence: time.Second, settled: 250 * time.Millisecond, quit: 3 * time.Second}

// Boot starts the program, or adopts the one that runs, and waits until it is ready. A
// program that has ended is not started again. It is returned as Ended, with its status in
// Ready, if it was ready, or if it ended with status 0 and its console matches Expect, if
// there is one. Otherwise the error is BootFailed. A program that was killed with its supervisor or its host is started
// again.
func (t *Target) Boot(ctx context.Context, r step.Registration) (step.Machine, error) {
	return t.machines.Boot(ctx, r, func(m machine.Machine, rec machine.Record) (machine.Process, time.Duration, error) {
		s, err := readRecord(rec.Options)
		return &boot{t: t, m: m, s: s, from: r.Spec.Toolchain, console: m.Watch(s.expect)}, s.timeout, err
	})
}

// boot is one call of Boot.
type boot struct {
	t       *Target
	m       machine.Machine
	s       settings
	from    step.Recipe // how the kernel was made
	console *machine.Watch
	met     time.Time // when this call first saw that it had printed, or matched
}

var _ machine.Process = (*boot)(nil)

// Held ends the children of a program whose supervisor was killed.
func (b *boot) Held(ctx context.Context) error { return b.t.held(ctx, b.m) }

// Start starts the supervisor, which inherits the lock, the taps and the block devices.
func (b *boot) Start(ctx context.Context, lock *os.File) (err error) {
	if err := b.Held(ctx); err != nil { // children that do not have the lock
		return err
	}
	tender, err := b.s.tender(ctx, b.from)
	if err != nil {
		return err
	}
	var files []*os.File
	defer func() {
		for _, f := range files {
			_ = f.Close() // the supervisor has its own
		}
	}()
	var ifaces []string
	for i, tap := range b.s.taps(b.m.Tags) {
		ifaces = append(ifaces, tap.Interface())
		if !b.s.byFD(b.s.Networks[i]) {
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
	blocks, err := b.t.machines.TakeDisks(ctx, b.m.Tags, given(b.s.Blocks), false)
	files = append(files, blocks...)
	if err != nil {
		return err
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
	told, err := order{Program: p, Files: 1 + len(files), Grace: b.t.quit}.open()
	if err != nil {
		return err
	}
	defer told.Close() //nolint:errcheck // the supervisor has its own
	// The running worker's own program, even if its file was replaced.
	cmd := exec.Command("/proc/self/exe", superviseWord) //nolint:noctx // it outlives the call
	cmd.Args[0] = "morgana-" + b.m.Name()
	cmd.ExtraFiles = files
	cmd.Stdin = told
	cmd.Stdout, cmd.Stderr = log, log
	return b.m.Start(cmd, lock)
}

// Ready returns how the machine showed that it is ready, "" if it is not ready yet.
func (b *boot) Ready(context.Context) (string, error) {
	if how, ok := b.m.Ready(); ok {
		return how, nil
	}
	if end, err := readOutcome(b.m); end != nil || err != nil {
		return "", err // its supervisor is about to end: Ended decides
	}
	met, how := b.m.Printed() > 0, "console printed"
	if b.s.expect != nil {
		var err error
		if met, err = b.console.Matched(); err != nil {
			return "", err
		}
		how = machine.Met(b.s.expect, 0)
	}
	if met && b.met.IsZero() {
		b.met = time.Now()
	}
	if met && time.Since(b.met) > b.t.settled {
		return how, nil
	}
	if met || b.s.expect != nil {
		return "", nil
	}
	started, err := os.Stat(b.m.File(machine.PidFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // as above
	}
	if err != nil {
		return "", err
	}
	if time.Since(started.ModTime()) > b.t.silence {
		return fmt.Sprintf("ran for %s", b.t.silence), nil
	}
	return "", nil
}
