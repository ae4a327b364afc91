package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"
	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

// The time of an artifact's file or object is that of its last use: Put and Open renew
// it if it is older than renewAfter: in a bucket that is a copy. [Store.Remove] relies on
// it.
const renewAfter = 24 * time.Hour

// renew sets the time of an artifact to now. The error is NotFound if the artifact was
// removed meanwhile.
func (s *Store) renew(ctx context.Context, sum string) error {
	if s.folder != "" {
		// UTIME_NOW needs write permission only; a time of our own would need the owner.
		now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
		err := unix.UtimesNanoAt(unix.AT_FDCWD, s.path(sum), now, 0)
		if err == nil { // removeFile may have moved it between the look-up and the change
			_, err = os.Lstat(s.path(sum))
		}
		if errors.Is(err, fs.ErrNotExist) {
			return &step.Error{Kind: step.NotFound, Err: errors.New("it was removed")}
		}
		return err
	}
	err := s.bucket.Copy(ctx, key(sum), key(sum), &blob.CopyOptions{BeforeCopy: func(as func(any) bool) error {
		var in *s3.CopyObjectInput
		if as(&in) { // S3 refuses a copy onto itself that changes nothing
			in.MetadataDirective = types.MetadataDirectiveReplace
		}
		return nil
	}})
	if gcerrors.Code(err) == gcerrors.NotFound {
		return &step.Error{Kind: step.NotFound, Err: errors.New("it was removed")}
	}
	return err
}

// Remove removes an artifact that was not used since before, and reports whether it did.
// In a folder an artifact that is used at the same time is either kept, or missing for
// that use: then Put stores it again. A bucket has no such operation: a use in the
// milliseconds between the look and the removal is lost, and a deploy that needs the
// artifact fails with NotFound.
func (s *Store) Remove(ctx context.Context, a step.Artifact, before time.Time) (bool, error) {
	op := "remove artifact " + short(a)
	if err := s.belongs(a); err != nil {
		return false, s.fail(op, err)
	}
	if s.folder != "" {
		removed, err := s.removeFile(s.path(a.SHA256), before)
		return removed, s.fail(op, err)
	}
	is, err := s.bucket.Attributes(ctx, key(a.SHA256))
	if err == nil && is.ModTime.Before(before) {
		err = s.bucket.Delete(ctx, key(a.SHA256))
		if err == nil {
			return true, nil
		}
	}
	if gcerrors.Code(err) == gcerrors.NotFound {
		return false, nil
	}
	return false, s.fail(op, err)
}

// removeFile takes the file out of the way before it looks at its time, so that no renew
// can come between the look and the removal. The name is that of a leftover of Put.
func (s *Store) removeFile(path string, before time.Time) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	return removeOpened(f, path, before)
}

// removeOpened is removeFile for an opened file. Meanwhile another call may have removed
// that file, and Put may have stored it again: then path is another file than f.
func removeOpened(f *os.File, path string, before time.Time) (bool, error) {
	is, err := f.Stat()
	if err != nil || !is.ModTime().Before(before) {
		return false, err
	}
	// The lock keeps sweep from taking the file for a leftover.
	if errors.Is(files.Lock(f), files.ErrLocked) {
		return false, nil
	}
	aside := path + "." + hex.EncodeToString([]byte(rand.Text()[:8])) + ".tmp"
	if err := os.Rename(path, aside); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if is, err = os.Lstat(aside); err == nil && is.ModTime().Before(before) {
		return true, os.Remove(aside)
	}
	// Put may have stored it again: then both are the same.
	return false, os.Rename(aside, path)
}
