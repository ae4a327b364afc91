package machine

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
	// killGrace is the time in which a process must end after SIGKILL.
	killGrace = 30 * time.Second
	tick      = 50 * time.Millisecond
)

// Quit says how a target ends a machine's process. Ask asks the process to end. Grace is
// the time after which it is killed. After an error of Ask it is killed at once.
type Quit struct {
	Ask   func(ctx context.Context, m Machine, pid int) error
	Grace time.Duration
	// Held is as in [Process]; nil for a target whose process has no children.
	Held func(ctx context.Context, m Machine) error
	// Files names the target's own files of one run. They are removed if the folder is kept.
	Files []string
}

// Destroy ends the machines whose tags match and removes their folders, also half-made
// ones. With KeepImage the folders stay, without the files of the last run. A machine that
// does not end is in the error's Left; the others are removed. Destroy is idempotent.
func (r *Machines) Destroy(ctx context.Context, what step.Removal, quit Quit) (step.Destroyed, error) {
	spec := what.Spec
	op := fmt.Sprintf("destroy %s.%s", spec.App, spec.Target)
	var done step.Destroyed
	// Empty names would match resources of any deployment.
	if err := errors.Join(step.CheckName("app", spec.App), step.CheckName("target", spec.Target)); err != nil {
		return done, step.During(op, err)
	}
	if !what.KeepImage {
		scrap, err := r.scrap(what.Match)
		if err != nil {
			return done, step.During(op, err)
		}
		for _, m := range scrap {
			if err := os.RemoveAll(m.Path); err != nil {
				return done, step.During(op, err)
			}
			done.Removed = append(done.Removed, "folder "+m.Path)
		}
	}
	machines, err := r.All(what.Match)
	if err != nil {
		return done, step.During(op, err)
	}
	var errs []error
	var left []string
	for _, m := range machines {
		pid, err := m.destroy(ctx, quit, what.KeepImage)
		if err != nil {
			errs = append(errs, err)
			left = append(left, m.Path)
			continue
		}
		if pid != 0 {
			done.Removed = append(done.Removed, fmt.Sprintf("machine %s (process %d)", m.Name(), pid))
		}
		if !what.KeepImage {
			done.Removed = append(done.Removed, "folder "+m.Path)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return done, &step.Error{Kind: step.KindOf(err), Op: op, Left: left, Err: err}
	}
	return done, nil
}

// destroy ends the machine's process and removes its folder. If keep is set it removes
// only the files of the last run. A machine that is gone is no error. pid is the ended
// process, 0 if none ran.
func (m Machine) destroy(ctx context.Context, quit Quit, keep bool) (pid int, err error) {
	pid, lock, err := m.end(ctx, quit)
	if step.KindOf(err) == step.NotFound { // nothing runs without a lock file, but a damaged folder may be there
		lock, err = nil, nil
	}
	if err != nil {
		return pid, err
	}
	if keep {
		err = m.forget(quit.Files...)
	} else {
		err = m.remove()
	}
	if lock != nil {
		err = errors.Join(err, lock.Close())
	}
	return pid, err
}

// end ends the machine's process, if one runs, and returns the machine's lock. ended is the
// process id, 0 if none ran.
func (m Machine) end(ctx context.Context, quit Quit) (ended int, lock *os.File, err error) {
	began := time.Now()
	told, killed := false, false
	for {
		lock, err := m.Lock()
		if !errors.Is(err, ErrHeld) {
			return ended, lock, err
		}
		pid, err := m.Pid()
		if err != nil {
			return ended, nil, err
		}
		since := time.Since(began)
		switch {
		case pid == 0: // another call or a child of the process has the lock
			if quit.Held != nil {
				if err := quit.Held(ctx, m); err != nil {
					return ended, nil, err
				}
			}
		case !told:
			told, ended = true, pid
			if quit.Ask(ctx, m, pid) != nil {
				began = began.Add(-quit.Grace) // kill it at the next tick
			}
		case since > quit.Grace && !killed:
			killed = true
			if err := m.Signal(pid, syscall.SIGKILL); err != nil {
				return ended, nil, err
			}
		}
		if since > quit.Grace+killGrace {
			return ended, nil, fmt.Errorf("%s does not end (process %d)", m.Name(), pid)
		}
		if err := step.Pause(ctx, tick); err != nil {
			return ended, nil, err
		}
	}
}

// Signal sends a signal to the machine's process. It opens a handle of the process before
// it checks the pid file's lock again. So it never signals a later process with the same
// number. A process that is gone is no error.
func (m Machine) Signal(pid int, signal os.Signal) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	defer p.Release() //nolint:errcheck // frees a handle
	if now, err := m.Pid(); err != nil || now != pid {
		return err
	}
	err = p.Signal(signal)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}
