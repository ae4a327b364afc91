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

// modulesOf are the modules of GRUB that its grub.cfg uses; a missing one would
// be looked for on the disk, where there are none.
func modulesOf(platform string, abi string) []string {
	all := []string{"normal", "configfile", "boot", "echo", "halt", "serial", "terminal", "gzio", "xzio", loaders[abi].kernel}
	if platform == biosPlatform {
		return append(all, "biosdisk", "part_msdos", "ext2")
	}
	// Firmware has no text mode for a kernel: it gets a frame buffer, or a warning.
	return append(all, "part_gpt", "fat", "efi_gop")
}

// makeCore runs grub-mkimage. GRUB takes the disk it was started from, and adds
// the prefix; there it reads grub.cfg.
func (w *work) makeCore(ctx context.Context, platform, prefix, out, abi string) error {
	modules := modulesOf(platform, abi)
	slices.Sort(modules)
	args := []string{"-d", filepath.Join(w.grub, platform), "-O", platform, "-p", prefix, "-o", out}
	return w.run(ctx, "grub-mkimage", append(args, modules...)...)
}

// embedGRUB writes GRUB's core image into the gap before the first partition, and
// gives the first sector, whose boot code loads it.
func (w *work) embedGRUB(ctx context.Context, b Boot) ([]byte, error) {
	if err := w.makeCore(ctx, biosPlatform, "(,msdos1)/boot/grub", coreName, b.ABI); err != nil {
		return nil, err
	}
	core, err := os.ReadFile(w.file(coreName))
	if err != nil {
		return nil, w.fail(opWrite, err)
	}
	if room := partitionStart - sectorSize; len(core) > room {
		return nil, &step.Error{Kind: step.Unsupported, Op: "run grub-mkimage",
			Err: fmt.Errorf("GRUB's core image has %d bytes, and there is room for %d", len(core), room)}
	}
	boot, err := os.ReadFile(filepath.Join(w.grub, biosPlatform, "boot.img"))
	if err != nil {
		return nil, w.fail(opWrite, err)
	}
	if len(boot) != sectorSize {
		return nil, &step.Error{Kind: step.Unsupported, Op: opWrite, Err: fmt.Errorf("GRUB's boot.img has %d bytes, not a sector", len(boot))}
	}
	// boot.img loads sector 1, and the core image's own first sector the rest of
	// it from sector 2 on: both are made so. As grub-bios-setup does for a hard
	// disk, the drive number that the BIOS gives is taken as it is.
	copy(boot[driveCheck:], []byte{0x90, 0x90})
	return boot, w.put(core, sectorSize)
}

// driveCheck is where boot.img corrects the drive number of a floppy
// (GRUB_BOOT_MACHINE_DRIVE_CHECK).
const driveCheck = 0x66
