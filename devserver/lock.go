package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// resolve follows symbolic links to the database file, so that the lock beside
// it is the same whichever name was given.
func resolve(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", inputError{err}
	}
	if target, err := filepath.EvalSymlinks(abs); err == nil {
		info, err := os.Stat(target)
		switch {
		case err != nil:
			return "", inputError{err}
		case !info.Mode().IsRegular():
			return "", inputErrorf("--db %s is not a regular file", path)
		}
		return target, nil
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return "", inputErrorf("the folder of --db %s: %w", path, err)
	}
	return filepath.Join(dir, filepath.Base(abs)), nil
}

// checkFolder refuses a folder in which another user could put a symbolic link
// in the place of a file that the server writes.
func checkFolder(dir string) error {
	var info syscall.Stat_t
	if err := syscall.Stat(dir, &info); err != nil {
		return inputErrorf("the folder of --db: %w", &os.PathError{Op: "stat", Path: dir, Err: err})
	}
	switch {
	case int(info.Uid) != os.Geteuid():
		return inputErrorf("the folder of --db, %s, belongs to user %d, not to user %d: choose a folder of your own", dir, info.Uid, os.Geteuid())
	case info.Mode&0o022 != 0:
		return inputErrorf("other users may write to the folder of --db, %s: chmod go-w %s", dir, dir)
	}
	return nil
}

// lock takes the exclusive lock of a database, in <db>.lock. SQLite alone would
// let two servers share the file, and each would take itself for the owner of
// every history shard. The kernel drops the lock when the process ends. The
// file stays: another process may have just opened it.
func lock(db string) (unlock func(), err error) {
	f, err := os.OpenFile(db+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, inputError{err}
	}
	switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		defer func() { _ = f.Close() }() // only read
		return nil, inputErrorf("%s is in use by another server%s", db, holder(f))
	case err != nil:
		_ = f.Close() // nothing was written
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	if err := errors.Join(f.Truncate(0), writePid(f)); err != nil {
		_ = f.Close() // the lock goes with it
		return nil, fmt.Errorf("lock: %w", err)
	}
	return func() { _ = f.Close() }, nil // closing is unlocking; nothing is left to flush
}

func writePid(f *os.File) error {
	_, err := fmt.Fprintf(f, "%d\n", os.Getpid())
	return err
}

// holder is " (process 123)" if the lock file says so.
func holder(f *os.File) string {
	b, err := io.ReadAll(io.LimitReader(f, 20))
	if pid := strings.TrimSpace(string(b)); err == nil && pid != "" {
		return fmt.Sprintf(" (process %s)", pid)
	}
	return ""
}
