package image

import "encoding/binary"

// multiboot1 is a multiboot 1 header and its offset in the file.
type multiboot1 struct {
	header []byte
	at     int
}

// findMultiboot1 looks for a multiboot 1 header: aligned to 4 bytes, wholly in the
// first 8 KiB (Multiboot Specification 0.6.96, 3.1).
func findMultiboot1(head []byte) (m multiboot1, found bool) {
	const magic = 0x1badb002
	head = head[:min(len(head), 8<<10)]
	for at := 0; len(head)-at >= 12; at += 4 {
		m = multiboot1{head[at:], at}
		if word(m.header, 0) == magic && magic+word(m.header, 4)+word(m.header, 8) == 0 &&
			(!m.addressed() || len(m.header) >= 32) {
			return m, true
		}
	}
	return multiboot1{}, false
}

// addressed reports flag 16: the header has load addresses, and loaders ignore
// the file's own format, such as ELF.
func (m multiboot1) addressed() bool { return word(m.header, 4)&(1<<16) != 0 }

// end returns the first address behind the kernel, from a header with load addresses. size
// is the file's size.
func (m multiboot1) end(size uint64) uint64 {
	header, load := uint64(word(m.header, 12)), uint64(word(m.header, 16))
	loadEnd, bssEnd := uint64(word(m.header, 20)), uint64(word(m.header, 24))
	if loadEnd == 0 { // the whole file from the load address on
		loadEnd = header + size - uint64(m.at)
	}
	if loadEnd < load {
		return 0 // every loader refuses it
	}
	return max(loadEnd, bssEnd)
}

// multiboot2 looks for a multiboot2 header for i386: aligned to 8 bytes, wholly
// in the first 32 KiB (Multiboot2 Specification 2.0, 3.1).
func multiboot2(head []byte) bool {
	const (
		magic = 0xe85250d6
		i386  = 0
	)
	head = head[:min(len(head), 32<<10)]
	for ; len(head) >= 16; head = head[min(8, len(head)):] {
		arch, length, sum := word(head, 4), word(head, 8), word(head, 12)
		if word(head, 0) == magic && arch == i386 && magic+arch+length+sum == 0 &&
			length >= 16 && uint64(length) <= uint64(len(head)) {
			return true
		}
	}
	return false
}

// bzImage looks for the header of Linux's x86 boot protocol (Linux's
// Documentation/arch/x86/boot.rst).
func bzImage(head []byte) (info Info, ok bool) {
	const (
		bootFlagAt, bootFlag        = 0x1fe, 0xaa55
		magicAt, magic              = 0x202, "HdrS"
		versionAt                   = 0x206
		xloadflagsAt, kernel64      = 0x236, 1
		versionThatHasXloadflags    = 0x20c
		preferredAt, initSizeAt     = 0x258, 0x260
		versionThatHasPreferredAddr = 0x20a
	)
	if len(head) < xloadflagsAt+2 ||
		binary.LittleEndian.Uint16(head[bootFlagAt:]) != bootFlag ||
		string(head[magicAt:magicAt+4]) != magic {
		return Info{}, false
	}
	info = Info{ABIs: []string{LinuxBzImage}, Machine: "i386"}
	version := binary.LittleEndian.Uint16(head[versionAt:])
	if version >= versionThatHasXloadflags && binary.LittleEndian.Uint16(head[xloadflagsAt:])&kernel64 != 0 {
		info.Machine = "x86_64"
	}
	if version >= versionThatHasPreferredAddr && len(head) >= initSizeAt+4 {
		// Linux unpacks itself at the preferred address. A huge one is damage.
		if at := binary.LittleEndian.Uint64(head[preferredAt:]); at < 1<<40 {
			info.End = at + uint64(word(head, initSizeAt))
		}
	}
	return info, true
}

func word(b []byte, at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
