package disk

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/morgana-deploy/morgana/step"
)

const (
	// ext2Features are what GRUB legacy's driver reads; mke2fs's defaults are not.
	ext2Features = "none,filetype,sparse_super,large_file"
	inodeSize    = 128
	// lostFound is what mke2fs gives lost+found.
	lostFound = 16 << 10
)

// ext2 is the arithmetic of an ext2 file system.
type ext2 struct {
	block  int64 // bytes
	inodes int64
	data   int64 // blocks
}

// newExt2 counts what files and folders take. GRUB legacy reads block 0 where a
// file has a hole: with blocks of 1 KiB that is the boot block, which is zero.
// GRUB 2 knows holes, and bigger blocks are made faster.
func newExt2(l Layout, c content) ext2 {
	e := ext2{block: 1024, inodes: 12} // 10 are reserved, lost+found is the 11th
	if l == BIOS {
		e.block = 4096
	}
	e.data = lostFound/e.block + 1 // the root folder
	var names int64
	for _, f := range c.files {
		e.data += e.blocksOf(f.size)
		names += 8 + roundUp(int64(len(f.name)), 4)
	}
	// A name is not split between blocks: half of each is used at least.
	e.data += int64(len(c.dirs)) + ceil(2*names, e.block)
	e.inodes += int64(len(c.files) + len(c.dirs))
	return e
}

// blocksOf counts a file's blocks: its data, and above the first 12 the trees of
// block numbers that lead to them: one of a level, one of two, one of three.
func (e ext2) blocksOf(size int64) int64 {
	data := ceil(size, e.block)
	all, left, reach, perBlock := data, data-12, int64(1), e.block/4
	for level := 1; left > 0; level++ {
		reach *= perBlock
		covered := min(left, reach)
		for n, above := covered, 0; above < level; above++ {
			n = ceil(n, perBlock)
			all += n
		}
		left -= covered
	}
	return all
}

// size is a size in bytes in which everything fits. It is at most a few blocks
// for each group of blocks more than what is needed.
func (e ext2) size() int64 {
	perGroup := 8 * e.block // as many as a block has bits
	blocks := e.data
	for {
		groups := ceil(blocks, perGroup)
		// Each group has two bitmaps and its inodes; every group is taken to have
		// a copy of the superblock and the table of groups, though few do.
		table := ceil(roundUp(ceil(e.inodes, groups), 8)*inodeSize, e.block)
		need := 1 + e.data + groups*(2+table+1+ceil(groups*32, e.block))
		if need <= blocks {
			return roundUp(blocks*e.block, mebi)
		}
		blocks = need
	}
}

// writeExt2 makes the disk of the layouts that have an ext2 file system.
func (w *work) writeExt2(ctx context.Context, l Layout, b Boot, minSize int64) error {
	e, start := newExt2(l, w.content), int64(partitionStart)
	if l == Whole {
		start = 0
	}
	size, err := sizeOf(start+e.size(), minSize)
	if err != nil {
		return err
	}
	if err := w.create(size); err != nil {
		return err
	}
	if err := w.formatExt2(ctx, e, start); err != nil {
		return err
	}
	if l == Whole {
		return nil
	}
	boot := make([]byte, sectorSize)
	if l == BIOS {
		if boot, err = w.embedGRUB(ctx, b); err != nil {
			return err
		}
	}
	putMBR(boot, w.serial(), mbrEntry{kind: mbrLinux, active: true, start: start / sectorSize, sectors: e.size() / sectorSize})
	return w.put(boot, 0)
}

func (w *work) formatExt2(ctx context.Context, e ext2, start int64) error {
	id := uuid(w.identity("ext2"))
	_, err := w.run(ctx, "mke2fs", "-q", "-F", "-t", "ext2", "-b", fmt.Sprint(e.block), "-I", fmt.Sprint(inodeSize),
		"-N", fmt.Sprint(e.inodes), "-m", "0", "-O", ext2Features, "-U", id,
		"-E", fmt.Sprintf("root_owner=0:0,hash_seed=%s,no_copy_xattrs,lazy_itable_init=0,offset=%d", id, start),
		"-d", rootName, imageName, fmt.Sprintf("%dk", e.size()>>10))
	if err != nil {
		return err
	}
	return w.settle(ctx, start)
}

// settle sets what mke2fs -d takes from the host although nobody can choose it
// there: the owners, and when each inode was last changed.
func (w *work) settle(ctx context.Context, start int64) error {
	var script strings.Builder
	paths := append([]string{""}, w.dirs...)
	for _, f := range w.files {
		paths = append(paths, f.name)
	}
	for _, path := range paths {
		for _, field := range []string{"atime", "mtime", "ctime"} {
			fmt.Fprintf(&script, "set_inode_field /%s %s @%d\n", path, field, epoch)
		}
		fmt.Fprintf(&script, "set_inode_field /%s uid 0\nset_inode_field /%s gid 0\n", path, path)
	}
	if err := os.WriteFile(w.file("settle"), []byte(script.String()), 0o600); err != nil {
		return w.fail(opWrite, err)
	}
	said, err := w.run(ctx, "debugfs", "-w", "-f", "settle", fmt.Sprintf("%s?offset=%d", imageName, start))
	if err != nil {
		return err
	}
	// debugfs ends with 0 whatever happened. Its first line is its version.
	if _, rest, _ := strings.Cut(strings.TrimSpace(said), "\n"); rest != "" {
		return &step.Error{Op: "run debugfs", Err: fmt.Errorf("%s", lastLine(rest))}
	}
	return nil
}
