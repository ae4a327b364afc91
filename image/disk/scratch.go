package disk

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// scratch makes a folder next to path, for what is to become path in one rename.
// It is locked until done removes it, which the kernel undoes for a process that
// is killed: what such a one left for the same path is removed first.
func scratch(path string) (dir string, done func() error, err error) {
	folder, name := filepath.Split(filepath.Clean(path))
	// The whole of a long name would make too long a one. What is swept for
	// another's sake is nobody's either.
	prefix := ".disk-" + name[:min(len(name), 64)] + "-"
	folder = filepath.Clean(folder)
	if entries, err := os.ReadDir(folder); err == nil {
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), prefix) {
				sweep(filepath.Join(folder, e.Name()))
			}
		}
	}
	for {
		dir, err := os.MkdirTemp(folder, prefix+"*")
		if err != nil {
			return "", nil, err
		}
		lock, err := hold(dir)
		if errors.Is(err, errSwept) {
			continue
		}
		if err != nil {
			return "", nil, errors.Join(err, os.Remove(dir))
		}
		return dir, func() error { return errors.Join(os.RemoveAll(dir), lock.Close()) }, nil
	}
}

var errSwept = errors.New("somebody took it for left behind")

// hold locks a folder that was just made. A file system without locks gives
// none; there nothing is swept.
func hold(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errSwept
	}
	if err != nil {
		return nil, err
	}
	if errors.Is(tryLock(f), syscall.EWOULDBLOCK) {
		return nil, errors.Join(errSwept, f.Close())
	}
	if _, err := os.Stat(dir); err != nil { // nobody makes the name anew
		return nil, errors.Join(errSwept, f.Close())
	}
	return f, nil
}

// sweep removes a folder that nobody holds. What it cannot remove is in nobody's
// way.
func sweep(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	if tryLock(f) == nil {
		_ = os.RemoveAll(dir)
	}
	_ = f.Close() // only read
}

func tryLock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
