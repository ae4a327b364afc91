package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

const (
	// quitGrace is how long a QEMU told to quit may take until it is killed.
	quitGrace = 3 * time.Second
	// killGrace is how long the kernel may take to clear a killed one away.
	killGrace = 10 * time.Second
)

// Destroy ends the machines whose tags match and removes their folders, half
// made ones as well. What it cannot end is named in the error's Left; the rest
// is removed all the same.
func (t *Target) Destroy(ctx context.Context, spec step.Spec) (step.Destroyed, error) {
	op := fmt.Sprintf("destroy %s.%s", spec.App, spec.Target)
	var done step.Destroyed
	// Without names the tags would match what belongs to nobody.
	if err := errors.Join(step.CheckName("app", spec.App), step.CheckName("target", spec.Target)); err != nil {
		return done, during(op, err)
	}
	scrap, err := t.scrap(spec.Match)
	if err != nil {
		return done, during(op, err)
	}
	for _, m := range scrap {
		if err := os.RemoveAll(m.path); err != nil {
			return done, during(op, err)
		}
		done.Removed = append(done.Removed, "folder "+m.path)
	}
	machines, err := t.machines(spec.Match)
	if err != nil {
		return done, during(op, err)
	}
	var errs []error
	var left []string
	for _, m := range machines {
		pid, err := m.destroy(ctx)
		switch {
		case err != nil:
			errs = append(errs, err)
			left = append(left, m.path)
		case pid != 0:
			done.Removed = append(done.Removed, fmt.Sprintf("machine %s (process %d)", m.name(), pid), "folder "+m.path)
		default:
			done.Removed = append(done.Removed, "folder "+m.path)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return done, &step.Error{Kind: step.KindOf(err), Op: op, Left: left, Err: err}
	}
	if err := t.returnPorts(ctx, spec.Tags); err != nil {
		return done, during(op+": return the ports to the machine before", err)
	}
	return done, nil
}

// destroy ends the machine and removes its folder; one that is gone is no
// error. pid is what it ended, 0 if nothing ran.
func (m machine) destroy(ctx context.Context) (pid int, err error) {
	pid, lock, err := m.end(ctx)
	switch {
	case step.KindOf(err) == step.NotFound: // no lock to take: nothing runs, and maybe a ruin to remove
		return pid, m.remove()
	case err != nil:
		return pid, err
	}
	return pid, errors.Join(m.remove(), lock.Close())
}

// end ends the machine's QEMU, if it runs, and returns with its lock held.
func (m machine) end(ctx context.Context) (ended int, lock *os.File, err error) {
	began := time.Now()
	told, killed := false, false
	every := time.NewTicker(tick)
	defer every.Stop()
	for {
		lock, err := m.lock()
		if !errors.Is(err, errHeld) {
			return ended, lock, err
		}
		pid, err := m.pid()
		if err != nil {
			return ended, nil, err
		}
		since := time.Since(began)
		switch {
		case pid == 0: // starting, ending, or a call that changes it: wait
		case !told:
			told, ended = true, pid
			if m.quit(ctx) != nil {
				began = began.Add(-quitGrace) // not even listening: no use in waiting
			}
		case since > quitGrace && !killed:
			killed = true
			if err := m.kill(pid); err != nil {
				return ended, nil, err
			}
		}
		if since > quitGrace+killGrace {
			return ended, nil, fmt.Errorf("%s does not end (process %d)", m.name(), pid)
		}
		select {
		case <-ctx.Done():
			return ended, nil, ctx.Err()
		case <-every.C:
		}
	}
}

// kill ends QEMU the hard way. The handle is taken before it is asked once
// more whose the lock is, so that it cannot be another process's.
func (m machine) kill(pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	defer p.Release() //nolint:errcheck // frees a handle
	if now, err := m.pid(); err != nil || now != pid {
		return err
	}
	err = p.Signal(syscall.SIGKILL)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}
