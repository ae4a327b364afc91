package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/step"
)

const blockSize = 512 // of Solo5's and Linux's block devices

// takeBlocks opens the user's files and devices and locks them (flock), for two
// machines that write to one file system destroy it. It is the file that is
// locked, under whatever name, and for machines of other rooms as well. Whoever
// has what is returned has the locks; with an error it is to be closed as well.
func takeBlocks(ctx context.Context, blocks []Block) (taken []*os.File, err error) {
	type block struct {
		field string
		info  fs.FileInfo
	}
	var seen []block
	for i, b := range blocks {
		if b.Path == "" {
			continue
		}
		field := fmt.Sprintf("blocks[%d].path", i)
		f, info, err := b.open(field)
		if err != nil {
			return taken, err
		}
		taken = append(taken, f)
		for _, other := range seen {
			if sameBlocks(info, other.info) {
				return taken, invalid(field, "another file, or one block device less", "%s is the file of %s too", b.Path, other.field)
			}
		}
		seen = append(seen, block{field, info})
		if err := b.lock(ctx, f, field); err != nil {
			return taken, err
		}
	}
	return taken, nil
}

// sameBlocks reports whether two files have the same bytes: they are one, or two
// nodes of one device.
func sameBlocks(a, b fs.FileInfo) bool {
	if os.SameFile(a, b) {
		return true
	}
	one, ok := a.Sys().(*syscall.Stat_t)
	other, same := b.Sys().(*syscall.Stat_t)
	return ok && same && a.Mode()&b.Mode()&fs.ModeDevice != 0 && one.Rdev == other.Rdev
}

// open opens a file that can be a block device.
func (b Block) open(field string) (*os.File, fs.FileInfo, error) {
	// To open some devices is to use them.
	info, err := os.Stat(b.Path)
	if err == nil && !info.Mode().IsRegular() && (info.Mode()&fs.ModeDevice == 0 || info.Mode()&fs.ModeCharDevice != 0) {
		return nil, nil, invalid(field, "a file, or a device as /dev/vg0/data", "%s is neither a file nor a block device", b.Path)
	}
	var f *os.File
	if err == nil {
		f, err = os.OpenFile(b.Path, os.O_RDWR, 0)
	}
	if err != nil {
		return nil, nil, b.refused(field, err)
	}
	if err := b.fits(f, field); err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

// refused gives the errors of opening a file their kind: what the user can mend,
// and what may pass by itself.
func (b Block) refused(field string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return failed(step.NotFound, field, "make it on the worker's host, or give size: for an empty one", "there is no %s", b.Path)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		return failed(step.Unauthorized, field, "let the worker's user read and write it", "%w", err)
	}
	return &step.Error{Field: field, Err: err}
}

func (b Block) fits(f *os.File, field string) error {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return &step.Error{Field: field, Err: err}
	}
	if size < blockSize || size%blockSize != 0 {
		return invalid(field, fmt.Sprintf("truncate -s %%%d FILE", blockSize), "%s has %d bytes, not a number of blocks of %d", b.Path, size, blockSize)
	}
	return nil
}

// lock locks the file, or says that another machine has it.
func (b Block) lock(ctx context.Context, f *os.File, field string) error {
	again := time.NewTicker(tick)
	defer again.Stop()
	for began := time.Now(); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil:
			return nil
		case !errors.Is(err, unix.EWOULDBLOCK):
			return &step.Error{Field: field, Err: os.NewSyscallError("flock", err)}
		case time.Since(began) > blockPatience:
			return failed(step.Conflict, field, "destroy the machine that has it first: morgana destroy", "another machine has %s", b.Path)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-again.C:
		}
	}
}
