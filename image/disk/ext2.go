package disk

import (
	"context"
	"encoding/binary"
	"path"
	"strings"
)

// All layouts but UEFI have an ext2 file system that GRUB legacy reads: inodes of 128
// bytes, no extents, no journal. The format is described in "The Second Extended
// File System" by D. Poirier. mke2fs -d is not used: it needs a second copy of every
// file, and takes owners and times from the host. It also makes sparse files: GRUB
// legacy reads a hole as the contents of block 0, not as zeros.
const (
	blockSize = 4096
	// groupBlocks is the number of blocks in a group. A bitmap of one block covers it.
	groupBlocks = 8 * blockSize
	inodeSize   = 128
	rootInode   = 2
	// lostFound is the first inode that is not reserved.
	lostFound = 11
)

// node is a file or folder of the file system.
type node struct {
	number uint32 // of its inode
	links  uint16
	dir    []byte // the entries, if it is a folder
	file   staged // otherwise
}

func (n node) size() int64 { return int64(len(n.dir)) + n.file.size }

// nodesOf numbers the folders, then the files, and makes the folders' entries.
func nodesOf(c content) []node {
	number := map[string]uint32{"": rootInode, "lost+found": lostFound}
	next := uint32(lostFound)
	for _, dir := range c.dirs {
		next++
		number[dir] = next
	}
	for _, f := range c.files {
		next++
		number[f.name] = next
	}
	var nodes []node
	for _, dir := range append([]string{"", "lost+found"}, c.dirs...) {
		n := node{number: number[dir], links: 2}
		var d directory
		d.add(".", n.number, true)
		d.add("..", number[parent(dir)], true)
		for _, child := range append([]string{"lost+found"}, c.dirs...) {
			if parent(child) == dir {
				d.add(path.Base(child), number[child], true)
				n.links++
			}
		}
		for _, f := range c.files {
			if parent(f.name) == dir {
				d.add(path.Base(f.name), number[f.name], false)
			}
		}
		n.dir = d.whole()
		nodes = append(nodes, n)
	}
	for _, f := range c.files {
		nodes = append(nodes, node{number: number[f.name], links: 1, file: f})
	}
	return nodes
}

// parent returns the folder of a name; the root is "".
func parent(name string) string { return strings.TrimSuffix(path.Dir(name), ".") }

// directory is the entries of a folder. No entry crosses the end of a block; the last
// entry of a block extends to its end.
type directory struct {
	bytes []byte
	last  int // where the last entry begins
}

func (d *directory) add(name string, number uint32, folder bool) {
	const headSize, isFile, isFolder = 8, 1, 2
	size := headSize + int(roundUp(int64(len(name)), 4))
	if len(d.bytes)%blockSize+size > blockSize {
		d.bytes = d.whole()
	}
	d.last = len(d.bytes)
	entry := make([]byte, size)
	binary.LittleEndian.PutUint32(entry, number)
	binary.LittleEndian.PutUint16(entry[4:], uint16(size))
	entry[6], entry[7] = byte(len(name)), isFile
	if folder {
		entry[7] = isFolder
	}
	copy(entry[headSize:], name)
	d.bytes = append(d.bytes, entry...)
}

// whole extends the last entry to the end of its block and returns all entries.
func (d *directory) whole() []byte {
	all := append(d.bytes, make([]byte, roundUp(int64(len(d.bytes)), blockSize)-int64(len(d.bytes)))...)
	binary.LittleEndian.PutUint16(all[d.last+4:], uint16(len(all)-d.last))
	return all
}

// ext2 is the geometry of the file system. Every group begins with a copy of the
// superblock and of the group descriptors, then has two bitmaps, its inodes and data.
type ext2 struct {
	nodes    []node
	data     int64 // blocks of files and folders
	groups   int64
	blocks   int64
	perGroup int64 // inodes
}

func newExt2(c content) ext2 {
	e := ext2{nodes: nodesOf(c)}
	for _, n := range e.nodes {
		e.data += blocksOf(n.size())
	}
	for need := e.data; need > e.blocks; need = e.data + e.groups*e.overhead() {
		e.blocks = roundUp(need*blockSize, mebi) / blockSize
		e.groups = ceil(e.blocks, groupBlocks)
		e.perGroup = roundUp(ceil(e.inodes(), e.groups), blockSize/inodeSize)
	}
	return e
}

// inodes is the number of inodes in use. The first 10 are reserved; one of them is the
// root's.
func (e ext2) inodes() int64 { return int64(len(e.nodes)) + lostFound - 2 }

func (e ext2) size() int64 { return e.blocks * blockSize }

// descriptors is the number of blocks of the group descriptors.
func (e ext2) descriptors() int64 { return ceil(e.groups*32, blockSize) }

// overhead is the number of blocks before a group's data.
func (e ext2) overhead() int64 { return 1 + e.descriptors() + 2 + e.perGroup*inodeSize/blockSize }

// blocksOf returns the number of blocks of a file: its data, and the trees of block
// numbers. The inode holds the first 12 block numbers itself. For later blocks it holds
// the roots of three trees, with one, two and three levels.
func blocksOf(size int64) int64 {
	data := ceil(size, blockSize)
	all, left, reach := data, data-12, int64(1)
	for level := 1; left > 0; level++ {
		reach *= blockSize / 4
		covered := min(left, reach)
		for n, above := covered, 0; above < level; above++ {
			n = ceil(n, blockSize/4)
			all += n
		}
		left -= covered
	}
	return all
}

// writeExt2 makes the disk of the layouts that have an ext2 file system.
func (w *work) writeExt2(ctx context.Context, l Layout, b Boot, minSize int64) error {
	e, start := newExt2(w.content), int64(partitionStart)
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
