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

// resolve gives the database file its one true name, symbolic links followed,
// so that the lock next to it is the same however the file is called.
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

// lock takes the exclusive lock of a database, in <db>.lock, and returns what
// gives it back. SQLite alone would let two servers share the file, and each
// would believe that it owns every history shard. The lock dies with the
// process, so kill -9 leaves none; the file stays, because removing it could
// take it away from under another process that has just opened it.
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
