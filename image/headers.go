package image

import "encoding/binary"

// multiboot1 looks for a multiboot 1 header: aligned to 4 bytes, wholly in the
// first 8 KiB (Multiboot Specification 0.6.96, 3.1). addressed says that the
// header has load addresses, so that the file's own format does not matter.
func multiboot1(head []byte) (found, addressed bool) {
	const (
		magic        = 0x1badb002
		hasAddresses = 1 << 16
	)
	head = head[:min(len(head), 8<<10)]
	for ; len(head) >= 12; head = head[4:] {
		flags, sum := word(head, 4), word(head, 8)
		if word(head, 0) != magic || magic+flags+sum != 0 {
			continue
		}
		addressed = flags&hasAddresses != 0
		if addressed && len(head) < 32 {
			continue
		}
		return true, addressed
	}
	return false, false
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
func bzImage(head []byte) (machine string, ok bool) {
	const (
		bootFlagAt, bootFlag     = 0x1fe, 0xaa55
		magicAt, magic           = 0x202, "HdrS"
		versionAt                = 0x206
		xloadflagsAt, kernel64   = 0x236, 1
		versionThatHasXloadflags = 0x20c
	)
	if len(head) < xloadflagsAt+2 ||
		binary.LittleEndian.Uint16(head[bootFlagAt:]) != bootFlag ||
		string(head[magicAt:magicAt+4]) != magic {
		return "", false
	}
	if binary.LittleEndian.Uint16(head[versionAt:]) >= versionThatHasXloadflags &&
		binary.LittleEndian.Uint16(head[xloadflagsAt:])&kernel64 != 0 {
		return "x86_64", true
	}
	return "i386", true
}

func word(b []byte, at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
