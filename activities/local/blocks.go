package local

import (
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

const blockSize = 512 // of Solo5's and Linux's block devices

// given returns the block devices that have a path, for [machine.Machines.TakeDisks].
func given(blocks []Block) (disks []machine.Disk) {
	for i, b := range blocks {
		if b.Path != "" {
			disks = append(disks, machine.Disk{Field: fmt.Sprintf("blocks[%d].path", i), Path: b.Path, Fits: fits})
		}
	}
	return disks
}

// fits refuses a file that is not a number of whole blocks.
func fits(f *os.File, field string) error {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return &step.Error{Field: field, Err: err}
	}
	if size < blockSize || size%blockSize != 0 {
		return step.Invalid(field, fmt.Sprintf("truncate -s %%%d FILE", blockSize), "%s has %d bytes, not a number of blocks of %d", f.Name(), size, blockSize)
	}
	return nil
}

// fitNames refuses a block device whose name is that of another file in the folder of a
// Linux program.
func (s *settings) fitNames() error {
	taken := append([]string{kernelFile, statusFile, logFile}, machine.OwnFiles...)
	for _, b := range s.Blocks {
		taken = append(taken, blockPrefix+b.Name)
	}
	for i, b := range s.Blocks {
		if slices.Contains(taken, b.Name) {
			return step.Invalid(fmt.Sprintf("blocks[%d].name", i), "let the program open a file of another name", "the machine's folder has a file %q of its own", b.Name)
		}
	}
	return nil
}

// makeBlocks makes the machine's block devices: files of zeros, and links to the user's. A
// MirageOS unix program has no argument for a block device: it opens the device's name in
// its working folder.
func (s *settings) makeBlocks(made machine.Machine) error {
	for i, b := range s.Blocks {
		name := blockPrefix + b.Name
		var err error
		if b.Path != "" {
			err = os.Symlink(b.Path, made.File(name))
		} else {
			err = made.MakeDisk(name, int64(b.Size)<<20, fmt.Sprintf("blocks[%d].size", i), fmt.Sprintf("%d MiB", b.Size))
		}
		if err == nil && s.ABI == image.LinuxExecutable {
			err = os.Symlink(name, made.File(b.Name))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
