package local

import (
	"errors"
	"io/fs"
	"os"
)

const kvmDevice = "/dev/kvm"

// openKVM is nil and why if there is none, or none for this user.
func openKVM() (f *os.File, why string) {
	f, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
	switch {
	case err == nil:
		return f, ""
	case errors.Is(err, fs.ErrNotExist):
		return nil, "there is no " + kvmDevice
	case errors.Is(err, fs.ErrPermission):
		return nil, "no permission for " + kvmDevice + " (add the worker's user to group kvm)"
	}
	return nil, err.Error()
}
