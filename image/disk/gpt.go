package disk

import (
	"encoding/binary"
	"hash/crc32"
	"unicode/utf16"
)

// A GUID partition table (UEFI specification 2.10, 5.3) is a header and 128 entries
// after the first sector. A copy is at the disk's end, with the header last.
const (
	gptHeaderSize = 92
	gptEntrySize  = 128
	gptEntries    = 128
	// gptTable is the number of sectors of the entries.
	gptTable = gptEntrySize * gptEntries / sectorSize
	// gptTail is the size of the copy at the disk's end, rounded up.
	gptTail = mebi
)

// efiSystem is the type of an EFI system partition,
// c12a7328-f81f-11d2-ba4b-00a0c93ec93b.
var efiSystem = [16]byte{0xc1, 0x2a, 0x73, 0x28, 0xf8, 0x1f, 0x11, 0xd2, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}

// gpt is a table with one partition.
type gpt struct {
	disk, part     [16]byte // identities
	size           int64    // of the disk, bytes
	start, sectors int64    // of the partition
	name           string
}

// head returns the sectors at the disk's start, tail those at its end.
func (g gpt) head() []byte {
	protective := make([]byte, sectorSize)
	putMBR(protective, 0, mbrEntry{kind: mbrProtective, start: 1, sectors: g.size/sectorSize - 1})
	return append(append(protective, g.header(1, g.last(), 2)...), g.entries()...)
}

func (g gpt) tail() []byte {
	return append(g.entries(), g.header(g.last(), 1, g.last()-gptTable)...)
}

// last is the disk's last sector.
func (g gpt) last() int64 { return g.size/sectorSize - 1 }

func (g gpt) entries() []byte {
	all := make([]byte, gptEntrySize*gptEntries)
	putGUID(all[0:], efiSystem)
	putGUID(all[16:], g.part)
	binary.LittleEndian.PutUint64(all[32:], uint64(g.start))
	binary.LittleEndian.PutUint64(all[40:], uint64(g.start+g.sectors-1))
	for i, c := range utf16.Encode([]rune(g.name)) {
		binary.LittleEndian.PutUint16(all[56+2*i:], c)
	}
	return all
}

func (g gpt) header(own, other, entries int64) []byte {
	h := make([]byte, sectorSize)
	le := binary.LittleEndian
	copy(h, "EFI PART")
	le.PutUint32(h[8:], 0x10000) // revision 1.0
	le.PutUint32(h[12:], gptHeaderSize)
	le.PutUint64(h[24:], uint64(own))
	le.PutUint64(h[32:], uint64(other))
	le.PutUint64(h[40:], 2+gptTable)                  // the first sector for partitions
	le.PutUint64(h[48:], uint64(g.last()-gptTable-1)) // the last one
	putGUID(h[56:], g.disk)
	le.PutUint64(h[72:], uint64(entries))
	le.PutUint32(h[80:], gptEntries)
	le.PutUint32(h[84:], gptEntrySize)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(g.entries()))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:gptHeaderSize]))
	return h
}

// putGUID writes an identifier as UEFI does: the first three parts little-endian.
func putGUID(at []byte, id [16]byte) {
	binary.LittleEndian.PutUint32(at[0:], binary.BigEndian.Uint32(id[0:]))
	binary.LittleEndian.PutUint16(at[4:], binary.BigEndian.Uint16(id[4:]))
	binary.LittleEndian.PutUint16(at[6:], binary.BigEndian.Uint16(id[6:]))
	copy(at[8:16], id[8:])
}
