package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// silence is how long a silent machine must run to be ready without Expect and ExpectPort.
const silence = time.Second

// Boot starts the machine, or adopts the one that runs, waits until it is ready and opens
// its ports. A machine that ran to its end is not started again. It is returned as Ended
// if it was ready, or if its console shows that it did its work, as a unikernel with one
// job does. Otherwise the error is BootFailed. A machine that was killed is started
// again.
func (t *Target) Boot(ctx context.Context, r step.Registration) (step.Machine, error) {
	var b *boot
	out, err := t.machines.Boot(ctx, r, func(m machine.Machine, rec machine.Record) (machine.Process, time.Duration, error) {
		s, err := read(rec.Options)
		b = &boot{t: t, m: guest{m}, rec: rec, s: s, console: m.Watch(s.expect)}
		return b, s.timeout, err
	})
	if b != nil {
		b.port.close()
	}
	if err != nil {
		return step.Machine{}, err
	}
	out.Addresses = b.s.addresses()
	return out, nil
}

// Addresses returns the ports of the host that lead to a machine.
func (*Target) Addresses(spec step.Spec) (all []step.Address, known bool) {
	s, err := read(spec.Options)
	return s.addresses(), err == nil
}

func (s *settings) addresses() (all []step.Address) {
	for _, f := range s.forwards {
		all = append(all, f.address())
	}
	return all
}

// boot is one call of Boot.
type boot struct {
	t       *Target
	m       guest
	rec     machine.Record
	s       settings
	console *machine.Watch
	port    *portProbe
	since   time.Time // when this call first saw Expect and ExpectPort met
}

var _ machine.Process = (*boot)(nil)

// Start starts QEMU, which inherits the lock, the taps and the disks.
func (b *boot) Start(ctx context.Context, lock *os.File) (err error) {
	if err := b.t.checkPorts(ctx, b.m.Tags, b.s.forwards); err != nil {
		return err
	}
	with, err := b.t.accelerate(ctx, b.s)
	if err != nil {
		return err
	}
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
	files, err := b.s.openTaps(ctx, b.m.Tags) // first, as tapFile expects
	opened := []*os.File{log}
	defer func() {
		for _, f := range append(files, opened...) {
			err = errors.Join(err, f.Close())
		}
	}()
	if err != nil {
		return err
	}
	events, err := os.Create(b.m.File(eventsFile))
	if err != nil {
		return err
	}
	opened = append(opened, events)
	capabilities, err := said(`{"execute": "qmp_capabilities"}`) // then QEMU tells its events
	if err != nil {
		return err
	}
	opened = append(opened, capabilities)
	disks, err := b.t.machines.TakeDisks(ctx, b.m.Tags, given(b.s.Disks), false)
	files = append(files, disks...)
	if err != nil {
		return err
	}
	most, err := b.fileLimit(disks)
	if err != nil {
		return err
	}
	cmd := limited(most, with.qemu, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = capabilities, events, log, files
	return b.m.Start(cmd, lock)
}

// said returns the end of a pipe from which a short text is read, and then its end.
func said(text string) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	_, err = w.WriteString(text)
	return r, errors.Join(err, w.Close())
}

// Ready returns how the machine showed that it is ready, and opens its ports.
func (b *boot) Ready(ctx context.Context) (string, error) {
	how, ok := b.m.Ready()
	if !ok {
		var err error
		if how, err = b.met(ctx); how == "" || err != nil {
			return "", err
		}
		if lasts, err := b.lasts(ctx); !lasts || err != nil {
			return "", err
		}
	}
	if b.s.userNetwork() < 0 {
		return how, nil
	}
	step.Report(ctx, step.Progress{Note: "opening ports"})
	return how, b.t.takePorts(ctx, b.m, b.s.forwards)
}

// met returns how the machine met Expect and ExpectPort, "" if it has not yet.
func (b *boot) met(ctx context.Context) (string, error) {
	if b.s.expect == nil && b.s.ExpectPort == 0 {
		return b.alive(ctx)
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

// lasts reports whether a Solo5 kernel runs on after it met Expect and ExpectPort. Other
// kernels have no exit status.
func (b *boot) lasts(ctx context.Context) (bool, error) {
	if has, err := readManifest(b.m.Machine); has == nil || err != nil {
		return err == nil, err
	}
	if status := failure(b.m.Machine); status != "" {
		return false, machine.BootFailed(b.consoleTail(ctx), "the kernel ended: %s", status)
	}
	if b.since.IsZero() {
		b.since = time.Now()
	}
	return time.Since(b.since) > machine.Settled, nil
}

// alive is met for a machine without Expect and ExpectPort.
func (b *boot) alive(ctx context.Context) (string, error) {
	if b.m.Printed() > 0 {
		return "console printed", nil
	}
	started, err := os.Stat(b.m.File(machine.PidFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // QEMU is ending
	}
	if err != nil || time.Since(started.ModTime()) <= silence {
		return "", err
	}
	switch status, err := b.m.status(ctx); {
	case err == nil && status == "running":
		return fmt.Sprintf("ran for %s", silence), nil
	case err == nil:
		return "", b.stopped(ctx, status)
	}
	return "", nil // QEMU has another client or is ending: it is asked again
}
