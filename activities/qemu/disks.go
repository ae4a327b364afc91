package qemu

import (
	"fmt"
	"path/filepath"
	"regexp"

	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// Disk is one data disk; either Path or Size is given.
type Disk struct {
	// Name is the name of the block device that a Solo5 kernel asks for. A disk
	// without a name is bound to the first device that is left. A name of at most
	// 20 characters is also the disk's serial number.
	Name string `json:"name,omitempty"`
	// Path is a raw image or a block device on the worker's host, as "/var/lib/data.img".
	// Morgana never removes it. A disk that is not readonly belongs to one machine at a
	// time: destroy the old machine before you deploy a change.
	Path string `json:"path,omitempty"`
	// Size is the size of a new, empty disk, as "64MiB", instead of path. Each
	// rollout makes a new one; destroy removes it.
	Size string `json:"size,omitempty" example:"64MiB"`
	// ReadOnly is whether the machine may only read the disk.
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
			return step.Invalid(field+".name", deviceNames, "%q is no name of a disk", d.Name)
		case (d.Path == "") == (d.Size == ""):
			return step.Invalid(field, `path: /a/file/of/the/host, or size: "64MiB" for a new one`, "a disk has either a path or a size")
		case d.Path != "" && !filepath.IsAbs(d.Path):
			return step.Invalid(field+".path", "an absolute path on the worker's host", "%q is no absolute path", d.Path)
		case d.Size != "" && d.ReadOnly:
			return step.Invalid(field+".readonly", "leave it out", "a new, empty disk that cannot be written to is of no use")
		}
		for j, other := range s.Disks[:i] {
			switch {
			case d.Name != "" && d.Name == other.Name:
				return step.Invalid(field+".name", "", "there is another disk named %q", d.Name)
			case d.Path != "" && filepath.Clean(d.Path) == other.Path && (!d.ReadOnly || !other.ReadOnly):
				return step.Invalid(field+".path", "readonly: true on both, or another path", "%s is disks[%d].path too", d.Path, j)
			}
		}
		if d.Path != "" {
			d.Path = filepath.Clean(d.Path)
			continue
		}
		var err error
		if d.size, err = disk.ParseSize(field+".size", d.Size); err != nil {
			return err
		}
	}
	return nil
}

// makeDisks makes the disks that have a size.
func makeDisks(m machine.Machine, disks []Disk) error {
	for i, d := range disks {
		if d.Size == "" {
			continue
		}
		if err := m.MakeDisk(dataDisk(i), d.size, fmt.Sprintf("disks[%d].size", i), d.Size); err != nil {
			return err
		}
	}
	return nil
}
