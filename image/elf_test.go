package image

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

// testELF describes an ELF file to build. Contents are laid out behind the
// headers in the order given; segments are PT_LOAD unless they say otherwise.
type testELF struct {
	class    elf.Class   // default ELFCLASS64
	typ      elf.Type    // default ET_EXEC
	machine  elf.Machine // default EM_X86_64
	segments []testPart
	sections []testPart
}

type testPart struct {
	kind  uint32 // elf.ProgType or elf.SectionType
	name  string // of a section
	bytes []byte
	align int // default 4
	zeros int // bytes of memory behind those of the file, of a segment
}

func load(b []byte) testPart { return testPart{kind: uint32(elf.PT_LOAD), bytes: b} }

func note(b []byte) testPart { return testPart{kind: uint32(elf.PT_NOTE), bytes: b} }

func noteSection(b []byte) testPart {
	return testPart{kind: uint32(elf.SHT_NOTE), name: ".note", bytes: b}
}

func (t testELF) build() []byte {
	if t.class == 0 {
		t.class = elf.ELFCLASS64
	}
	if t.typ == 0 {
		t.typ = elf.ET_EXEC
	}
	if t.machine == 0 {
		t.machine = elf.EM_X86_64
	}
	sections := t.sections
	names := []byte{0}
	if len(sections) > 0 {
		sections = append([]testPart{{}}, sections...) // the null section
		sections = append(sections, testPart{kind: uint32(elf.SHT_STRTAB), name: ".shstrtab"})
	}
	nameAt := make([]uint32, len(sections))
	for i, s := range sections {
		nameAt[i] = uint32(len(names))
		names = append(append(names, s.name...), 0)
	}
	if n := len(sections); n > 0 {
		sections[n-1].bytes = names
	}

	ehsize, phsize, shsize := 64, 56, 64
	if t.class == elf.ELFCLASS32 {
		ehsize, phsize, shsize = 52, 32, 40
	}
	phoff := ehsize
	shoff := phoff + phsize*len(t.segments)
	at := shoff + shsize*len(sections)

	var content bytes.Buffer
	place := func(p testPart) (off uint64) {
		for (at+content.Len())%max(p.align, 4) != 0 {
			content.WriteByte(0)
		}
		off = uint64(at + content.Len())
		content.Write(p.bytes)
		return off
	}
	var headers bytes.Buffer
	put := func(v any) {
		if err := binary.Write(&headers, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	ident := [16]byte{0x7f, 'E', 'L', 'F', byte(t.class), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}
	eh := elf.Header64{Ident: ident, Type: uint16(t.typ), Machine: uint16(t.machine), Version: 1,
		Entry: 0x100000, Phoff: uint64(phoff), Ehsize: uint16(ehsize),
		Phentsize: uint16(phsize), Phnum: uint16(len(t.segments)),
		Shentsize: uint16(shsize), Shnum: uint16(len(sections))}
	if len(sections) > 0 {
		eh.Shoff, eh.Shstrndx = uint64(shoff), uint16(len(sections)-1)
	}
	if t.class == elf.ELFCLASS32 {
		put(elf.Header32{Ident: ident, Type: eh.Type, Machine: eh.Machine, Version: 1,
			Entry: uint32(eh.Entry), Phoff: uint32(eh.Phoff), Shoff: uint32(eh.Shoff), Ehsize: eh.Ehsize,
			Phentsize: eh.Phentsize, Phnum: eh.Phnum, Shentsize: eh.Shentsize, Shnum: eh.Shnum, Shstrndx: eh.Shstrndx})
	} else {
		put(eh)
	}
	for _, s := range t.segments {
		off, n := place(s), uint64(len(s.bytes))
		if t.class == elf.ELFCLASS32 {
			put(elf.Prog32{Type: s.kind, Off: uint32(off), Vaddr: 0x100000, Paddr: 0x100000,
				Filesz: uint32(n), Memsz: uint32(n) + uint32(s.zeros), Align: uint32(max(s.align, 4))})
		} else {
			put(elf.Prog64{Type: s.kind, Off: off, Vaddr: 0x100000, Paddr: 0x100000,
				Filesz: n, Memsz: n + uint64(s.zeros), Align: uint64(max(s.align, 4))})
		}
	}
	for i, s := range sections {
		if i == 0 {
			put(make([]byte, shsize))
			continue
		}
		off, n := place(s), uint64(len(s.bytes))
		if t.class == elf.ELFCLASS32 {
			put(elf.Section32{Name: nameAt[i], Type: s.kind, Off: uint32(off), Size: uint32(n), Addralign: 4})
		} else {
			put(elf.Section64{Name: nameAt[i], Type: s.kind, Off: off, Size: n, Addralign: 4})
		}
	}
	return append(headers.Bytes(), content.Bytes()...)
}

// words gives little-endian 32-bit words.
func words(ws ...uint32) []byte {
	var b []byte
	for _, w := range ws {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}

// oneNote gives an ELF note: sizes, type, name and value, padded to 4 bytes.
func oneNote(owner string, kind uint32, value []byte) []byte {
	b := words(uint32(len(owner)+1), uint32(len(value)), kind)
	b = append(b, owner...)
	b = append(b, 0)
	b = padTo4(b)
	return padTo4(append(b, value...))
}

func padTo4(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func xenString(kind uint32, s string) []byte { return oneNote("Xen", kind, append([]byte(s), 0)) }

var (
	pvhNote   = oneNote("Xen", xenPhys32Entry, words(0x100000, 0))
	pvhNote32 = oneNote("Xen", xenPhys32Entry, words(0x100000))
	pvNotes   = bytes.Join([][]byte{xenString(xenGuestOS, "Mini-OS"), xenString(xenLoader, "generic"),
		xenString(xenVersion, "xen-3.0")}, nil)

	// Multiboot headers: plain, with the a.out kludge's addresses, version 2.
	mb1      = words(0x1badb002, 3, -(0x1badb002+3)&0xffffffff)
	mb1AOut  = words(0x1badb002, 0x10003, -(0x1badb002+0x10003)&0xffffffff, 0x100000, 0x100000, 0, 0, 0x100020)
	mb2      = words(0xe85250d6, 0, 24, -(0xe85250d6+24)&0xffffffff, 0, 8)
	someCode = bytes.Repeat([]byte{0x90}, 64)
)

func solo5Note(target uint32) []byte { return oneNote("Solo5", solo5ABI, words(target, 1, 0, 0)) }

// manifestNote is what solo5-elftool has compiled and linked: struct mft1_note,
// whose manifest begins 24 bytes into the note, 4 after the end of its header.
func manifestNote(devices ...Device) []byte {
	value := words(0, 1, uint32(len(devices)+1))
	for _, d := range append([]Device{{}}, devices...) {
		entry := make([]byte, 104)
		copy(entry, d.Name)
		kind := map[string]uint32{"": 1 << 30, BlockBasic: 1, NetBasic: 2}[d.Type]
		binary.LittleEndian.PutUint32(entry[68:], kind)
		value = append(value, entry...)
	}
	return oneNote("Solo5", solo5Manifest, value)
}

// solo5Kernel has the program headers of a real Solo5 kernel, in their order: an
// interpreter that does not exist, code, constants, data of no size, thread-local
// data, zeros, and each note in a segment of its own. That of the manifest is
// aligned to 8 bytes although its value begins at 20.
func solo5Kernel(target uint32, header []byte, more ...testPart) []byte {
	return testELF{segments: append([]testPart{
		{kind: uint32(elf.PT_INTERP), bytes: []byte("/nonexistent/solo5/\x00")},
		load(append(bytes.Clone(header), someCode...)),
		load(someCode),
		load(nil),
		{kind: uint32(elf.PT_TLS)},
		{kind: uint32(elf.PT_LOAD), zeros: 1 << 20},
		note(oneNote("OpenBSD", 1, words(0))),
		{kind: uint32(elf.PT_NOTE), bytes: manifestNote(Device{"service", NetBasic}, Device{"data", BlockBasic}), align: 8},
		note(solo5Note(target)),
	}, more...)}.build()
}

// GRUB stumbles over a segment of no size, unless it does not read the segments.
func TestEmptyLoad(t *testing.T) {
	for _, c := range []struct {
		name     string
		segments []testPart
		want     bool
	}{
		{"none", []testPart{load(someCode), note(pvhNote)}, false},
		{"first", []testPart{load(nil), load(someCode)}, true},
		{"last", []testPart{load(someCode), load(nil)}, true},
		{"notes of no size", []testPart{load(someCode), note(nil)}, false},
		{"multiboot 1", []testPart{load(mb1), load(nil)}, true},
		{"multiboot 1 with addresses", []testPart{load(mb1AOut), load(nil)}, false},
		{"and multiboot2, by which GRUB reads them", []testPart{{kind: uint32(elf.PT_LOAD), bytes: slices.Concat(mb2, mb1AOut), align: 8}, load(nil)}, true},
	} {
		for _, class := range []elf.Class{elf.ELFCLASS32, elf.ELFCLASS64} {
			info, err := identify(testELF{class: class, segments: c.segments}.build())
			if err != nil || info.EmptyLoad != c.want {
				t.Errorf("%s, %v: got %v, %v", c.name, class, info.EmptyLoad, err)
			}
			if err := CheckGRUB(info); (err != nil) != c.want {
				t.Errorf("%s, %v: %v", c.name, class, err)
			}
		}
	}
	info, err := identify(solo5Kernel(3, mb1AOut))
	if err != nil || CheckGRUB(info) != nil {
		t.Errorf("Solo5 virtio: %+v, %v", info, err)
	}
}

func TestEnd(t *testing.T) {
	addresses := func(loadEnd, bssEnd uint32) []byte {
		return words(0x1badb002, 1<<16, -(0x1badb002+1<<16)&0xffffffff, 4<<20, 4<<20, loadEnd, bssEnd, 4<<20, 0)
	}
	big := linux(0x20f, 1)
	binary.LittleEndian.PutUint64(big[0x258:], 16<<20)
	binary.LittleEndian.PutUint32(big[0x260:], 40<<20)
	old := bytes.Clone(big)
	binary.LittleEndian.PutUint16(old[0x206:], 0x209)
	nowhere := bytes.Clone(big)
	binary.LittleEndian.PutUint64(nowhere[0x258:], 1<<63)
	segments := []testPart{load(someCode), {kind: uint32(elf.PT_LOAD), bytes: someCode, zeros: 2 << 20}}
	for _, c := range []struct {
		name   string
		kernel []byte
		end    uint64
	}{
		{"ELF", testELF{segments: segments}.build(), 3<<20 + 64},
		{"ELF and addresses", testELF{segments: append(segments, load(addresses(5<<20, 6<<20)))}.build(), 6 << 20},
		{"addresses", addresses(5<<20, 6<<20), 6 << 20},
		{"no zeros behind", addresses(5<<20, 0), 5 << 20},
		{"the whole file", addresses(0, 0), 4<<20 + 36},
		{"ends before it begins", addresses(1<<20, 0), 0},
		{"Linux", big, 56 << 20},
		{"Linux of protocol 2.9", old, 0},
		{"Linux that is cut off", big[:0x250], 0},
		{"Linux of no address", nowhere, 0},
	} {
		info, err := identify(c.kernel)
		if err != nil || info.End != c.end {
			t.Errorf("%s: %#x, %v, want %#x", c.name, info.End, err, c.end)
		}
		if c.end == 0 {
			continue
		}
		mib := int(c.end+1<<20-1) >> 20
		if err := CheckMemory(info, mib, nil); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if err := CheckMemory(info, mib, []step.File{{Artifact: step.Artifact{Size: 2 << 20}}}); err == nil {
			t.Errorf("%s: the module is not counted", c.name)
		}
		if err := CheckMemory(info, mib-1, nil); err == nil {
			t.Errorf("%s: %d MiB is taken for enough", c.name, mib-1)
		}
	}
}
