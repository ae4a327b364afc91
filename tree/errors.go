package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/morgana-deploy/morgana/step"
)

// failed makes an Error of err, which keeps its kind, hint and Left. A full disk is
// NoSpace, a lack of permission Unauthorized; their hints name folder. Any other error has
// no kind.
func failed(op, folder string, err error) *step.Error {
	e := &step.Error{Op: op, Err: named(err)}
	var inner *step.Error
	switch {
	case errors.As(err, &inner):
		e.Kind, e.Hint, e.Left = inner.Kind, inner.Hint, inner.Left
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Kind, e.Hint, e.Err = step.NoSpace, noSpaceHint(folder), Cause(err)
	case errors.Is(err, fs.ErrPermission):
		e.Kind, e.Hint = step.Unauthorized, "let the worker's user write to "+folder
	}
	return e
}

// Cause is the system's error without the names of the file and the call, for texts
// that name them in other words. Other errors are returned as they are.
func Cause(err error) error {
	var path *fs.PathError
	var link *os.LinkError
	var call *os.SyscallError
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &link):
		return link.Err
	case errors.As(err, &call):
		return call.Err
	}
	return err
}

// named removes the name of the call from err, and keeps that of the file.
func named(err error) error {
	switch e := err.(type) { //nolint:errorlint // what wraps one has words of its own
	case *fs.PathError:
		return fmt.Errorf("%s: %w", e.Path, e.Err)
	case *os.LinkError:
		return fmt.Errorf("%s: %w", e.New, e.Err)
	case *os.SyscallError:
		return e.Err
	}
	return err
}

func noSpaceHint(folder string) string { return "free space on the disk that holds " + folder }

// diskFull reports whether the disk of folder is (nearly) full. A compiler says that only
// in its output.
func diskFull(folder string) bool {
	const few = 64 << 10
	var fs syscall.Statfs_t
	if syscall.Statfs(folder, &fs) != nil {
		return false
	}
	return fs.Bavail*uint64(fs.Bsize) < few || fs.Files > 0 && fs.Ffree == 0
}
