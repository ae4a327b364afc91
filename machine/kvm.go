package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/morgana-deploy/morgana/step"
)

const (
	// KVM is the device of Linux's hypervisor.
	KVM = "/dev/kvm"
	// KVMFix is the hint for a KVM that does not work.
	KVMFix = "add the worker's user to group kvm, or turn on virtualization in the host's firmware (nested, in a virtual machine)"
)

// openKVM opens KVM. If there is none, or this user may not open it, f is nil and why is
// the reason. err is an error that may pass.
func openKVM() (f *os.File, why string, err error) {
	if f, err = os.OpenFile(KVM, os.O_RDWR, 0); err == nil {
		return f, "", nil
	}
	why, err = kvmRefused(err)
	return nil, why, err
}

func kvmRefused(err error) (why string, passing error) {
	var errno syscall.Errno
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "it is not there", nil
	case errors.Is(err, fs.ErrPermission):
		return "the worker's user may not open it", nil
	case errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		return "there is nothing behind the device, for the kernel's kvm module is not loaded", nil
	case !Passing(err) && errors.As(err, &errno):
		return "it cannot be opened: " + errno.Error(), nil
	}
	return "", err
}

// NoKVM returns the error (Unsupported) for a host without a working KVM. why is the
// reason. instead names an option that needs no KVM. field is the option to blame, "" if
// there is none.
func NoKVM(field, instead, why string) error {
	return &step.Error{Kind: step.Unsupported, Field: field, Err: fmt.Errorf("this host has no working KVM (%s): %s", KVM, why),
		Hint: instead + "; or " + KVMFix}
}
