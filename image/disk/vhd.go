package disk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"os"
)

// The dynamic VHD of Microsoft's "Virtual Hard Disk Image Format Specification", with blocks
// of 2 MiB: other sizes are legal, but few programs read them. Its parts come in the order
// that xapi reads from a stream: footer, header, table, blocks, footer.
const (
	vhdFooter = 512
	vhdHeader = 1024
	vhdBlock  = 2 << 20
	vhdBitmap = sectorSize // a bit for each sector of a block
	// vhdMax is the largest disk that the format's readers take.
	vhdMax = 2040 << 30
)

// VHD is a raw disk image as a dynamic VHD, which is generated while it is read. It has no
// block of 2 MiB that is all zeros. Its bytes depend on the image's bytes only.
type VHD struct {
	// Size is the number of bytes of the VHD.
	Size int64
	disk *os.File
	packed
}

// OpenVHD opens the raw disk image at path. The errors are those of [Pack].
func OpenVHD(ctx context.Context, path string) (v *VHD, err error) {
	f, err := openDisk(path)
	if err != nil {
		return nil, err
	}
	v = &VHD{disk: f}
	if err := v.lay(ctx); err != nil {
		_ = f.Close() // only read
		return nil, err
	}
	return v, nil
}

// Reader returns a reader of the VHD from its start.
func (v *VHD) Reader() io.Reader { return v.reader() }

// Close closes the raw image.
func (v *VHD) Close() error { return v.disk.Close() }

// lay lists the parts of the VHD.
func (v *VHD) lay(ctx context.Context) error {
	size, err := diskSize(v.disk, vhdMax)
	if err != nil {
		return err
	}
	entries := ceil(size, vhdBlock)
	table := bytes.Repeat([]byte{0xff}, int(roundUp(4*entries, sectorSize))) // no block is there
	next := (vhdFooter + vhdHeader + int64(len(table))) / sectorSize
	var blocks []int64
	if err := eachBlock(ctx, v.disk, size, vhdBlock, func(at int64, _ []byte) error {
		binary.BigEndian.PutUint32(table[4*(at/vhdBlock):], uint32(next)) //nolint:gosec // below vhdMax
		blocks, next = append(blocks, at), next+(vhdBitmap+vhdBlock)/sectorSize
		return nil
	}); err != nil {
		return packError(err)
	}
	footer := footerOf(size, sha256.Sum256(table))
	v.addBytes(footer)
	v.addBytes(headerOf(uint32(entries))) //nolint:gosec // below vhdMax
	v.addBytes(table)
	full := bytes.Repeat([]byte{0xff}, vhdBitmap)
	for _, at := range blocks {
		has := min(vhdBlock, size-at)
		bitmap := full
		if has < vhdBlock { // a reader of the stream would write sectors behind the disk's end
			bitmap = make([]byte, vhdBitmap)
			for sector := range has / sectorSize {
				bitmap[sector/8] |= 0x80 >> (sector % 8)
			}
		}
		v.addBytes(bitmap)
		v.add(v.disk, at, has)
		if has < vhdBlock {
			v.addBytes(make([]byte, vhdBlock-has))
		}
	}
	v.addBytes(footer)
	v.Size = v.size
	return nil
}

func footerOf(size int64, identity [32]byte) []byte {
	f := make([]byte, vhdFooter)
	copy(f, "conectix")
	binary.BigEndian.PutUint32(f[8:], 2)             // a reserved feature that is always set
	binary.BigEndian.PutUint32(f[12:], 0x10000)      // version 1.0
	binary.BigEndian.PutUint64(f[16:], vhdFooter)    // of the header
	copy(f[28:], "win \x00\x0a\x00\x00Wi2k")         // readers go by the size of such a disk, not by its geometry
	binary.BigEndian.PutUint64(f[40:], uint64(size)) //nolint:gosec // not negative
	binary.BigEndian.PutUint64(f[48:], uint64(size)) //nolint:gosec // not negative
	binary.BigEndian.PutUint32(f[56:], geometry(size))
	binary.BigEndian.PutUint32(f[60:], 3) // dynamic
	copy(f[68:84], identity[:])
	binary.BigEndian.PutUint32(f[64:], vhdSum(f))
	return f
}

func headerOf(entries uint32) []byte {
	h := make([]byte, vhdHeader)
	copy(h, "cxsparse\xff\xff\xff\xff\xff\xff\xff\xff") // no further header
	binary.BigEndian.PutUint64(h[16:], vhdFooter+vhdHeader)
	binary.BigEndian.PutUint32(h[24:], 0x10000) // version 1.0
	binary.BigEndian.PutUint32(h[28:], entries)
	binary.BigEndian.PutUint32(h[32:], vhdBlock)
	binary.BigEndian.PutUint32(h[36:], vhdSum(h))
	return h
}

// vhdSum is the checksum of a footer or header whose checksum is still zero.
func vhdSum(b []byte) uint32 {
	var sum uint32
	for _, c := range b {
		sum += uint32(c)
	}
	return ^sum
}

// geometry returns cylinders, heads and sectors of a track, by the appendix of the
// specification.
func geometry(size int64) uint32 {
	sectors := min(size/sectorSize, 65535*16*255)
	track, heads := int64(255), int64(16)
	if sectors < 65535*16*63 {
		track, heads = 17, max(4, ceil(sectors/17, 1024))
		if sectors/track >= heads*1024 || heads > 16 {
			track, heads = 31, 16
		}
		if sectors/track >= heads*1024 {
			track, heads = 63, 16
		}
	}
	return uint32(sectors/track/heads)<<16 | uint32(heads)<<8 | uint32(track) //nolint:gosec // by their limits
}
