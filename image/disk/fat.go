package disk

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"time"
)

const (
	// fat32Clusters is the least number of clusters of FAT32. UEFI (2.10, 13.3)
	// wants FAT32 on a disk that is not removable.
	fat32Clusters = 65525
	fatReserved   = 32 // sectors in front of the first FAT
	maxCluster    = 32 << 10
)

// fat is the geometry of a FAT32 file system.
type fat struct {
	cluster  int64 // bytes
	clusters int64
}

// newFAT chooses the largest clusters with which the content still fills a FAT32 file
// system, because large clusters are read faster.
func newFAT(c content) fat {
	best := fat{cluster: sectorSize}
	best.clusters = best.count(c)
	for size := best.cluster * 2; size <= maxCluster; size *= 2 {
		f := fat{cluster: size}
		if f.clusters = f.count(c); f.clusters < fat32Clusters {
			break
		}
		best = f
	}
	// Drivers differ by a few clusters on where FAT32 begins.
	best.clusters = max(best.clusters, fat32Clusters) + 16
	return best
}

func (f fat) count(c content) int64 {
	n := int64(1 + len(c.dirs)) // the root folder, and one cluster for each folder
	var entries int64
	for _, file := range c.files {
		n += ceil(file.size, f.cluster)
		// One entry has the short name, each other 13 letters of the long one.
		entries += 32 * (1 + ceil(int64(len(path.Base(file.name))), 13))
	}
	return n + ceil(entries, f.cluster)
}

// size is the partition's size in bytes.
func (f fat) size() int64 {
	table := ceil((f.clusters+2)*4, sectorSize)
	return roundUp((fatReserved+2*table)*sectorSize+f.clusters*f.cluster, mebi)
}

// writeUEFI makes the disk of layout UEFI.
func (w *work) writeUEFI(ctx context.Context, b Boot, minSize int64) error {
	if err := w.copyRoot(ctx); err != nil {
		return err
	}
	// A prefix without a device is on the partition that GRUB was started from.
	if err := w.makeCore(ctx, uefiPlatform, "/boot/grub", rootName+"/EFI/BOOT/BOOTX64.EFI", b.ABI); err != nil {
		return err
	}
	const loader = "EFI/BOOT/BOOTX64.EFI" // the default of UEFI firmware
	info, err := os.Stat(w.rooted(loader))
	if err == nil {
		err = w.date(loader)
	}
	if err != nil {
		return w.fail(opWrite, err)
	}
	w.files = append(w.files, staged{name: loader, size: info.Size()})

	f := newFAT(w.content)
	size, err := sizeOf(partitionStart+f.size()+gptTail, minSize)
	if err != nil {
		return err
	}
	g := gpt{disk: w.identity("disk"), part: w.identity("partition"), size: size,
		start: partitionStart / sectorSize, sectors: f.size() / sectorSize, name: "EFI system partition"}
	if err := w.create(size); err != nil {
		return err
	}
	if err := w.formatFAT(ctx, f); err != nil {
		return err
	}
	if err := w.put(g.head(), 0); err != nil {
		return err
	}
	return w.put(g.tail(), size-int64(len(g.tail())))
}

// rootName is a folder in the work folder. mtools copies its files to the disk.
const rootName = "root"

func (w *work) rooted(name string) string { return filepath.Join(w.dir, rootName, name) }

// copyRoot copies the content into the root folder and sets the files' times, which
// mtools takes over.
func (w *work) copyRoot(ctx context.Context) error {
	for _, dir := range append([]string{""}, w.dirs...) {
		if err := os.Mkdir(w.rooted(dir), 0o755); err != nil {
			return w.fail(opWrite, err)
		}
	}
	for _, f := range w.files {
		out, err := os.Create(w.rooted(f.name))
		if err != nil {
			return w.fail(opWrite, err)
		}
		err = w.copy(ctx, out, f)
		if closed := out.Close(); err == nil {
			err = w.fail(opWrite, closed)
		}
		if err == nil {
			err = w.fail(opWrite, w.date(f.name))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *work) date(name string) error {
	return os.Chtimes(w.rooted(name), time.Unix(epoch, 0), time.Unix(epoch, 0))
}

// formatFAT makes the file system and copies the content to it in a fixed order.
func (w *work) formatFAT(ctx context.Context, f fat) error {
	image := fmt.Sprintf("%s@@%d", imageName, partitionStart)
	const heads, sectors = 255, 63 // of the disk's geometry, which no loader reads
	err := w.run(ctx, "mformat", "-i", image, "-F", "-T", fmt.Sprint(f.size()/sectorSize),
		"-h", fmt.Sprint(heads), "-s", fmt.Sprint(sectors), "-H", fmt.Sprint(partitionStart/sectorSize),
		"-c", fmt.Sprint(f.cluster/sectorSize), "-N", fmt.Sprintf("%08x", w.serial()), "::")
	if err != nil {
		return err
	}
	for _, dir := range w.dirs {
		if err := w.run(ctx, "mmd", "-i", image, "::/"+dir); err != nil {
			return err
		}
	}
	for _, file := range w.files {
		if err := w.run(ctx, "mcopy", "-m", "-i", image, rootName+"/"+file.name, "::/"+file.name); err != nil {
			return err
		}
	}
	return nil
}
