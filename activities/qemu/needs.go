package qemu

import (
	"context"
	"os/exec"

	"github.com/morgana-deploy/morgana/carrier"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

var _ step.Needer = (*Target)(nil)

const qemuFix = "sudo apt-get install qemu-system-x86"

// Needs lists the needs of a host that runs machines, met or not: QEMU and, optional,
// KVM, UEFI firmware, tools to make disks, the right to make taps.
func (t *Target) Needs(ctx context.Context) []step.Need {
	run := step.Need{For: "run", What: defaultQEMU, Fix: qemuFix}
	kvm := step.Need{For: "run fast", What: "KVM", Optional: true, Fix: machine.KVMFix}
	if path, err := exec.LookPath(defaultQEMU); err == nil {
		known, err := t.learn(ctx, path)
		if err != nil {
			run.Why = err.Error()
		} else {
			run.Found, run.Fix = path+" "+known.Version, ""
		}
	}
	if why, err := machine.TryKVM(); err != nil {
		kvm.Why = err.Error()
	} else if kvm.Why = why; why == "" {
		kvm.Found, kvm.Fix = machine.KVM, ""
	}
	uefi := step.Need{For: "boot from a UEFI disk", What: "OVMF", Optional: true}
	if f, err := findFirmware(""); err == nil {
		uefi.Found = f.code
	} else {
		uefi.Fix = ovmfFix
	}
	all := []step.Need{run, kvm, uefi}
	for _, layout := range []disk.Layout{disk.BIOS, disk.UEFI} {
		for _, n := range disk.Needs(ctx, layout) {
			n.Optional = true // via: kernel does without
			all = append(all, n)
		}
	}
	all = append(all, carrier.Needs(ctx)...)
	return append(all, machine.TapNeeds()...)
}
