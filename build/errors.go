package build

import (
	"errors"
	"syscall"

	"github.com/morgana-deploy/morgana/step"
)

// failed makes an Error of err, keeping the kind that it has. A full disk is
// told apart from passing trouble; folder is where it was met.
func failed(op, folder string, err error) *step.Error {
	e := &step.Error{Op: op, Err: err}
	var inner *step.Error
	switch {
	case errors.As(err, &inner):
		e.Kind, e.Hint, e.Left = inner.Kind, inner.Hint, inner.Left
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Kind, e.Hint, e.Err = step.NoSpace, noSpaceHint(folder), cause(err)
	}
	return e
}

func noSpaceHint(folder string) string { return "make room on the disk that holds " + folder }

// diskFull reports whether the disk of folder has (nearly) no room. A compiler
// says so only in its own words.
func diskFull(folder string) bool {
	const few = 64 << 10
	var fs syscall.Statfs_t
	if syscall.Statfs(folder, &fs) != nil {
		return false
	}
	return fs.Bavail*uint64(fs.Bsize) < few || fs.Files > 0 && fs.Ffree == 0
}
