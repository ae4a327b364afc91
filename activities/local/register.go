package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// Register makes the machine's folder, whole or not at all. If there is a folder with the
// same digest, it is adopted. A folder with another digest is replaced, but is Conflict
// while its machine runs.
func (t *Target) Register(ctx context.Context, img step.Image) (step.Registration, error) {
	return t.machines.Register(ctx, img, func(_ context.Context, made machine.Machine, options json.RawMessage) error {
		s, err := readRecord(options)
		if err != nil {
			return err
		}
		if _, err := os.Lstat(made.File(kernelFile)); err != nil || s.ABI == "" {
			return step.Invalid("", "only images of the local target can be registered here", "the image has no %s", kernelFile)
		}
		if err := os.Chmod(made.File(kernelFile), 0o700); err != nil { //nolint:gosec // it is to be executed
			return err
		}
		return s.makeBlocks(made)
	})
}

// quitting sends the supervisor SIGTERM. A supervisor that does not end is killed, and
// the kernel kills the program with it.
func (t *Target) quitting() machine.Quit {
	return machine.Quit{Grace: t.quit + time.Second, Held: t.held, Files: []string{statusFile, logFile}, Ask: func(_ context.Context, m machine.Machine, pid int) error {
		return m.Signal(pid, unix.SIGTERM)
	}}
}

// Destroy ends the machines whose tags match, by SIGTERM and after 3 s by SIGKILL, and the
// processes that their programs had started. It removes their taps and, unless KeepImage is
// set, their folders, also half-made ones. A machine that does not end is in the error's
// Left; the others are removed.
func (t *Target) Destroy(ctx context.Context, what step.Removal) (step.Destroyed, error) {
	spec := what.Spec
	errOrphans := t.endOrphans(ctx, what.Match) // they may have machines' locks
	done, errMachines := t.machines.Destroy(ctx, what, t.quitting())
	if errOrphans == nil && ctx.Err() == nil { // orphans of supervisors that Destroy has killed
		errOrphans = t.endOrphans(ctx, what.Match)
	}
	taps, errTaps := machine.RemoveTaps(what.Match)
	for _, name := range taps {
		done.Removed = append(done.Removed, "tap "+name)
	}
	return done, firstOf(fmt.Sprintf("destroy %s.%s", spec.App, spec.Target), errMachines, errOrphans, errTaps)
}

// firstOf is the first of the errors, with the texts of the others added.
func firstOf(op string, errs ...error) error {
	var first *step.Error
	for _, err := range errs {
		var e *step.Error
		if err == nil || !errors.As(step.During(op, err), &e) {
			continue
		}
		if first == nil {
			copied := *e
			first = &copied
			continue
		}
		first.Left = append(slices.Clone(first.Left), e.Left...)
		first.Err = fmt.Errorf("%w; %w", first.Err, e.Err)
	}
	if first == nil {
		return nil
	}
	return first
}
