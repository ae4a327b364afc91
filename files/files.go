// Package files writes files atomically, locks them, opens files that users name, and
// makes scratch folders. Locks are those of flock(2): the kernel releases a lock when the
// last copy of its descriptor is closed, as by the end of a killed process.
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

// Write replaces a file (mode 0600) atomically, even at a power cut. When it returns, the
// file and its name are synced to disk.
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

// Sync syncs a file, or the names in a folder, to disk.
func Sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// SyncTree syncs all files and folders in a folder to disk. It follows no links.
func SyncTree(folder string) error {
	return filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() && !e.Type().IsRegular() {
			return err
		}
		return Sync(path)
	})
}

// ErrLocked says that the lock is taken.
var ErrLocked = errors.New("another has the lock")

// Lock takes the exclusive lock of an open file, or fails at once with [ErrLocked].
// Closing the file releases the lock, unless a child process inherited the file.
func Lock(f *os.File) error { return flock(f, unix.LOCK_EX) }

// LockShared is [Lock] with the shared lock.
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

// Scratch makes a scratch folder in parent and locks it. done removes the folder and
// releases the lock. Before that, Scratch removes the folders of killed processes: those
// that have a free lock and a name for which left returns true. On a file system without
// locks it removes none.
func Scratch(parent, prefix string, left func(name string) bool) (path string, done func() error, err error) {
	entries, _ := os.ReadDir(parent) // after an error no old folder is removed
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

// hold locks a folder that was just made. It returns errSwept if another process has
// locked or removed it.
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
	if _, err := os.Stat(path); err != nil { // removed before it was locked
		return nil, errors.Join(errSwept, f.Close())
	}
	return f, nil
}

// sweep removes a folder whose lock is free. Errors do not matter: the folder does no
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

// Copy is [io.Copy] that ends with ctx's error once ctx is done. It checks ctx before
// each block of 256 KiB.
func Copy(ctx context.Context, w io.Writer, r io.Reader) (int64, error) {
	// The struct hides ReadFrom, which would choose its own block size.
	return io.CopyBuffer(struct{ io.Writer }{w}, Reader(ctx, r), make([]byte, 256<<10))
}

// Reader returns a reader of r whose Read returns ctx's error once ctx is done.
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
