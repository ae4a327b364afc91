package disk

import "encoding/binary"

// Partition types of an MBR.
const (
	mbrLinux      = 0x83
	mbrProtective = 0xee
)

// Offsets in the first sector of a disk.
const (
	mbrCode  = 440 // the boot code ends here
	mbrTable = 446
	mbrMagic = 510
)

type mbrEntry struct {
	kind           byte
	active         bool
	start, sectors int64
}

// putMBR writes a partition table with one entry into the first sector, behind its
// boot code. Cylinders, heads and sectors are "out of range" (0xfeffff), because
// today's loaders read sector numbers.
func putMBR(sector []byte, serial uint32, e mbrEntry) {
	clear(sector[mbrCode:])
	binary.LittleEndian.PutUint32(sector[mbrCode:], serial)
	at := sector[mbrTable:]
	if e.active {
		at[0] = 0x80
	}
	copy(at[1:], []byte{0xfe, 0xff, 0xff, e.kind, 0xfe, 0xff, 0xff})
	if e.kind == mbrProtective { // UEFI 2.10, table 5.4, gives its cylinder, head and sector
		copy(at[1:], []byte{0x00, 0x02, 0x00, e.kind, 0xff, 0xff, 0xff})
	}
	binary.LittleEndian.PutUint32(at[8:], uint32(e.start))
	binary.LittleEndian.PutUint32(at[12:], uint32(min(e.sectors, 1<<32-1)))
	sector[mbrMagic], sector[mbrMagic+1] = 0x55, 0xaa
}
