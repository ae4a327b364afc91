package image

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"strings"
)

// maxNotes is the most bytes of notes that are read from a file. A kernel has a few
// hundred.
const maxNotes = 1 << 20

// notes is the contents of a kernel's ELF notes.
type notes struct {
	xen     xenNotes
	solo5   string   // a Solo5 ABI, or ""
	devices []Device // of a Solo5 manifest
	linux   bool     // made by a toolchain for Linux programs
}

// xenNotes is the notes that Xen's loader reads; see xen/include/public/elfnote.h and
// elf_xen_note_check in xen/common/libelf/libelf-dominfo.c.
type xenNotes struct {
	count       int
	loader      string
	guestOS     string
	version     string
	phys32Entry bool
	inSegment   bool // found in a segment; QEMU reads only those
}

// pv reports whether Xen's loader starts the kernel as a PV domain.
func (x xenNotes) pv() bool {
	return strings.HasPrefix(x.version, "xen-3.0") &&
		(strings.HasPrefix(x.loader, "generic") || strings.HasPrefix(x.guestOS, "linux"))
}

const (
	xenVersion     = 5
	xenGuestOS     = 6
	xenLoader      = 8
	xenPhys32Entry = 18

	solo5ABI      = 0x31494241 // "ABI1"; Solo5's include/elf_abi.h
	solo5Manifest = 0x3154464d // "MFT1"; Solo5's include/mft_abi.h

	gnuABITag = 1
)

// solo5Targets is Solo5's enum abi_target.
var solo5Targets = map[uint32]string{
	1: Solo5HVT, 2: Solo5SPT, 3: Solo5Virtio, 4: Solo5Muen, 5: Solo5Genode, 6: Solo5Xen,
}

// readNotes searches for notes in the order of Xen's loader: in PT_NOTE segments;
// if they have no Xen notes, in note sections (Mini-OS and Unikraft on Xen); if
// these have none either, in the older section __xen_guest.
func (f *file) readNotes(e *elf.File) (notes, error) {
	var all notes
	left := uint64(maxNotes)
	for i, p := range e.Progs {
		if p.Type != elf.PT_NOTE {
			continue
		}
		raw, err := f.take(&left, p.Off, p.Filesz)
		if err == nil {
			err = all.add(raw, e.ByteOrder)
		}
		if err != nil {
			return notes{}, damaged("segment %d: %w", i, err)
		}
	}
	if all.xen.count > 0 {
		all.xen.inSegment = true
		return all, nil
	}
	for _, s := range e.Sections {
		if s.Type != elf.SHT_NOTE {
			continue
		}
		raw, err := f.take(&left, s.Offset, s.FileSize)
		if err == nil {
			err = all.add(raw, e.ByteOrder)
		}
		if err != nil {
			return notes{}, damaged("section %q: %w", s.Name, err)
		}
	}
	if s := e.Section("__xen_guest"); all.xen.count == 0 && s != nil && s.Type == elf.SHT_PROGBITS {
		raw, err := f.take(&left, s.Offset, s.FileSize)
		if err != nil {
			return notes{}, damaged("section %q: %w", s.Name, err)
		}
		all.xen.addGuestString(raw)
	}
	return all, nil
}

// take reads n bytes at off and subtracts them from left, the bytes still allowed.
func (f *file) take(left *uint64, off, n uint64) ([]byte, error) {
	if off > f.size() || n > f.size()-off {
		return nil, fmt.Errorf("%d bytes at %d are past the file's end at %d", n, off, f.size())
	}
	if n > *left {
		return nil, fmt.Errorf("more than %d bytes of notes", maxNotes)
	}
	*left -= n
	raw := make([]byte, n)
	if got, _ := f.ReadAt(raw, int64(off)); got < len(raw) {
		return nil, fmt.Errorf("only %d of %d bytes at %d are there", got, n, off)
	}
	return raw, nil
}

// add reads a sequence of notes: the sizes of name and value, the type, the name, the
// value. Name and value are padded to 4 bytes, even in a segment aligned to 8, such
// as that of Solo5's manifest; Xen and Solo5 read them so.
func (all *notes) add(raw []byte, order binary.ByteOrder) error {
	pad := func(n uint64) uint64 { return (n + 3) &^ 3 }

	// Fewer bytes than a header are padding.
	for at := uint64(0); uint64(len(raw))-at >= 12; {
		header := raw[at:]
		nameSize, size, kind := order.Uint32(header), order.Uint32(header[4:]), order.Uint32(header[8:])
		// The sizes have 32 bits, so these sums do not overflow.
		name := at + 12
		value := name + pad(uint64(nameSize))
		end := value + uint64(size)
		if value > uint64(len(raw)) {
			return pastEnd(at)
		}
		owner := cString(raw[name : name+uint64(nameSize)])
		if end > uint64(len(raw)) {
			if matters(owner, kind) {
				return pastEnd(at)
			}
			// GRUB's i386-xen kernels end in a PAE_MODE note whose size is 8
			// bytes too large. Loaders accept it.
			return nil
		}
		if err := all.addOne(owner, kind, raw[value:end], order); err != nil {
			return fmt.Errorf("the note at byte %d: %w", at, err)
		}
		at = min(pad(end), uint64(len(raw)))
	}
	return nil
}

func pastEnd(at uint64) error {
	return fmt.Errorf("the note at byte %d runs past the end", at)
}

// matters reports whether addOne reads the value of a note of this owner and type.
func matters(owner string, kind uint32) bool {
	switch owner {
	case "Xen":
		return kind == xenVersion || kind == xenGuestOS || kind == xenLoader || kind == xenPhys32Entry
	case "Solo5":
		return kind == solo5ABI || kind == solo5Manifest
	case "GNU":
		return kind == gnuABITag
	}
	return false
}

func (all *notes) addOne(owner string, kind uint32, value []byte, order binary.ByteOrder) error {
	switch owner {
	case "Xen":
		all.xen.count++
		switch kind {
		case xenVersion:
			all.xen.version = cString(value)
		case xenGuestOS:
			all.xen.guestOS = cString(value)
		case xenLoader:
			all.xen.loader = cString(value)
		case xenPhys32Entry:
			// It is an address of the linker's word size.
			if len(value) != 4 && len(value) != 8 {
				return fmt.Errorf("the PVH entry point has %d bytes, not 4 or 8", len(value))
			}
			all.xen.phys32Entry = true
		}
	case "Solo5":
		if kind == solo5Manifest {
			return all.addManifest(value, order)
		}
		if kind != solo5ABI {
			break
		}
		if len(value) != 16 {
			return fmt.Errorf("the Solo5 ABI has %d bytes, not 16", len(value))
		}
		target := order.Uint32(value)
		abi, ok := solo5Targets[target]
		if !ok {
			abi = fmt.Sprintf("solo5-%d", target)
		}
		all.solo5 = abi
	case "GNU":
		// The ABI tag names the system that a program needs; 0 is Linux.
		all.linux = all.linux || kind == gnuABITag && len(value) >= 4 && order.Uint32(value) == 0
	case "Go":
		all.linux = true
	}
	return nil
}

// addGuestString reads "GUEST_OS=Mini-OS,XEN_VER=xen-3.0,LOADER=generic".
func (x *xenNotes) addGuestString(raw []byte) {
	for word := range strings.SplitSeq(cString(raw), ",") {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "XEN_VER":
			x.version = value
		case "GUEST_OS":
			x.guestOS = value
		case "LOADER":
			x.loader = value
		}
	}
}

// cString is b up to its first zero byte.
func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
