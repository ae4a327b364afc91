package qemu

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

// firmware has the paths of UEFI code and of its initial variables, "" if the code brings
// its own.
type firmware struct{ code, vars string }

// The places where distributions keep OVMF without Secure Boot, which would refuse GRUB.
var firmwares = []firmware{
	{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},                   // Debian 12, Ubuntu 24.04
	{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},                         // Debian 11
	{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},               // Fedora
	{"/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"},           // Arch
	{"/usr/share/qemu/edk2-x86_64-code.fd", "/usr/share/qemu/edk2-i386-vars.fd"},             // QEMU's own
	{"/usr/local/share/qemu/edk2-x86_64-code.fd", "/usr/local/share/qemu/edk2-i386-vars.fd"}, // the same
}

const ovmfFix = "sudo apt-get install ovmf"

// findFirmware returns the firmware. given is option firmware; if it is empty, the host's
// firmware is looked for. The error is Unsupported if the host has none.
func findFirmware(given string) (firmware, error) {
	if given == "" {
		for _, f := range firmwares {
			if readable(f.code) == nil && readable(f.vars) == nil {
				return f, nil
			}
		}
		return firmware{}, &step.Error{Kind: step.Unsupported, Field: "via", Err: errors.New("this host has no UEFI firmware for QEMU"),
			Hint: ovmfFix + ", or give its file as firmware"}
	}
	err := readable(given)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return firmware{}, &step.Error{Kind: step.NotFound, Field: "firmware", Err: fmt.Errorf("this host has no %s", given),
			Hint: firmwareHint()}
	case errors.Is(err, fs.ErrPermission):
		return firmware{}, &step.Error{Kind: step.Unauthorized, Field: "firmware", Err: fmt.Errorf("the worker may not read %s", given),
			Hint: "let the worker's user read it"}
	case err != nil:
		return firmware{}, &step.Error{Kind: step.InvalidSpec, Field: "firmware", Err: fmt.Errorf("the worker cannot read %s: %w", given, cause(err)), Hint: firmwareHint()}
	}
	f := firmware{code: given}
	dir, name := filepath.Split(given)
	for _, pair := range [][2]string{{"CODE", "VARS"}, {"code", "vars"}} {
		if vars := dir + strings.Replace(name, pair[0], pair[1], 1); vars != given && readable(vars) == nil {
			f.vars = vars
			break
		}
	}
	return f, nil
}

// firmwareHint says how to correct a wrong path.
func firmwareHint() string {
	if f, err := findFirmware(""); err == nil {
		return "correct the path, or leave it out: this host has " + f.code
	}
	return "correct the path, or leave it out and install one: " + ovmfFix
}

// readable returns the error of opening a file to read it.
func readable(path string) error {
	f, _, err := files.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

// install writes fresh variables to path. A unikernel keeps nothing in them, and those of a
// killed machine may be half written.
func (f firmware) install(path string) (err error) {
	if f.vars == "" {
		return nil
	}
	from, err := os.Open(f.vars)
	if err != nil {
		return err
	}
	defer from.Close() //nolint:errcheck // only read
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}
