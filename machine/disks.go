package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

// diskPatience is how long to wait for a lock that another Check may hold.
const diskPatience = time.Second / 2

// Disk is a file or block device of this host that is to be a machine's disk.
type Disk struct {
	Field    string // the option that names it, as "disks[1].path"
	Path     string
	ReadOnly bool
	// Reading is the option that makes it ReadOnly, for hints, as
	// "readonly: true"; "" if the target has none.
	Reading string
	// Fits returns an error, with field, for a file that the target cannot use. Nil accepts
	// every file.
	Fits func(f *os.File, field string) error
}

// TakeDisks opens the disks for the machine of tags and locks them (flock), because two
// machines that write to one file system destroy it. A disk that is written to gets an
// exclusive lock, a read-only disk a shared lock. The lock is on the file, whatever its
// name, and holds against machines of all targets. A process that inherits the files keeps
// the locks until it ends.
//
// With sparing, a disk held by a running machine of the same deployment is accepted
// without its lock: Boot decides, because by then that machine may be gone.
//
// The files are in the order of disks. The caller closes them, also after an error. Errors
// have the disk's Field. They are NotFound, Unauthorized, Conflict if another machine has
// the disk, or InvalidSpec for a path that cannot be a disk or is given twice. An error of
// the host that may pass has no kind.
func (r *Machines) TakeDisks(ctx context.Context, tags step.Tags, disks []Disk, sparing bool) (taken []*os.File, err error) {
	var seen []fs.FileInfo
	for i, d := range disks {
		f, info, err := d.open()
		if err != nil {
			return taken, err
		}
		taken = append(taken, f)
		for j, other := range disks[:i] {
			if sameDisk(info, seen[j]) && (!d.ReadOnly || !other.ReadOnly) {
				return taken, d.failed(step.InvalidSpec, d.or("another file", " on both"), "%s is the file of %s too", d.Path, other.Field)
			}
		}
		seen = append(seen, info)
		if err := r.lockDisk(ctx, tags, d, f, info, sparing); err != nil {
			return taken, err
		}
	}
	for i, d := range disks {
		if d.Fits == nil {
			continue
		}
		if err := d.Fits(taken[i], d.Field); err != nil {
			return taken, err
		}
	}
	return taken, nil
}

// CheckDisks calls [Machines.TakeDisks] with sparing, and closes the disks.
func (r *Machines) CheckDisks(ctx context.Context, tags step.Tags, disks []Disk) error {
	taken, err := r.TakeDisks(ctx, tags, disks, true)
	for _, f := range taken {
		err = errors.Join(err, f.Close())
	}
	return err
}

func (d Disk) failed(kind step.Kind, hint, format string, args ...any) error {
	return &step.Error{Kind: kind, Field: d.Field, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// or adds a way out to hint, if there is one: the option that makes the disk read-only,
// and where to set it.
func (d Disk) or(hint, where string) string {
	if d.Reading == "" {
		return hint
	}
	return hint + "; or " + d.Reading + where
}

// open opens a file or block device, and refuses anything else.
func (d Disk) open() (*os.File, fs.FileInfo, error) {
	// Stat first: opening some character devices has effects (/dev/watchdog).
	info, err := os.Stat(d.Path)
	if err == nil && !info.Mode().IsRegular() && !blockDevice(info) {
		return nil, nil, d.failed(step.InvalidSpec, "a file, or a block device as /dev/vg0/data", "%s is neither a file nor a block device", d.Path)
	}
	how := os.O_RDWR
	if d.ReadOnly {
		how = os.O_RDONLY
	}
	var f *os.File
	if err == nil {
		f, err = os.OpenFile(d.Path, how, 0)
	}
	if err == nil {
		info, err = f.Stat() // the path may lead elsewhere by now
	}
	if err != nil {
		return nil, nil, d.refused(err)
	}
	return f, info, nil
}

// refused gives an error of opening the disk its kind. An error that may pass has none.
func (d Disk) refused(err error) error {
	verb := "write to"
	if d.ReadOnly {
		verb = "read"
	}
	var errno syscall.Errno
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return d.failed(step.NotFound, "make it: truncate -s 1G "+d.Path+"; or give a size instead, for a disk that goes with the machine", "this host has no %s", d.Path)
	case errors.Is(err, fs.ErrPermission):
		return d.failed(step.Unauthorized, "let the worker's user "+verb+" it", "the worker may not %s %s", verb, d.Path)
	case errors.Is(err, syscall.EROFS):
		return d.failed(step.InvalidSpec, d.or("a disk that can be written to", ""), "%s is on a read-only file system", d.Path)
	case !Passing(err) && errors.As(err, &errno):
		return d.failed(step.InvalidSpec, "a file, or a block device as /dev/vg0/data", "the worker cannot %s %s: %w", verb, d.Path, errno)
	}
	return &step.Error{Field: d.Field, Err: err}
}

// Passing reports whether the error may pass: the host is short of memory, files or the
// like.
func Passing(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EAGAIN, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func blockDevice(info fs.FileInfo) bool {
	return info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0
}

// sameDisk reports whether a and b are one file, or two nodes of one block device.
func sameDisk(a, b fs.FileInfo) bool {
	if os.SameFile(a, b) {
		return true
	}
	one, ok := a.Sys().(*syscall.Stat_t)
	other, same := b.Sys().(*syscall.Stat_t)
	return ok && same && blockDevice(a) && blockDevice(b) && one.Rdev == other.Rdev
}

// lockDisk locks an open disk. Its error names the machine that has the lock, if that is
// known.
func (r *Machines) lockDisk(ctx context.Context, tags step.Tags, d Disk, f *os.File, info fs.FileInfo, sparing bool) error {
	lock := files.Lock
	if d.ReadOnly {
		lock = files.LockShared
	}
	for began := time.Now(); ; {
		late := time.Since(began) > r.patience
		err := lock(f)
		if err == nil {
			return nil
		}
		if !errors.Is(err, files.ErrLocked) {
			return &step.Error{Field: d.Field, Err: err}
		}
		holder := r.holder(func(file, _ string) bool {
			open, err := os.Stat(file)
			return err == nil && sameDisk(open, info)
		})
		switch {
		case holder != nil && sparing && holder.deployedAs(tags):
			return nil
		case holder != nil:
			return d.failed(step.Conflict, d.or(destroyOf(holder.Tags), " on both"), "the running machine %s has %s", holder.Name(), d.Path)
		case late:
			return d.failed(step.Conflict, d.or("end it first: morgana destroy, if it is a machine", " on both"), "another machine or program has %s", d.Path)
		}
		if err := step.Pause(ctx, tick); err != nil {
			return err
		}
	}
}

// MakeDisk makes an empty, sparse disk in the machine's folder. field and size are the
// option and its text, for the error of a disk that is too large.
func (m Machine) MakeDisk(name string, bytes int64, field, size string) error {
	f, err := os.OpenFile(m.File(name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return TooBig(errors.Join(f.Truncate(bytes), f.Close()), filepath.Dir(m.Path), field, size)
}

// TooBig turns EFBIG, a file too large for the file system of folder, into an
// InvalidSpec that names field and size. Other errors pass unchanged.
func TooBig(err error, folder, field, size string) error {
	if !errors.Is(err, syscall.EFBIG) {
		return err
	}
	return step.Invalid(field, "a smaller one, or a state folder on another file system (xfs has files of 8 EiB)", "the file system of %s has no files of %s", folder, size)
}
