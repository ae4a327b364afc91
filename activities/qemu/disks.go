package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// Disk is a disk of the machine's, beside the one it boots from.
type Disk struct {
	// Name binds it to the block device of that name which a Solo5 kernel asks
	// for, and is its serial number if it has at most 20 characters. A disk
	// without a name takes the first block device that is left.
	Name string `json:"name,omitempty"`
	// Path is a raw image or a block device that is on the worker's host, as
	// "/var/lib/data.img". It is never removed. One that is not ReadOnly belongs
	// to one machine at a time: before another rollout the machine that has it
	// must be destroyed.
	Path string `json:"path,omitempty"`
	// Size is that of a new, empty disk, as "64MiB", instead of Path. It lives as
	// long as the machine: every rollout has a new one, and destroy removes it.
	Size string `json:"size,omitempty"`
	// ReadOnly keeps the machine from writing to it.
	ReadOnly bool `json:"readonly,omitempty"`

	size int64
}

var (
	// deviceForm is Solo5's rule for names, which is a sane one for others too.
	deviceForm   = regexp.MustCompile(`^[A-Za-z0-9]{1,67}$`)
	dataDiskForm = regexp.MustCompile(`^disk[0-9]+\.raw$`)
)

const deviceNames = "1 to 67 letters and digits"

// dataDisk is the file of disks[i] in the machine's folder, if it has a size.
func dataDisk(i int) string { return fmt.Sprintf("disk%d.raw", i) }

func (s *settings) readDisks() error {
	for i := range s.Disks {
		d := &s.Disks[i]
		field := fmt.Sprintf("disks[%d]", i)
		switch {
		case d.Name != "" && !deviceForm.MatchString(d.Name):
			return invalid(field+".name", deviceNames, "%q is no name of a disk", d.Name)
		case (d.Path == "") == (d.Size == ""):
			return invalid(field, `path: /a/file/of/the/host, or size: "64MiB" for a new one`, "a disk has either a path or a size")
		case d.Path != "" && !filepath.IsAbs(d.Path):
			return invalid(field+".path", "an absolute path on the worker's host", "%q is no absolute path", d.Path)
		case d.Size != "" && d.ReadOnly:
			return invalid(field+".readonly", "leave it out", "a new, empty disk that cannot be written to is of no use")
		}
		for j, other := range s.Disks[:i] {
			switch {
			case d.Name != "" && d.Name == other.Name:
				return invalid(field+".name", "", "there is another disk named %q", d.Name)
			case d.Path != "" && filepath.Clean(d.Path) == other.Path && (!d.ReadOnly || !other.ReadOnly):
				return invalid(field+".path", "readonly: true on both, or another path", "disks[%d] has this path too", j)
			}
		}
		if d.Path != "" {
			d.Path = filepath.Clean(d.Path)
			continue
		}
		var err error
		if d.size, err = parseSize(field+".size", d.Size); err != nil {
			return err
		}
	}
	return nil
}

// checkDisks says whether the machine can have its disks that are there
// already. Machines of the same deployment that have one are overlooked if
// sparing: nothing says yet that they must live together.
func (t *Target) checkDisks(tags step.Tags, disks []Disk, sparing bool) error {
	for i, d := range disks {
		if d.Path == "" {
			continue
		}
		field := fmt.Sprintf("disks[%d].path", i)
		if err := d.check(field); err != nil {
			return err
		}
		if err := t.checkWriters(tags, d, field, sparing); err != nil {
			return err
		}
	}
	return nil
}

// check opens the disk as QEMU will.
func (d Disk) check(field string) error {
	info, err := os.Stat(d.Path)
	if err == nil && !info.Mode().IsRegular() && !blockDevice(info) {
		return invalid(field, "a raw image, or a block device", "%s is neither a file nor a block device", d.Path)
	}
	how, verb := os.O_RDWR, "write to"
	if d.ReadOnly {
		how, verb = os.O_RDONLY, "read"
	}
	var f *os.File
	if err == nil {
		f, err = os.OpenFile(d.Path, how, 0)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &step.Error{Kind: step.NotFound, Field: field, Err: fmt.Errorf("this host has no %s", d.Path),
			Hint: `make it: truncate -s 1G ` + d.Path + `; or give a size instead, for a disk that goes with the machine`}
	case errors.Is(err, fs.ErrPermission):
		return &step.Error{Kind: step.Unauthorized, Field: field, Err: fmt.Errorf("the worker may not %s %s", verb, d.Path),
			Hint: "let the worker's user " + verb + " it"}
	case err != nil:
		return &step.Error{Field: field, Err: err}
	}
	defer f.Close() //nolint:errcheck // only read
	head := make([]byte, 4)
	n, err := f.ReadAt(head, 0)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return &step.Error{Field: field, Err: err}
	case n == 0:
		return invalid(field, "give it a size: truncate -s 1G "+d.Path, "%s is empty", d.Path)
	case bytes.Equal(head[:n], []byte("QFI\xfb")):
		return invalid(field, "qemu-img convert -O raw "+d.Path+" disk.raw", "%s is a qcow2 image, not a raw one", d.Path)
	}
	return nil
}

func blockDevice(info fs.FileInfo) bool {
	return info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0
}

// checkWriters refuses a disk that a running machine of ours has, unless both
// only read. QEMU locks a disk too, and would say less.
func (t *Target) checkWriters(tags step.Tags, d Disk, field string, sparing bool) error {
	all, err := t.room.All(func(have step.Tags) bool {
		return have != tags && (!sparing || have.App != tags.App || have.Target != tags.Target)
	})
	if err != nil {
		return err
	}
	for _, m := range all {
		pid, err := m.Pid()
		if err != nil {
			return err
		}
		rec, err := m.Record()
		if pid == 0 || step.KindOf(err) == step.NotFound {
			continue
		}
		if err != nil {
			return err
		}
		s, err := read(rec.Options)
		if err != nil {
			continue // not of our making
		}
		for _, other := range s.Disks {
			if other.Path == d.Path && (!d.ReadOnly || !other.ReadOnly) {
				return &step.Error{Kind: step.Conflict, Field: field, Err: fmt.Errorf("the running machine %s has %s", m.Name(), d.Path),
					Hint: fmt.Sprintf("destroy %s on target %s first; or readonly: true on both", m.Tags.App, m.Tags.Target)}
			}
		}
	}
	return nil
}

// makeDisks makes those that live as long as the machine. They are sparse.
func makeDisks(m machine.Machine, disks []Disk) error {
	for i, d := range disks {
		if d.Size == "" {
			continue
		}
		f, err := os.OpenFile(m.File(dataDisk(i)), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Truncate(d.size), f.Close()); err != nil {
			return &step.Error{Field: fmt.Sprintf("disks[%d].size", i), Err: err}
		}
	}
	return nil
}
