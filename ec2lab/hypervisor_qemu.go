package ec2lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// UEFI firmware of Debian's package ovmf, and its initial variables.
const (
	ovmfCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// startQEMU starts a guest with what every instance has: COM1, which is the console, and an
// NVMe disk. It has no virtio device, and no network.
func (p *process) startQEMU(g Guest) error {
	args := []string{"-no-user-config", "-nodefaults", "-display", "none", "-accel", "tcg", "-m", fmt.Sprintf("%dM", g.Memory),
		"-serial", "stdio",
		"-no-reboot", "-device", "isa-debug-exit", // how unikernels end without ACPI
		"-drive", "if=none,id=root,format=raw,file=" + option(g.Disk), "-device", "nvme,drive=root,serial=root"}
	if g.BootMode == "uefi" {
		raw, err := os.ReadFile(ovmfVars)
		if err != nil {
			return err
		}
		vars := filepath.Join(p.dir, "vars")
		if err := os.WriteFile(vars, raw, 0o600); err != nil {
			return err
		}
		args = append(args, "-drive", "if=pflash,format=raw,readonly=on,file="+ovmfCode, "-drive", "if=pflash,format=raw,file="+option(vars))
	}
	return p.start(exec.Command("qemu-system-x86_64", args...)) //nolint:noctx // it outlives the call; Stop ends it
}

// option quotes a value of QEMU's key=value options.
func option(value string) string { return strings.ReplaceAll(value, ",", ",,") }
