package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/morgana-deploy/morgana/step"
)

// ownFolder refuses a state folder that is another user's, or that others may replace or
// write to: they could put a symbolic link in the place of a file. A missing folder is
// accepted if no other user can replace it.
func ownFolder(path string) error {
	bad := func(hint, format string, args ...any) error {
		return &step.Error{Kind: step.Unauthorized, Op: "use state folder " + path, Err: fmt.Errorf(format, args...),
			Hint: hint + "set MORGANA_STATE to a folder of your own"}
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR): // if it cannot be made, that is an error later
	case err != nil:
		return bad("", "%w", errors.Unwrap(err))
	case !info.IsDir():
		return bad("", "it is not a folder")
	case int(info.Sys().(*syscall.Stat_t).Uid) != os.Geteuid():
		return bad("run as that user, or ", "it belongs to user %d, not to user %d", info.Sys().(*syscall.Stat_t).Uid, os.Geteuid())
	case info.Mode().Perm()&0o022 != 0:
		return bad("chmod go-w "+path+", or ", "other users may write to it")
	}
	whole, err := filepath.EvalSymlinks(path)
	if err != nil {
		whole = path // it is missing
	}
	for _, at := range []string{path, whole} {
		for at != filepath.Dir(at) {
			at = filepath.Dir(at)
			// In a sticky folder, as /tmp, only the owner of an entry can replace it.
			info, err := os.Stat(at)
			if err == nil && info.IsDir() && info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
				return bad("chmod o-w "+at+", or ", "other users may write to %s", at)
			}
		}
	}
	return nil
}
