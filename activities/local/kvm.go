package local

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/step"
)

const (
	kvmDevice = "/dev/kvm"
	kvmFix    = "build the kernel with -t spt, which needs none; or add the worker's user to group kvm, " +
		"or turn on virtualization in the host's firmware (nested, in a virtual machine)"
)

// needKVM refuses a host where KVM does not work.
func needKVM() error {
	why, err := tryKVM()
	if why != "" {
		return failed(step.Unsupported, "", kvmFix, "this host has no working KVM (%s): %s", kvmDevice, why)
	}
	return err
}

// openKVM is nil and why if there is none, or none for this user.
func openKVM() (f *os.File, why string, err error) {
	f, err = os.OpenFile(kvmDevice, os.O_RDWR, 0)
	switch {
	case err == nil:
		return f, "", nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, "it is not there", nil
	case errors.Is(err, fs.ErrPermission):
		return nil, "the worker's user may not open it", nil
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return nil, "there is nothing behind the device, for the kernel's kvm module is not loaded", nil
	}
	return nil, "", err
}

// passing reports whether an error is of a host that is short of something, and
// so may be gone when it is tried again.
func passing(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EAGAIN, unix.EINTR, unix.ETXTBSY} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
