package disk

import (
	"context"
	"encoding/binary"
	"io"
)

// formatExt2 writes the file system. It writes the superblock last, because the
// superblock's UUID is made of a digest of the files.
func (w *work) formatExt2(ctx context.Context, e ext2, start int64) error {
	v := volume{ext2: e, w: io.NewOffsetWriter(w.image, start)}
	for _, n := range e.nodes {
		if err := w.writeNode(ctx, &v, n); err != nil {
			return err
		}
	}
	v.finish(w.identity("ext2"))
	return w.fail(opWrite, v.err)
}

func (w *work) writeNode(ctx context.Context, v *volume, n node) error {
	const file, folder = 0o100644, 0o040755 // types and permissions
	mode := uint16(file)
	to := &blockWriter{v: v, first: v.taken, size: n.size()}
	numbers := make([]uint32, ceil(n.size(), blockSize))
	for i := range numbers {
		numbers[i] = v.take()
	}
	if n.dir != nil {
		mode = folder
		_, _ = to.Write(n.dir) // the error is in v.err
	} else if err := w.copy(ctx, to, n.file); err != nil {
		return err
	}
	inode := make([]byte, inodeSize)
	le := binary.LittleEndian
	le.PutUint16(inode, mode)
	le.PutUint32(inode[4:], uint32(n.size()))
	for at := 8; at < 20; at += 4 { // times of access, creation and change
		le.PutUint32(inode[at:], epoch)
	}
	le.PutUint16(inode[26:], n.links)
	le.PutUint32(inode[28:], uint32(blocksOf(n.size())*blockSize/sectorSize))
	direct := min(len(numbers), 12)
	for i, number := range numbers[:direct] {
		le.PutUint32(inode[40+4*i:], number)
	}
	numbers = numbers[direct:]
	for level, reach := 0, 1; len(numbers) > 0; level++ {
		reach *= blockSize / 4
		covered := min(len(numbers), reach)
		le.PutUint32(inode[40+4*(12+level):], v.tree(numbers[:covered], reach))
		numbers = numbers[covered:]
	}
	index := int64(n.number) - 1
	group := index / v.perGroup * groupBlocks
	v.put(inode, (group+v.overhead())*blockSize-(v.perGroup-index%v.perGroup)*inodeSize)
	return w.fail(opWrite, v.err)
}

// volume is a file system that is being written.
type volume struct {
	ext2
	w     io.WriterAt
	taken int64 // data blocks so far
	err   error // the first one
}

func (v *volume) put(data []byte, at int64) {
	if v.err == nil {
		_, v.err = v.w.WriteAt(data, at)
	}
}

// capacity is the number of data blocks in a whole group.
func (v *volume) capacity() int64 { return groupBlocks - v.overhead() }

// number returns the block number of the data block with this index.
func (v *volume) number(index int64) int64 {
	return index/v.capacity()*groupBlocks + v.overhead() + index%v.capacity()
}

// take returns the number of the next free data block.
func (v *volume) take() uint32 {
	v.taken++
	return uint32(v.number(v.taken - 1))
}

// tree writes a tree of block numbers and returns the number of its root block. reach is
// how many data blocks a full tree of this height has; a tree of reach 1 is the data
// block itself.
func (v *volume) tree(numbers []uint32, reach int) uint32 {
	if reach == 1 {
		return numbers[0]
	}
	top, list := v.take(), make([]byte, 0, blockSize)
	reach /= blockSize / 4
	for len(numbers) > 0 {
		covered := min(len(numbers), reach)
		list = binary.LittleEndian.AppendUint32(list, v.tree(numbers[:covered], reach))
		numbers = numbers[covered:]
	}
	v.put(list, int64(top)*blockSize)
	return top
}

// finish writes the superblocks, group descriptors and bitmaps. Blocks and inodes are
// taken in order, so a group's blocks and inodes in use are its first ones.
func (v *volume) finish(id [16]byte) {
	le := binary.LittleEndian
	descriptors := make([]byte, v.descriptors()*blockSize)
	freeBlocks := uint32(0)
	for g := range v.groups {
		first := g * groupBlocks
		all := min(groupBlocks, v.blocks-first)
		used := v.overhead() + min(max(v.taken-g*v.capacity(), 0), v.capacity())
		usedInodes := min(max(v.inodes()-g*v.perGroup, 0), v.perGroup)
		bitmaps := first + 1 + v.descriptors()
		v.put(bitmap(used, all), bitmaps*blockSize)
		v.put(bitmap(usedInodes, v.perGroup), (bitmaps+1)*blockSize)

		d := descriptors[32*g:]
		for i := range uint32(3) { // two bitmaps and the inodes
			le.PutUint32(d[4*i:], uint32(bitmaps)+i)
		}
		le.PutUint16(d[12:], uint16(all-used))
		le.PutUint16(d[14:], uint16(v.perGroup-usedInodes))
		for _, n := range v.nodes {
			if n.dir != nil && int64(n.number-1)/v.perGroup == g {
				le.PutUint16(d[16:], le.Uint16(d[16:])+1)
			}
		}
		freeBlocks += uint32(all - used)
	}
	super := v.super(id, freeBlocks)
	for g := range v.groups {
		at := g * groupBlocks * blockSize
		le.PutUint16(super[90:], uint16(g))
		if g == 0 {
			v.put(super, 1024) // behind the boot code
		} else {
			v.put(super, at)
		}
		v.put(descriptors, at+blockSize)
	}
}

// bitmap returns a block of bits. The first used bits are set. The bits from all on are
// set too, because they belong to no block or inode.
func bitmap(used, all int64) []byte {
	b := make([]byte, blockSize)
	for i := range int64(groupBlocks) {
		if i < used || i >= all {
			b[i/8] |= 1 << (i % 8)
		}
	}
	return b
}

func (v *volume) super(id [16]byte, freeBlocks uint32) []byte {
	const (
		magic          = 0xef53
		clean          = 1
		continueOnFail = 1
		dynamic        = 1 // the revision that has features
		fileTypes      = 2 // in the entries of folders
		largeFiles     = 2
		logBlockSize   = 2 // 1024 << 2
	)
	s := make([]byte, 1024)
	for _, f := range []struct {
		at    int
		value any
	}{
		{0, uint32(v.groups * v.perGroup)}, {4, uint32(v.blocks)}, {12, freeBlocks},
		{16, uint32(v.groups*v.perGroup - v.inodes())}, {24, uint32(logBlockSize)}, {28, uint32(logBlockSize)},
		{32, uint32(groupBlocks)}, {36, uint32(groupBlocks)}, {40, uint32(v.perGroup)},
		{48, uint32(epoch)}, {54, ^uint16(0)}, {56, uint16(magic)}, {58, uint16(clean)}, {60, uint16(continueOnFail)},
		{64, uint32(epoch)}, {76, uint32(dynamic)}, {84, uint32(lostFound)}, {88, uint16(inodeSize)},
		{96, uint32(fileTypes)}, {100, uint32(largeFiles)}, {104, id}, {264, uint32(epoch)},
	} {
		if _, err := binary.Encode(s[f.at:], binary.LittleEndian, f.value); err != nil && v.err == nil {
			v.err = err
		}
	}
	return s
}

// blockWriter writes a file into its blocks. They are adjacent within a group.
type blockWriter struct {
	v     *volume
	first int64 // data block
	size  int64 // of the file
	at    int64 // in the file
}

func (b *blockWriter) Write(p []byte) (int, error) {
	if roundUp(b.at+int64(len(p)), blockSize) > roundUp(b.size, blockSize) {
		return 0, errGrown
	}
	for done := int64(0); done < int64(len(p)); {
		index, offset := b.first+b.at/blockSize, b.at%blockSize
		n := min(int64(len(p))-done, (b.v.capacity()-index%b.v.capacity())*blockSize-offset)
		b.v.put(p[done:done+n], b.v.number(index)*blockSize+offset)
		done += n
		b.at += n
	}
	return len(p), b.v.err
}
