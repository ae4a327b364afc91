package qemu

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

var (
	_ step.Observer   = (*Target)(nil)
	_ step.Lister     = (*Target)(nil)
	_ step.Forecaster = (*Target)(nil)
)

// dead lists the states of QEMU in which the guest runs no longer.
var dead = []string{"guest-panicked", "internal-error", "io-error", "shutdown"}

// Observe looks at QEMU's process, asks QEMU for the guest's state, and lists the ports
// that lead to the guest now. A later generation may have taken them over.
func (t *Target) Observe(ctx context.Context, m step.Machine) (step.Health, error) {
	h, err := t.machines.Observe(m, ended)
	if err != nil || h.State != step.Running {
		return h, err
	}
	if err = t.observe(ctx, m, &h); err != nil {
		if again, errAgain := t.machines.Observe(m, ended); errAgain == nil && again.State != step.Running {
			return again, nil // QEMU ended while it was asked
		}
		return step.Health{}, step.During("observe", err)
	}
	return h, nil
}

func (t *Target) observe(ctx context.Context, m step.Machine, h *step.Health) error {
	at, err := t.machines.Of(m.Registration.Spec.Tags)
	if err != nil {
		return err
	}
	g := guest{at}
	status, err := g.status(ctx)
	if err != nil {
		return err
	}
	if slices.Contains(dead, status) {
		*h = step.Health{State: step.Ended, How: "qemu: " + status}
		return nil
	}
	rec, err := at.Record()
	if err != nil {
		return err
	}
	s, err := read(rec.Options)
	if err != nil || len(s.forwards) == 0 {
		return err
	}
	rows, err := g.usernet(ctx)
	for _, f := range s.forwards {
		if slices.ContainsFunc(rows, func(r connection) bool { return r.listens() && r.forward == f }) {
			h.Addresses = append(h.Addresses, f.address())
		}
	}
	return err
}

// ended is for a QEMU that ended by itself. The folder last changed when QEMU removed its
// pid file, so that is the time of its end. See failure for its success.
func ended(m machine.Machine) (step.Health, error) {
	if m.Printed() == 0 {
		return step.Health{}, nil
	}
	info, err := os.Stat(m.Path)
	if err != nil {
		return step.Health{}, err
	}
	how := failure(m)
	return step.Health{How: how, Success: how == "", Since: info.ModTime()}, nil
}

// List lists the machines' folders. A machine's taps are gone with its QEMU.
func (t *Target) List(_ context.Context, spec step.Spec) ([]step.Resource, error) {
	all, err := t.machines.List(t.site.Host, machine.Wanted(spec.Tags), false)
	if err != nil {
		return nil, step.During("list qemu machines", err)
	}
	return all, nil
}

// Forecast lists the actions of Register and Boot.
func (t *Target) Forecast(_ context.Context, spec step.Spec) (_ []step.Action, err error) {
	defer step.SetOp("forecast qemu target", &err)
	s, err := read(spec.Options)
	if err != nil {
		return nil, err
	}
	all, err := t.machines.Forecast(spec.Tags)
	if err != nil {
		return nil, err
	}
	if s.disk() {
		all = append(all, step.Action{Call: "unpack " + bootDisk, Why: "the disk that GRUB boots from, via " + s.Via})
	}
	for i, d := range s.Disks {
		if d.Path != "" {
			all = append(all, step.Action{Call: "flock " + d.Path, Why: fmt.Sprintf("disk %d, for this machine alone", i)})
		} else {
			all = append(all, step.Action{Call: "truncate -s " + d.Size + " " + dataDisk(i), Why: fmt.Sprintf("disk %d", i), Cost: "up to " + d.Size + " of disk"})
		}
	}
	for i, n := range s.networks {
		if n.Kind != tapNetwork {
			continue
		}
		acts, err := s.tap(spec.Tags, i).Forecast()
		if err != nil {
			return nil, s.blame(err)
		}
		all = append(all, acts...)
	}
	run := step.Action{Call: fmt.Sprintf("%s -m %d -smp %d", s.QEMU, s.Memory, s.CPUs), Why: "run the machine until it is ready, for at most " + s.Timeout}
	if s.Accel == "kvm" {
		run.Permission = machine.KVM
	}
	all = append(all, run)
	for _, f := range s.forwards {
		all = append(all, step.Action{Call: fmt.Sprintf("hostfwd_add %s-:%d", f.at(), f.guest), Why: "the host's port, taken from the machine that runs now"})
	}
	return all, nil
}
