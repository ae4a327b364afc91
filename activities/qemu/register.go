package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// quitGrace is the time after which a QEMU that was asked to quit is killed.
const quitGrace = 3 * time.Second

// Register makes the machine's folder, whole or not at all. If there is a folder with the
// same digest, it is adopted. A folder with another digest is replaced, but is Conflict
// while its machine runs.
func (t *Target) Register(ctx context.Context, img step.Image) (step.Registration, error) {
	return t.machines.Register(ctx, img, prepare)
}

// prepare unpacks the boot disk and makes the data disks.
func prepare(ctx context.Context, made machine.Machine, options json.RawMessage) error {
	s, err := read(options)
	if err != nil {
		return err
	}
	_, modules := s.boots()
	files := append([]string{kernelFile}, modules...)
	if s.disk() {
		files = []string{packedDisk}
	}
	for _, name := range files {
		if _, err := os.Lstat(made.File(name)); err != nil {
			return step.Invalid("", "only images of the qemu target can be registered here", "the image has no %s", name)
		}
	}
	if s.disk() {
		step.Report(ctx, step.Progress{Note: "unpacking the disk"})
		if err := unpack(ctx, made); err != nil {
			return machine.TooBig(err, filepath.Dir(made.Path), "size", s.Size)
		}
	}
	return makeDisks(made, s.Disks)
}

// unpack makes the boot disk from the packed one, and removes that.
func unpack(ctx context.Context, made machine.Machine) error {
	packed, err := os.Open(made.File(packedDisk))
	if err != nil {
		return err
	}
	err = disk.Unpack(ctx, packed, made.File(bootDisk))
	return errors.Join(err, packed.Close(), os.Remove(made.File(packedDisk)))
}

// Console reads the kernel's output. U+FFFD replaces bytes that are not UTF-8. A machine
// that was destroyed, or is on another host, is NotFound.
func (t *Target) Console(ctx context.Context, from step.ConsoleFrom) (step.ConsoleText, error) {
	return t.machines.Console(ctx, from)
}

// quit ends a QEMU through its control socket.
var quit = machine.Quit{Grace: quitGrace, Ask: func(ctx context.Context, m machine.Machine, _ int) error {
	return guest{m}.quit(ctx)
}}

// Destroy ends the machines whose tags match and, unless KeepImage is set, removes their
// folders, also half-made ones. A machine that does not end is in the error's Left; the
// others are removed. Then the ports are returned to the machine before.
func (t *Target) Destroy(ctx context.Context, what step.Removal) (step.Destroyed, error) {
	spec := what.Spec
	done, err := t.machines.Destroy(ctx, what, quit)
	if err != nil {
		return done, err
	}
	if err := t.returnPorts(ctx, spec.Tags); err != nil {
		op := fmt.Sprintf("destroy %s.%s: return the ports to the machine before", spec.App, spec.Target)
		return done, step.During(op, err)
	}
	return done, nil
}
