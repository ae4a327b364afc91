package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// rollout is the folder of one rollout on this host. It holds
//
//	tree/           the source, configured and built; elsewhere during a stage, see [place]
//	tree.json       what the archive held; it is there once configure is done
//	configure.log   build.log
//	group.json      the process group that runs, see [group]
//	lock            held by the call that works in the tree
type rollout struct {
	tags step.Tags
	dir  string
}

const (
	lockFile = "lock"
	// cleanWait bounds Clean, and a sweep.
	cleanWait = 30 * time.Second
)

func (r rollout) tree() string            { return filepath.Join(r.dir, "tree") }
func (r rollout) file(name string) string { return filepath.Join(r.dir, name) }
func (r rollout) name() string            { return filepath.Base(r.dir) }

// who names the rollout for people who wait for it.
func (r rollout) who() string { return r.tags.App + "/" + r.tags.Target }

// create makes the folder if it is missing, and locks it.
func (r rollout) create(ctx context.Context) (*lock, error) {
	for {
		if err := os.MkdirAll(r.dir, 0o700); err != nil {
			return nil, err
		}
		l, err := r.lock(ctx)
		// A Clean may take the folder away in between.
		if !errors.Is(err, fs.ErrNotExist) {
			return l, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
}

// lock waits until no other call works in the folder, takes its lock, and ends processes
// that a killed worker left there.
func (r rollout) lock(ctx context.Context) (*lock, error) {
	l, err := waitLock(ctx, r.file(lockFile), r.name(), func(string) {
		step.Report(ctx, step.Progress{Waiting: true, Note: "waiting for an earlier try to end"})
	})
	if err != nil {
		return nil, err
	}
	if err := endLeftGroup(ctx, r.file(groupFile)); err != nil {
		l.release()
		return nil, err
	}
	return l, nil
}

// remove ends the processes in the folder and removes it. If a worker has the lock,
// remove fails with a heldError; with force it ends that worker's commands instead.
func (r rollout) remove(ctx context.Context, force bool) error {
	for {
		l, err := tryLock(r.file(lockFile), "clean of "+r.name())
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err == nil:
			defer l.release()
			return r.removeLocked(ctx)
		case !force || !isHeld(err):
			return err
		}
		// The record stays: by now it may be of the holder's next command.
		if err := killGroup(ctx, r.file(groupFile)); err != nil {
			return err
		}
		if step.Pause(ctx, 50*time.Millisecond) != nil {
			return fmt.Errorf("a build still runs there: %w", context.Cause(ctx))
		}
	}
}

func (r rollout) removeLocked(ctx context.Context) error {
	if err := endLeftGroup(ctx, r.file(groupFile)); err != nil {
		return err
	}
	// treeFile goes first, because it says that the tree is whole; the lock goes last.
	if err := removeIfThere(r.file(treeFile)); err != nil {
		return err
	}
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == lockFile {
			continue
		}
		if err := removeAll(ctx, r.file(e.Name())); err != nil {
			return err
		}
	}
	if err := removeIfThere(r.file(lockFile)); err != nil {
		return err
	}
	// A folder that is not empty has a new user.
	if err := os.Remove(r.dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// lastUse is when something last happened in the folder.
func (r rollout) lastUse() time.Time {
	var last time.Time
	for _, name := range []string{".", lockFile, treeFile, logName(step.Configure), logName(step.Build)} {
		if info, err := os.Stat(r.file(name)); err == nil && info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last
}

func logName(s step.Stage) string { return string(s) + ".log" }

// removeAll is os.RemoveAll that ends with ctx and also removes read-only folders, as Go's
// module cache has.
func removeAll(ctx context.Context, path string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		if info.Mode().Perm()&0o700 != 0o700 {
			if err := os.Chmod(path, 0o700); err != nil {
				return err
			}
		}
		entries, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := removeAll(ctx, filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	return removeIfThere(path)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
