// Package files writes files whole, locks them, opens those that users name, and makes
// folders for work that a crash may cut off. Locks are flock(2)'s: the kernel lets go of
// them with the last process that has the file open.
package files

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Write writes a file (mode 0600) all or not at all, even if the power goes: when
// it returns the file is on the disk, and so is its name.
func Write(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return Sync(filepath.Dir(path))
}

// Sync puts a file, or the names in a folder, on the disk.
func Sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// SyncTree puts everything in a folder on the disk. Links are not followed.
func SyncTree(folder string) error {
	return filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() && !e.Type().IsRegular() {
			return err
		}
		return Sync(path)
	})
}

// ErrLocked says that another has the lock.
var ErrLocked = errors.New("another has the lock")

// Lock takes the exclusive lock of an open file, LockShared the shared one. They
// do not wait: [ErrLocked]. Closing the file lets go, unless a child inherited it.
func Lock(f *os.File) error { return flock(f, unix.LOCK_EX) }

// LockShared is described at [Lock].
func LockShared(f *os.File) error { return flock(f, unix.LOCK_SH) }

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return ErrLocked
		case !errors.Is(err, unix.EINTR):
			return &fs.PathError{Op: "flock", Path: f.Name(), Err: err}
		}
	}
}

// Scratch makes a folder in parent for work, locked until done removes it. It first
// removes the folders of killed processes: those whose name left accepts and whose
// lock is free. On a file system without locks it removes none.
func Scratch(parent, prefix string, left func(name string) bool) (path string, done func() error, err error) {
	entries, _ := os.ReadDir(parent) // where nothing can be listed nothing is swept
	for _, e := range entries {
		if e.IsDir() && left(e.Name()) {
			sweep(filepath.Join(parent, e.Name()))
		}
	}
	for {
		path, err := os.MkdirTemp(parent, prefix+"*")
		if err != nil {
			return "", nil, err
		}
		lock, err := hold(path)
		if errors.Is(err, errSwept) {
			continue
		}
		if err != nil {
			return "", nil, errors.Join(err, os.Remove(path))
		}
		return path, func() error { return errors.Join(os.RemoveAll(path), lock.Close()) }, nil
	}
}

var errSwept = errors.New("another process took the folder for left behind")

// hold locks a folder that was just made.
func hold(path string) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errSwept
	}
	if err != nil {
		return nil, err
	}
	if errors.Is(Lock(f), ErrLocked) {
		return nil, errors.Join(errSwept, f.Close())
	}
	if _, err := os.Stat(path); err != nil { // the name is never made again
		return nil, errors.Join(errSwept, f.Close())
	}
	return f, nil
}

// sweep removes a folder whose lock is free. A folder that cannot be removed does no
// harm.
func sweep(path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	if Lock(f) == nil {
		_ = os.RemoveAll(path)
	}
	_ = f.Close() // only read
}

// Copy is io.Copy that ends with ctx, between two blocks.
func Copy(ctx context.Context, w io.Writer, r io.Reader) (int64, error) {
	// The bare types keep io.CopyBuffer from handing all of it to ReadFrom or
	// WriteTo, where ctx is not looked at.
	return io.CopyBuffer(struct{ io.Writer }{w}, Reader(ctx, r), make([]byte, 256<<10))
}

// Reader is r until ctx is done, and then ctx's error.
func Reader(ctx context.Context, r io.Reader) io.Reader { return reader{ctx, r} }

type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
