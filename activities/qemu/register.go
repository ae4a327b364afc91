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

// quitGrace is how long a QEMU told to quit may take until it is killed.
const quitGrace = 3 * time.Second

// Register makes the machine's folder, whole or not at all. One that is there
// with the same digest is adopted. One with another digest is replaced, unless
// its machine runs: Conflict.
func (t *Target) Register(ctx context.Context, img step.Image) (step.Registration, error) {
	return t.machines.Register(ctx, img, prepare)
}

// prepare unpacks the disk it boots from, and makes the data disks.
func prepare(ctx context.Context, made machine.Machine, options json.RawMessage) error {
	s, err := read(options)
	if err != nil {
		return err
	}
	files := append([]string{kernelFile}, s.Modules...)
	if s.disk() {
		files = []string{packedDisk}
	}
	for _, name := range files {
		if _, err := os.Lstat(made.File(name)); err != nil {
			return &step.Error{Kind: step.InvalidSpec, Err: fmt.Errorf("the image has no %s", name),
				Hint: "only images of the qemu target can be registered here"}
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

// unpack makes the disk it boots from of the packed one.
func unpack(ctx context.Context, made machine.Machine) error {
	packed, err := os.Open(made.File(packedDisk))
	if err != nil {
		return err
	}
	err = disk.Unpack(ctx, packed, made.File(bootDisk))
	return errors.Join(err, packed.Close(), os.Remove(made.File(packedDisk)))
}

// Console reads the kernel's output. Text that is not UTF-8 has U+FFFD in
// its place. A machine that was destroyed, or is on another host, is NotFound.
func (t *Target) Console(ctx context.Context, from step.ConsoleFrom) (step.ConsoleText, error) {
	return t.machines.Console(ctx, from)
}

// quit asks QEMU itself.
var quit = machine.Quit{Grace: quitGrace, Ask: func(ctx context.Context, m machine.Machine, _ int) error {
	return guest{m}.quit(ctx)
}}

// Destroy ends the machines whose tags match and, unless KeepImage is set, removes
// their folders, half made ones as well. The error's Left names what did not end;
// the rest is removed. Then the machine before has its ports again.
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
