package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/morgana-deploy/morgana/step"
)

// ownFolder refuses a state folder that is another user's or that others may write to:
// they could replace a file by a symbolic link. A missing folder is accepted.
func ownFolder(path string) error {
	bad := func(hint string, err error) error {
		return &step.Error{Kind: step.Unauthorized, Op: "use state folder " + path, Err: err, Hint: hint}
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR): // if it cannot be made, that is an error later
		return nil
	case err != nil:
		return bad("set MORGANA_STATE to a folder of your own", errors.Unwrap(err))
	}
	if !info.IsDir() {
		return bad("set MORGANA_STATE to a folder of your own", errors.New("it is not a folder"))
	}
	if owner := int(info.Sys().(*syscall.Stat_t).Uid); owner != os.Geteuid() {
		return bad("run as that user, or set MORGANA_STATE to a folder of your own",
			fmt.Errorf("it belongs to user %d, not to user %d", owner, os.Geteuid()))
	}
	if info.Mode().Perm()&0o022 != 0 {
		return bad("chmod go-w "+path+", or set MORGANA_STATE to a folder of your own", errors.New("other users may write to it"))
	}
	return nil
}
