// Package disk makes boot images: a raw disk with a file system, a kernel and
// what a boot loader reads, without root, mounts or loop devices.
//
// [Write] makes one, [Pack] and [Unpack] keep its holes when it travels.
//
// It runs grub-mkimage and mtools, with an environment of their own. Partition
// tables and ext2 are written here: their bytes depend on nothing of the host, and
// large files are copied once.
package disk

import (
	"context"
	"fmt"
	"os"

	"github.com/morgana-deploy/morgana/step"
)

// Layout is what a disk looks like and who boots it.
type Layout string

// The layouts. The first two are for a boot loader that is not on the disk, and
// are named as its menu.lst names the file system: pv-grub on EC2 comes as hd0
// and as hd00, and boots only its own kind.
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

// Boot is what a disk boots.
type Boot struct {
	// Kernel is the path of the kernel's file. It becomes /boot/kernel as it is,
	// plain or compressed.
	Kernel string
	// ABI is how the boot loader starts it: what image.Supports gives for
	// "pv-grub" (Whole, Partition) or "grub" (BIOS, UEFI).
	ABI string
	// Args is the kernel's command line. A multiboot 1 kernel gets "/boot/kernel"
	// in front, as from other loaders; Linux gets GRUB's BOOT_IMAGE.
	//
	// From menu.lst it arrives byte by byte, but for blanks in front. From grub.cfg
	// too, unless it has quotes or backslashes: GRUB 2 quotes anew, so that
	// --hello="Hello World" arrives as "--hello=Hello World", and a ' as \'.
	// A newline or NUL is InvalidSpec, as is what menu.lst or GRUB cannot pass on.
	Args string
	// Modules are loaded in this order: the initrds of Linux, the modules of
	// multiboot, the SIF_MULTIBOOT_MOD modules of a Xen PV kernel. GRUB does not
	// unpack them.
	Modules []Module
}

// Module is a file that the boot loader loads with the kernel.
type Module struct {
	// Path is where the file is.
	Path string
	// Name is its name in /boot: up to 64 letters, digits and "._+-", unlike the
	// other names whatever the case; "" is "module" and its index. The kernel
	// finds "/boot/NAME" as the first word of the module's string.
	Name string
	// Args are the rest of the module's string. Linux's initrds have none.
	Args string
}

const (
	mebi       = 1 << 20
	sectorSize = 512
	// maxSize is the largest disk that is written, packed or unpacked.
	maxSize = 8 << 40
	// partitionStart is where everybody puts the first partition. GRUB's core
	// image is in the gap in front of it.
	partitionStart = mebi
)

// Write makes a raw disk image at path, sparse, and replaces what was there when
// it is whole; the folder must exist. Its size is what the content needs or
// minSize bytes, the larger, rounded up to 1 MiB; 0 is as small as it may be.
// What is beyond the content is unallocated, so it costs nothing.
//
// The bytes depend on the layout, the content and the versions of the tools, and
// on nothing else of the host.
//
// Errors: InvalidSpec with Field "size" if minSize is not 0 and too small, with
// Field "args" or "modules[i]..." for what the boot loader could not pass on;
// NotFound with Field "kernel" or "modules[i]"; Unsupported if the layout cannot
// start the ABI or a tool is missing; NoSpace. Nothing is left after an error. What
// a process that is killed leaves next to path (.disk-NAME-*) is removed by the
// next that writes or unpacks there.
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

// sizeOf gives the size of a disk that needs this much.
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
