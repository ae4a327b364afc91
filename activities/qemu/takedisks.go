package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// diskPatience is how long a disk may be somebody's who looks at it only, as
// another Check does.
const diskPatience = time.Second / 2

// takeDisks opens the machine's disks that are there already and locks them
// (flock): one that is written to for nobody else, another against writers. So
// it is the file that is locked, under whatever name, and against machines of
// other rooms as well. A machine of the same deployment may have one if
// sparing: nothing says yet that they must live together.
//
// Whoever has the files has the locks. What is returned with an error is to be
// closed as well.
func (t *Target) takeDisks(ctx context.Context, tags step.Tags, disks []Disk, sparing bool) (taken []*os.File, err error) {
	seen := map[int]fs.FileInfo{}
	for i, d := range disks {
		if d.Path == "" {
			continue
		}
		field := fmt.Sprintf("disks[%d].path", i)
		f, info, err := d.open(field)
		if err != nil {
			return taken, err
		}
		taken = append(taken, f)
		for j := range i {
			if other, ok := seen[j]; ok && sameDisk(info, other) && (!d.ReadOnly || !disks[j].ReadOnly) {
				return taken, invalid(field, "readonly: true on both, or another file", "%s is the file of disks[%d].path too", d.Path, j)
			}
		}
		seen[i] = info
		if err := t.lockDisk(ctx, tags, d, f, field, sparing); err != nil {
			return taken, err
		}
	}
	return taken, nil
}

// open opens the disk as QEMU will.
func (d Disk) open(field string) (f *os.File, info fs.FileInfo, err error) {
	info, err = os.Stat(d.Path)
	if err == nil && !info.Mode().IsRegular() && !blockDevice(info) {
		return nil, nil, invalid(field, "a raw image, or a block device", "%s is neither a file nor a block device", d.Path)
	}
	how := os.O_RDWR
	if d.ReadOnly {
		how = os.O_RDONLY
	}
	if err == nil {
		f, err = os.OpenFile(d.Path, how, 0)
	}
	if err != nil {
		return nil, nil, d.refused(field, err)
	}
	head := make([]byte, 4)
	n, err := f.ReadAt(head, 0)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		err = d.refused(field, err)
	case n == 0:
		err = invalid(field, "give it a size: truncate -s 1G "+d.Path, "%s is empty", d.Path)
	case bytes.Equal(head[:n], []byte("QFI\xfb")):
		err = invalid(field, "qemu-img convert -O raw "+d.Path+" disk.raw", "%s is a qcow2 image, not a raw one", d.Path)
	default:
		return f, info, nil
	}
	return nil, nil, errors.Join(err, f.Close())
}

// refused gives the errors of opening a disk their kind. What does not pass by
// itself is the option's fault.
func (d Disk) refused(field string, err error) error {
	verb := "write to"
	if d.ReadOnly {
		verb = "read"
	}
	var errno syscall.Errno
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &step.Error{Kind: step.NotFound, Field: field, Err: fmt.Errorf("this host has no %s", d.Path),
			Hint: `make it: truncate -s 1G ` + d.Path + `; or give a size instead, for a disk that goes with the machine`}
	case errors.Is(err, fs.ErrPermission):
		return &step.Error{Kind: step.Unauthorized, Field: field, Err: fmt.Errorf("the worker may not %s %s", verb, d.Path),
			Hint: "let the worker's user " + verb + " it"}
	case errors.Is(err, syscall.EROFS):
		return invalid(field, "readonly: true, or a disk that can be written to", "%s is on a file system that is mounted read-only", d.Path)
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOMEM), errors.Is(err, syscall.EINTR):
		return &step.Error{Field: field, Err: err}
	case errors.As(err, &errno):
		return invalid(field, "a raw image, or a block device", "the worker cannot %s %s: %w", verb, d.Path, errno)
	}
	return &step.Error{Field: field, Err: err}
}

func blockDevice(info fs.FileInfo) bool {
	return info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0
}

// sameDisk reports whether two paths lead to one disk: to one file, or by two
// nodes to one block device.
func sameDisk(a, b fs.FileInfo) bool {
	if os.SameFile(a, b) {
		return true
	}
	one, ok := a.Sys().(*syscall.Stat_t)
	other, same := b.Sys().(*syscall.Stat_t)
	return ok && same && blockDevice(a) && blockDevice(b) && one.Rdev == other.Rdev
}

// lockDisk locks a disk that is open, or says who has it.
func (t *Target) lockDisk(ctx context.Context, tags step.Tags, d Disk, f *os.File, field string, sparing bool) error {
	how := syscall.LOCK_EX
	if d.ReadOnly {
		how = syscall.LOCK_SH
	}
	every := time.NewTicker(tick)
	defer every.Stop()
	for began := time.Now(); ; {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.EINTR):
			continue
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return &step.Error{Field: field, Err: &fs.PathError{Op: "flock", Path: d.Path, Err: err}}
		}
		holder, err := t.diskHolder(tags, f)
		switch {
		case err != nil:
			return err
		case holder != nil && sparing && holder.Tags.App == tags.App && holder.Tags.Target == tags.Target:
			return nil
		case holder != nil:
			return &step.Error{Kind: step.Conflict, Field: field, Err: fmt.Errorf("the running machine %s has %s", holder.Name(), d.Path),
				Hint: fmt.Sprintf("destroy %s on target %s first; or readonly: true on both", holder.Tags.App, holder.Tags.Target)}
		case time.Since(began) > diskPatience:
			return &step.Error{Kind: step.Conflict, Field: field, Err: fmt.Errorf("another machine or program has %s", d.Path),
				Hint: "end it first: morgana destroy, if it is a machine of another target; or readonly: true on both"}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-every.C:
		}
	}
}

// diskHolder is a running machine of ours that has the file as a disk, other
// than that of tags; nil if there is none.
func (t *Target) diskHolder(tags step.Tags, f *os.File) (*guest, error) {
	wanted, err := f.Stat()
	if err != nil {
		return nil, err
	}
	all, err := t.room.All(func(have step.Tags) bool { return have != tags })
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		if pid, err := m.Pid(); err != nil {
			return nil, err
		} else if pid == 0 {
			continue
		}
		rec, err := m.Record()
		if step.KindOf(err) == step.NotFound {
			continue
		} else if err != nil {
			return nil, err
		}
		s, err := read(rec.Options)
		if err != nil {
			continue // not of our making
		}
		for _, d := range s.Disks {
			if info, err := os.Stat(d.Path); err == nil && sameDisk(info, wanted) {
				return &guest{m}, nil
			}
		}
	}
	return nil, nil
}
