package qemu

import (
	"context"

	"github.com/morgana-deploy/morgana/machine"
)

// means are the program, accelerator and processor to run a machine with on this host.
type means struct {
	qemu, accel, cpu string
	sandbox          bool
}

// accelerate finds QEMU and decides how to run a machine with it. KVM that is asked for and
// does not work is Unsupported. A machine type or processor that this QEMU does not have is
// InvalidSpec.
func (t *Target) accelerate(ctx context.Context, s settings) (means, error) {
	path, err := program(s.QEMU)
	if err != nil {
		return means{}, err
	}
	known, err := t.learn(ctx, path)
	if err != nil {
		return means{}, err
	}
	if err := known.check(s); err != nil {
		return means{}, err
	}
	with := means{qemu: path, accel: "tcg", cpu: s.CPU, sandbox: known.Sandbox}
	var noKVM string
	if s.Accel != "tcg" {
		if noKVM, err = machine.TryKVM(); err != nil {
			return means{}, err
		}
		if noKVM == "" {
			with.accel = "kvm"
		}
	}
	switch {
	case s.Accel == "kvm" && with.accel != "kvm":
		return with, machine.NoKVM("accel", "accel: auto, which emulates where there is no KVM", noKVM)
	case s.CPU == "host" && with.accel != "kvm":
		return with, machine.NoKVM("cpu", "cpu: max, which needs none", noKVM)
	case s.CPU == "" && with.accel == "kvm":
		with.cpu = "host"
	case s.CPU == "":
		with.cpu = "max"
	}
	return with, nil
}
