package qemu

import (
	"errors"
	"io/fs"
	"syscall"
)

// cause returns the system's error without Go's names of the call and the file.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
