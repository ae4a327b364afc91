package qemu

import (
	"errors"
	"syscall"
)

// cause is what the system said, without Go's words for what was called on what.
func cause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
