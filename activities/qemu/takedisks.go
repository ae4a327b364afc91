package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// given returns the disks that have a path, for [machine.Machines.TakeDisks].
func given(disks []Disk) (there []machine.Disk) {
	for i, d := range disks {
		if d.Path != "" {
			there = append(there, machine.Disk{Field: fmt.Sprintf("disks[%d].path", i), Path: d.Path, ReadOnly: d.ReadOnly, Reading: "readonly: true", Fits: checkRaw})
		}
	}
	return there
}

// checkRaw refuses an empty file, and a qcow2 image, which QEMU would use as a raw disk.
func checkRaw(f *os.File, field string) error {
	head := make([]byte, 4)
	n, err := f.ReadAt(head, 0)
	switch {
	case err != nil && !errors.Is(err, io.EOF) && !machine.Passing(err):
		return step.Invalid(field, "a file, or a block device", "the worker cannot read %s: %w", f.Name(), cause(err))
	case err != nil && !errors.Is(err, io.EOF):
		return &step.Error{Field: field, Err: err}
	case n == 0:
		return step.Invalid(field, "give it a size: truncate -s 1G "+f.Name(), "%s is empty", f.Name())
	case bytes.Equal(head[:n], []byte("QFI\xfb")):
		return step.Invalid(field, "qemu-img convert -O raw "+f.Name()+" disk.raw", "%s is a qcow2 image, not a raw one", f.Name())
	}
	return nil
}
