package disk

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/morgana-deploy/morgana/step"
)

const (
	biosPlatform = "i386-pc"
	uefiPlatform = "x86_64-efi"
	coreName     = "core.img"
)

// modulesOf returns the modules of GRUB that grub.cfg uses. All must be in the core image,
// because the disk has none.
func modulesOf(platform string, abi string) []string {
	all := []string{"normal", "configfile", "boot", "echo", "halt", "serial", "terminal", "gzio", "xzio", loaders[abi].kernel}
	if loaders[abi].before != "" {
		all = append(all, "iorw") // has outb
	}
	if platform == biosPlatform {
		return append(all, "biosdisk", "part_msdos", "ext2")
	}
	// UEFI has no text mode for a kernel. Without a frame buffer GRUB warns.
	return append(all, "part_gpt", "fat", "efi_gop")
}

// makeCore runs grub-mkimage. prefix is the folder of grub.cfg on the disk from which the
// core image starts.
func (w *work) makeCore(ctx context.Context, platform, prefix, out, abi string) error {
	modules := modulesOf(platform, abi)
	slices.Sort(modules)
	args := []string{"-d", filepath.Join(w.grub, platform), "-O", platform, "-p", prefix, "-o", out}
	return w.run(ctx, "grub-mkimage", append(args, modules...)...)
}

// embedGRUB writes GRUB's core image into the gap before the first partition. It
// returns the first sector, whose boot code loads the core image.
func (w *work) embedGRUB(ctx context.Context, b Boot) ([]byte, error) {
	if err := w.makeCore(ctx, biosPlatform, "(,msdos1)/boot/grub", coreName, b.ABI); err != nil {
		return nil, err
	}
	core, err := os.ReadFile(w.file(coreName))
	if err != nil {
		return nil, w.fail(opWrite, err)
	}
	if gap := partitionStart - sectorSize; len(core) > gap {
		return nil, &step.Error{Kind: step.Unsupported, Op: "run grub-mkimage",
			Err: fmt.Errorf("GRUB's core image has %d bytes; the gap before the partition has %d", len(core), gap)}
	}
	boot, err := os.ReadFile(filepath.Join(w.grub, biosPlatform, "boot.img"))
	if err != nil {
		return nil, w.fail(opWrite, err)
	}
	if len(boot) != sectorSize {
		return nil, &step.Error{Kind: step.Unsupported, Op: opWrite, Err: fmt.Errorf("GRUB's boot.img has %d bytes, not a sector", len(boot))}
	}
	// boot.img loads sector 1, and sector 1 loads the rest of the core image from sector
	// 2 on, so the image can be used unchanged. Only boot.img gets two NOPs, as
	// grub-bios-setup writes them for a hard disk. Without them it may change the drive
	// number that the BIOS gave it.
	copy(boot[driveCheck:], []byte{0x90, 0x90})
	return boot, w.put(core, sectorSize)
}

// driveCheck is where boot.img corrects the drive number of a floppy
// (GRUB_BOOT_MACHINE_DRIVE_CHECK).
const driveCheck = 0x66
