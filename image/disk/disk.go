// Package disk makes boot images: raw disks with a file system, a kernel and the
// files of a boot loader. It needs no root, no mounts and no loop devices.
//
// [Write] makes a disk. [Pack] turns it into an archive without its holes, and
// [Unpack] makes the disk again.
//
// Partition tables and ext2 are written here, so their bytes do not depend on the
// host. GRUB and FAT are made by grub-mkimage and mtools, which run with an
// environment of their own.
package disk

import (
	"context"
	"fmt"
	"os"

	"github.com/morgana-deploy/morgana/step"
)

// Layout is the partition table, file system and boot loader of a disk.
type Layout string

// The layouts. Whole and Partition are for pv-grub, which is not on the disk. Their names
// are the names of the file system in menu.lst. EC2 has two pv-grubs, hd0 for Whole and
// hd00 for Partition.
const (
	// Whole: ext2 from the first sector on; menu.lst says root (hd0).
	Whole Layout = "hd0"
	// Partition: an MBR and one ext2 partition; menu.lst says root (hd0,0).
	Partition Layout = "hd0,0"
	// BIOS: an MBR and one ext2 partition, with GRUB in front of it.
	BIOS Layout = "bios"
	// UEFI: a GPT and one EFI system partition (FAT32), which holds GRUB.
	UEFI Layout = "uefi"
)

// Boot is the content of a disk.
type Boot struct {
	// Kernel is the path of the kernel's file. It becomes /boot/kernel unchanged,
	// even if it is compressed.
	Kernel string
	// ABI is the ABI by which the boot loader starts the kernel. image.Supports returns
	// it for "pv-grub" (Whole, Partition), "grub" (BIOS, UEFI) or image.GRUBOnXen (BIOS).
	ABI string
	// Args is the kernel's command line. A multiboot 1 kernel gets "/boot/kernel" in
	// front, as from other loaders; Linux gets GRUB's BOOT_IMAGE.
	//
	// pv-grub drops leading blanks and passes on the rest unchanged. GRUB 2 passes on a
	// line without quotes and backslashes unchanged. It rewrites quotes and backslashes:
	// the kernel gets --hello="Hello World" as "--hello=Hello World", and ' as \'. Text
	// that the boot loader cannot pass on, such as a newline, is InvalidSpec.
	Args string
	// Modules are the initrds of Linux, the modules of multiboot, or the
	// SIF_MULTIBOOT_MOD modules of a Xen PV kernel. They are loaded in this order,
	// and not unpacked.
	Modules []Module
}

// Module is a file that the boot loader loads with the kernel.
type Module struct {
	// Path of the file.
	Path string
	// Name is the file's name in /boot: up to 64 letters, digits and "._+-", unique
	// without regard to case. "" stands for "module" and the index. The first word
	// of the module's string is "/boot/NAME".
	Name string
	// Args are the rest of the module's string. Linux's initrds have none.
	Args string
}

const (
	mebi       = 1 << 20
	sectorSize = 512
	// maxSize is the largest disk that is written, packed or unpacked.
	maxSize = 8 << 40
	// partitionStart is the offset of the first partition in bytes, the same as
	// partitioning tools use. GRUB's core image is in the gap before it.
	partitionStart = mebi
)

// Write makes a raw, sparse disk image at path. The folder must exist; a file at path is
// replaced once the image is complete. The size is minSize bytes, rounded up to 1 MiB; 0
// stands for the least that holds the content. The disk beyond the content is a hole.
//
// The bytes depend on the layout, the content and the versions of the tools only.
//
// Errors: InvalidSpec with Field "size" if minSize is too small, with Field "args" or
// "modules[i]..." for text that the boot loader cannot pass on; NotFound with Field
// "kernel" or "modules[i]"; Unsupported if no boot loader of the layout starts the
// ABI or a tool is missing; NoSpace. An error leaves no file. A killed process leaves
// a folder next to path (.disk-NAME-*), which the next Write or Unpack of the same
// path removes.
func Write(ctx context.Context, path string, l Layout, b Boot, minSize int64) error {
	return thisHost().write(ctx, path, l, b, minSize)
}

func (h host) write(ctx context.Context, path string, l Layout, b Boot, minSize int64) (err error) {
	texts, err := render(l, b)
	if err != nil {
		return err
	}
	if minSize < 0 || minSize > maxSize {
		return &step.Error{Kind: step.InvalidSpec, Op: opWrite, Field: "size",
			Err: fmt.Errorf("%d bytes is no size of a disk", minSize), Hint: "at most 8 TiB"}
	}
	if err := missing(l, h.needs(l)); err != nil {
		return err
	}
	w, err := h.newWork(path)
	if err != nil {
		return err
	}
	defer func() {
		if removed := w.done(); err == nil && removed != nil {
			err = w.fail(opWrite, removed)
		}
	}()
	if err := w.stage(l, b, texts); err != nil {
		return err
	}
	if l == UEFI {
		err = w.writeUEFI(ctx, b, minSize)
	} else {
		err = w.writeExt2(ctx, l, b, minSize)
	}
	if w.image != nil {
		if closed := w.image.Close(); err == nil {
			err = w.fail(opWrite, closed)
		}
	}
	if err != nil {
		return err
	}
	return w.fail(opWrite, os.Rename(w.file(imageName), path))
}

// sizeOf returns the size of a disk whose content takes need bytes.
func sizeOf(need, minSize int64) (int64, error) {
	need = roundUp(need, mebi)
	if need > maxSize {
		return 0, &step.Error{Kind: step.InvalidSpec, Op: opWrite, Field: "kernel",
			Err: fmt.Errorf("the content needs %d MiB", need/mebi), Hint: "a disk has at most 8 TiB"}
	}
	if minSize == 0 {
		return need, nil
	}
	if size := roundUp(minSize, mebi); size >= need {
		return size, nil
	}
	return 0, &step.Error{Kind: step.InvalidSpec, Op: opWrite, Field: "size",
		Err:  fmt.Errorf("%d bytes is too small: the content needs %d MiB", minSize, need/mebi),
		Hint: fmt.Sprintf("at least %d MiB, or leave it out", need/mebi)}
}

func roundUp(n, unit int64) int64 { return ceil(n, unit) * unit }

func ceil(n, unit int64) int64 { return (n + unit - 1) / unit }
