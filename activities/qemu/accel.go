package qemu

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/machine"
)

//go:generate sh -c "cc -c -o probe/probe.o probe/probe.S && ld -n -Ttext 0x100000 -e _start --oformat binary -o probe/probe.bin probe/probe.o && rm probe/probe.o"

// probeKernel is probe/probe.S, assembled.
//
//go:embed probe/probe.bin
var probeKernel []byte

// probeStatus is QEMU's exit status when the probe computed rightly.
const probeStatus = 133

const probeTimeout = 5 * time.Second

// means is how a machine is to be run on this host.
type means struct {
	qemu, accel, cpu string
	sandbox          bool
}

// accelerate finds QEMU and decides how to run a machine with it. KVM that was
// asked for and does not work is Unsupported, as is a machine type or processor
// that this QEMU does not have.
func (t *Target) accelerate(ctx context.Context, s settings) (means, error) {
	path, err := program(s.QEMU)
	if err != nil {
		return means{}, err
	}
	known, err := t.learn(ctx, path, s.Accel != "tcg")
	if err != nil {
		return means{}, err
	}
	if err := known.check(s); err != nil {
		return means{}, err
	}
	with := means{qemu: path, accel: "tcg", cpu: s.CPU, sandbox: known.Sandbox}
	if s.Accel != "tcg" && known.KVM == "" {
		with.accel = "kvm"
	}
	switch {
	case s.Accel == "kvm" && with.accel != "kvm":
		return with, machine.NoKVM("accel", "accel: auto, which emulates where there is no KVM", known.KVM)
	case s.CPU == "host" && with.accel != "kvm":
		return with, machine.NoKVM("cpu", "cpu: max, which needs none", known.KVM)
	case s.CPU == "" && with.accel == "kvm":
		with.cpu = "host"
	case s.CPU == "":
		with.cpu = "max"
	}
	return with, nil
}

// tryKVM runs the probe under KVM. A /dev/kvm that opens is no proof: some
// hypervisors offer one that dies on what every compiler emits. It returns
// what is wrong, "" if nothing is, and whether that will stay so: QEMU may
// refuse for a while, as when another hypervisor has the processor.
func tryKVM(ctx context.Context, qemu string) (why string, stays bool, err error) {
	kernel, err := os.CreateTemp("", "morgana-probe-*")
	if err != nil {
		return "", false, err
	}
	defer func() { err = errors.Join(err, os.Remove(kernel.Name())) }()
	_, err = kernel.Write(probeKernel)
	if err = errors.Join(err, kernel.Close()); err != nil {
		return "", false, err
	}
	limited, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	cmd := exec.CommandContext(limited, qemu, probeArgs("kvm", "host", kernel.Name())...)
	// Under KVM's "internal error" QEMU says so and stays: not worth the wait.
	said := complaint{heard: func() { time.AfterFunc(time.Second/2, cancel) }}
	cmd.Stderr = &said
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	var status *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return "", false, ctx.Err()
	case limited.Err() != nil:
		return "a kernel that uses SSE hangs", true, nil
	case errors.As(err, &status) && status.ExitCode() == probeStatus:
		return "", true, nil
	case status != nil && status.ExitCode() == 1:
		line, _, _ := strings.Cut(strings.TrimSpace(said.text.String()), "\n")
		return line, false, nil
	case err == nil || status != nil:
		return "a kernel that uses SSE ends wrongly", true, nil
	default:
		return "", false, err
	}
}

// complaint keeps what is written to it, and calls heard at the first byte.
type complaint struct {
	text  bytes.Buffer // not embedded: its ReadFrom would go around Write
	heard func()
}

func (c *complaint) Write(b []byte) (int, error) {
	if c.text.Len() == 0 {
		c.heard()
	}
	return c.text.Write(b)
}

func probeArgs(accel, cpu, kernel string) []string {
	return []string{"-accel", accel, "-cpu", cpu, "-m", "16", "-no-user-config", "-nodefaults", "-display", "none",
		"-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", kernel}
}
