package ec2lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/morgana-deploy/morgana/qmp"
)

// UEFI firmware of Debian's package ovmf, and its initial variables.
const (
	ovmfCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// startQEMU starts a guest with what every instance has: COM1, which is the console, an NVMe
// disk, and a network interface with DHCP. QEMU has no ENA; vmxnet3 is in its place, for
// which unikernels have no driver either. No other machine is in the network.
func startQEMU(p *qmp.Process, g Guest) error {
	args := []string{"-no-user-config", "-nodefaults", "-display", "none", "-accel", "tcg",
		"-cpu", "max", // it has RDRAND, as instances have: without it Linux waits long for random numbers
		"-m", fmt.Sprintf("%dM", g.Memory),
		"-serial", "stdio",
		"-no-reboot", "-device", "isa-debug-exit", // how unikernels end without ACPI
		"-drive", "if=none,id=root,format=raw,file=" + qmp.Option(g.Disk), "-device", "nvme,drive=root,serial=root",
		"-netdev", "user,id=net,restrict=on", "-device", "vmxnet3,netdev=net,romfile="}
	if g.BootMode == "uefi" {
		raw, err := os.ReadFile(ovmfVars)
		if err != nil {
			return err
		}
		vars := filepath.Join(p.Dir, "vars")
		if err := os.WriteFile(vars, raw, 0o600); err != nil {
			return err
		}
		args = append(args, "-drive", "if=pflash,format=raw,readonly=on,file="+ovmfCode, "-drive", "if=pflash,format=raw,file="+qmp.Option(vars))
	}
	return p.Start(exec.Command("qemu-system-x86_64", args...)) //nolint:noctx // it outlives the call; Stop ends it
}
