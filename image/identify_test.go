package image

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

func identify(b []byte) (Info, error) { return Identify(bytes.NewReader(b), int64(len(b))) }

// kernels are the files of the tests and the fuzz corpus. The comments name the
// real kernels that look like this.
var kernels = []struct {
	name    string
	bytes   []byte
	abis    []string
	machine string
}{
	{"PVH", testELF{segments: []testPart{load(someCode), note(pvhNote)}}.build(),
		[]string{PVH, XenPVH}, "x86_64"},
	{"PVH, 4-byte entry", testELF{segments: []testPart{load(someCode), note(pvhNote32)}}.build(),
		[]string{PVH, XenPVH}, "x86_64"},
	{"PVH, 32-bit ELF", testELF{class: elf.ELFCLASS32, machine: elf.EM_386,
		segments: []testPart{load(someCode), note(pvhNote32)}}.build(),
		[]string{PVH, XenPVH}, "i386"},
	{"PVH note in no segment", testELF{segments: []testPart{load(someCode)}, sections: []testPart{noteSection(pvhNote)}}.build(),
		[]string{XenPVH}, "x86_64"},
	{"all of Xen's and both multiboots", testELF{class: elf.ELFCLASS32, machine: elf.EM_386, segments: []testPart{
		load(slices.Concat(mb1, mb2, someCode)), note(slices.Concat(pvNotes, pvhNote))}}.build(),
		[]string{Multiboot1, Multiboot2, PVH, XenPV, XenPVH}, "i386"},
	{"Xen PV, notes in a segment", testELF{segments: []testPart{load(someCode), note(pvNotes)}}.build(),
		[]string{XenPV}, "x86_64"},
	{"GRUB for 32-bit Xen", testELF{class: elf.ELFCLASS32, machine: elf.EM_386, segments: []testPart{load(someCode),
		note(slices.Concat(pvNotes, words(4, 12, 9, 0x006e6558, 0x00736579)))}}.build(),
		[]string{XenPV}, "i386"},
	{"Unikraft on Xen", testELF{segments: []testPart{load(someCode), load(nil)}, sections: []testPart{noteSection(pvNotes)}}.build(),
		[]string{XenPV}, "x86_64"},
	{"old Mini-OS", testELF{segments: []testPart{load(someCode)}, sections: []testPart{{kind: uint32(elf.SHT_PROGBITS),
		name: "__xen_guest", bytes: []byte("GUEST_OS=Mini-OS,XEN_VER=xen-3.0,VIRT_BASE=0x0,LOADER=generic\x00")}}}.build(),
		[]string{XenPV}, "x86_64"},
	{"Xen PV without a loader Xen takes", testELF{segments: []testPart{load(someCode), note(xenString(xenVersion, "xen-3.0"))}}.build(),
		[]string{ELF}, "x86_64"},
	{"Solo5 virtio", solo5Kernel(3, mb1AOut), []string{Multiboot1, Solo5Virtio}, "x86_64"},
	{"Solo5 xen", solo5Kernel(6, mb1AOut, note(pvhNote)), []string{Solo5Xen, XenPVH}, "x86_64"},
	{"Solo5 hvt", solo5Kernel(1, nil), []string{Solo5HVT}, "x86_64"},
	{"Solo5 spt", solo5Kernel(2, nil), []string{Solo5SPT}, "x86_64"},
	{"Solo5 muen", solo5Kernel(4, nil), []string{Solo5Muen}, "x86_64"},
	{"Solo5 to come", solo5Kernel(9, nil), []string{"solo5-9"}, "x86_64"},
	{"Solo5 hvt for arm", testELF{machine: elf.EM_AARCH64, segments: []testPart{load(append(bytes.Clone(mb2), someCode...)), note(solo5Note(1))}}.build(),
		[]string{Solo5HVT}, "aarch64"},
	{"multiboot 1, 32-bit ELF", testELF{class: elf.ELFCLASS32, machine: elf.EM_386, segments: []testPart{load(mb1)}}.build(),
		[]string{Multiboot1}, "i386"},
	{"multiboot 1, 64-bit ELF", testELF{segments: []testPart{load(mb1), note(pvhNote)}}.build(),
		[]string{Multiboot1ELF64, PVH, XenPVH}, "x86_64"},
	{"multiboot 1, no ELF", append(bytes.Clone(mb1AOut), someCode...), []string{Multiboot1}, "i386"},
	{"multiboot2", testELF{segments: []testPart{{kind: uint32(elf.PT_LOAD), bytes: mb2, align: 8}}}.build(),
		[]string{Multiboot2}, "x86_64"},
	{"multiboot2, misaligned", testELF{segments: []testPart{{kind: uint32(elf.PT_LOAD), bytes: append(make([]byte, 4), mb2...), align: 8}}}.build(),
		[]string{ELF}, "x86_64"},
	{"Linux", linux(0x20f, 1), []string{LinuxBzImage}, "x86_64"},
	{"old Linux", linux(0x204, 1), []string{LinuxBzImage}, "i386"},
	{"dynamic program", testELF{typ: elf.ET_DYN, segments: []testPart{{kind: uint32(elf.PT_INTERP), bytes: []byte("/lib/ld.so\x00")}, load(someCode)}}.build(),
		[]string{LinuxExecutable}, "x86_64"},
	{"static program", testELF{segments: []testPart{load(someCode), note(oneNote("GNU", 1, words(0, 3, 2, 0)))}}.build(),
		[]string{LinuxExecutable}, "x86_64"},
	{"Linux program for arm", testELF{machine: elf.EM_AARCH64, segments: []testPart{load(someCode), note(oneNote("GNU", 1, words(0, 3, 2, 0)))}}.build(),
		[]string{LinuxExecutable}, "aarch64"},
	{"nothing known", testELF{machine: elf.EM_RISCV, segments: []testPart{load(someCode)}}.build(), []string{ELF}, "riscv"},
}

func linux(version, xloadflags uint16) []byte {
	b := make([]byte, 1024)
	copy(b, "MZ") // its EFI stub
	binary.LittleEndian.PutUint16(b[0x1fe:], 0xaa55)
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x206:], version)
	binary.LittleEndian.PutUint16(b[0x236:], xloadflags)
	return b
}

func TestIdentify(t *testing.T) {
	for _, k := range kernels {
		info, err := identify(k.bytes)
		if err != nil {
			t.Errorf("%s: %v", k.name, err)
			continue
		}
		if strings.HasPrefix(k.name, "Solo5") && k.machine == "x86_64" !=
			slices.Equal(info.Devices, []Device{{"service", NetBasic}, {"data", BlockBasic}}) {
			t.Errorf("%s: got devices %v", k.name, info.Devices)
		}
		if !slices.Equal(info.ABIs, k.abis) || info.Machine != k.machine {
			t.Errorf("%s: got %v for %s, want %v for %s", k.name, info.ABIs, info.Machine, k.abis, k.machine)
		}
	}
}

func TestIdentifyThisTest(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := identify(raw); err != nil || !slices.Equal(info.ABIs, []string{LinuxExecutable}) {
		t.Errorf("got %v, %v", info, err)
	}
}

// wantInvalid checks that err is one clear InvalidSpec that says text.
func wantInvalid(t *testing.T, name string, err error, text string) {
	t.Helper()
	var e *step.Error
	if !errors.As(err, &e) || e.Kind != step.InvalidSpec {
		t.Errorf("%s: got %v, want InvalidSpec", name, err)
		return
	}
	said := e.Error()
	for _, unclear := range []string{"\n", "EOF", "failed to", "%!"} {
		if strings.Contains(said, unclear) {
			t.Errorf("%s: %q is not one clear line", name, said)
		}
	}
	if !strings.Contains(said, text) || e.Hint == "" {
		t.Errorf("%s: got %q with hint %q, want %q with a hint", name, e.Error(), e.Hint, text)
	}
}

func TestIdentifyOtherFiles(t *testing.T) {
	iso := make([]byte, 40<<10)
	copy(iso[32769:], "CD001")
	tar := make([]byte, 1024)
	copy(tar[257:], "ustar")
	disk := make([]byte, 1024)
	copy(disk[510:], "\x55\xaa")
	for _, c := range []struct{ bytes, want string }{
		{"", "the file is empty"},
		{"#!/bin/sh\necho hi\n", "this is a shell script, not a kernel"},
		{"#!/usr/bin/env bash\n", "this is a shell script"},
		{"#!/usr/bin/env python3\n", "this is a script"},
		{"#!", "this is a script"},
		{"app: hello\nsource: größer\n", "this is text"},
		{strings.Repeat("a", 511) + "ö", "this is text"},
		{"\x1f\x8b\x08\x00\x00", "damaged or cut off: it ends inside its gzip data"},
		{"\x28\xb5\x2f\xfd\x04", "this is a zstd file, not a kernel"},
		{"\x04\x22\x4d\x18\x04", "this is an lz4 file, not a kernel"},
		{"\x89LZO\x00\r\n\x1a\n", "this is an lzop file, not a kernel"},
		{"BZhang is a name\n", "this is text"},
		{"BZh, he said\n", "this is text"},
		{"MZ\x90\x00\x03\x00", "this is a Windows or EFI program"},
		{"!<arch>\nx.o/", "this is a static library"},
		{"!<arch>\ndebian-binary", "this is a Debian package"},
		{"QFI\xfb\x00\x00\x00\x03", "this is a qcow2 disk image"},
		{string(iso), "this is an ISO 9660 image"},
		{string(tar), "this is a tar file"},
		{string(disk), "this is a disk image"},
		{"\x00\x01\x02\x03", "no kind of kernel that is known here"},
		{"\x7fELF", "damaged or cut off: it ends inside its ELF headers"},
		{string(mb1), "no kind of kernel"}, // no addresses and no ELF: nowhere to load it
		{string(testELF{typ: elf.ET_REL, segments: []testPart{load(someCode)}}.build()), "this is an object file"},
		{string(testELF{typ: elf.ET_CORE, segments: []testPart{load(someCode)}}.build()), "this is a core dump"},
	} {
		_, err := identify([]byte(c.bytes))
		wantInvalid(t, c.bytes[:min(len(c.bytes), 12)], err, c.want)
	}
}

// Wherever a kernel is cut off, there is one clear error.
func TestIdentifyCutOff(t *testing.T) {
	for _, k := range kernels {
		if !bytes.HasPrefix(k.bytes, []byte(elf.ELFMAG)) {
			continue
		}
		for n := len(elf.ELFMAG); n < len(k.bytes); n++ {
			_, err := identify(k.bytes[:n])
			if err == nil && allZero(k.bytes[n:]) {
				continue // nothing but padding is gone
			}
			wantInvalid(t, k.name, err, "damaged or cut off")
		}
	}
	whole := kernels[0].bytes
	_, err := Identify(bytes.NewReader(whole[:100]), int64(len(whole)))
	wantInvalid(t, "shorter than it is said to be", err, "damaged or cut off")
}

func allZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

func TestIdentifyDamaged(t *testing.T) {
	good := testELF{segments: []testPart{load(someCode), note(pvhNote)}, sections: []testPart{noteSection(pvhNote)}}
	const ( // offsets in an ELF64 file with its program headers at 64
		phoff, shoff, phentsize, phnum, shnum, shstrndx = 32, 40, 54, 56, 60, 62
		load0, note1                                    = 64, 64 + 56
		pOffset, pFilesz, pMemsz                        = 8, 32, 40
	)
	edit := func(at int, value []byte) []byte {
		b := good.build()
		copy(b[at:], value)
		return b
	}
	// The names are the last section but the null one and a note.
	manyNames := append(good.build(), make([]byte, 3<<20)...)
	copy(manyNames[binary.LittleEndian.Uint64(manyNames[shoff:])+2*64+32:], words(3<<20, 0))
	// The ELF header cannot hold such a number, so it is in section 0.
	manySections := append(good.build(), make([]byte, 0xff00*64)...)
	copy(manySections[shnum:], []byte{0, 0, 0x10, 0xff})
	copy(manySections[binary.LittleEndian.Uint64(manySections[shoff:])+32:], words(0xff00, 0))
	huge, ones := words(0, 0x80000000), words(0xffffffff, 0xffffffff)
	withNote := func(b []byte) []byte { return testELF{segments: []testPart{load(someCode), note(b)}}.build() }
	for _, c := range []struct {
		name  string
		bytes []byte
		want  string
	}{
		{"many program headers", edit(phnum, []byte{0xff, 0xff}), "ends inside its ELF headers"},
		{"many sections", edit(shnum, []byte{0xff, 0xff}), "ends inside its ELF headers"},
		{"program header too small", edit(phentsize, []byte{1, 0}), "make no sense"},
		{"program headers far away", edit(phoff, huge), "make no sense"},
		{"program headers past the end", edit(phoff, words(0, 1)), "ends inside its ELF headers"},
		{"section headers far away", edit(shoff, huge), "make no sense"},
		{"names in no section", edit(shstrndx, []byte{0xfe, 0xfe}), "make no sense"},
		{"unknown class", edit(4, []byte{9}), "make no sense"},
		{"unknown byte order", edit(5, []byte{9}), "make no sense"},
		{"loads past the end", edit(load0+pOffset, words(0, 1)), "segment 0 is 64 bytes at 4294967296"},
		{"loads more than there is", edit(load0+pFilesz, words(0, 0x7fffffff)), "segment 0 is"},
		{"loads more than fits", edit(load0+pMemsz, words(1, 0)), "segment 0 has 64 bytes for 1 bytes of memory"},
		{"loads nothing", testELF{segments: []testPart{load(nil), note(pvhNote)}}.build(), "it has nothing to load"},
		{"has no segments", testELF{sections: []testPart{noteSection(pvhNote)}}.build(), "it has nothing to load"},
		{"huge notes", edit(note1+pFilesz, words(0, 0x7fffffff)), "segment 1 is"},
		{"notes past the end", edit(note1+pOffset, ones), "make no sense"},
		{"many notes", testELF{segments: []testPart{load(someCode), note(make([]byte, maxNotes+4))}}.build(), "more than 1048576 bytes of notes"},
		{"note with a huge name", withNote(words(0xffffffff, 8, 18, 0)), "the note at byte 0 runs past the end"},
		{"note with a huge value", withNote(words(4, 0xfffffffe, 18, 0x006e6558)), "the note at byte 0 runs past the end"},
		{"second note cut off", withNote(append(bytes.Clone(pvhNote), words(4, 8, 18)...)), "the note at byte 24 runs past the end"},
		{"PVH entry of 3 bytes", withNote(oneNote("Xen", 18, []byte{1, 2, 3})), "the PVH entry point has 3 bytes, not 4 or 8"},
		{"PVH entry of no bytes", withNote(oneNote("Xen", 18, nil)), "the PVH entry point has 0 bytes"},
		{"PVH entry of 16 bytes", withNote(oneNote("Xen", 18, make([]byte, 16))), "the PVH entry point has 16 bytes"},
		{"names of 3 MiB", manyNames, "its ELF headers take more than 2097152 bytes"},
		{"65280 sections, names in one that is not there", manySections, "its ELF headers take more than 2097152 bytes"},
		{"Solo5 ABI of 8 bytes", withNote(oneNote("Solo5", solo5ABI, words(1, 1))), "the Solo5 ABI has 8 bytes, not 16"},
	} {
		_, err := identify(c.bytes)
		wantInvalid(t, c.name, err, c.want)
	}
}

// A Solo5 xen kernel from before 0.6.8 has no multiboot 1 header.
func TestNoMultiboot(t *testing.T) {
	for _, c := range []struct {
		kernel []byte
		want   bool
	}{{solo5Kernel(6, mb1AOut, note(pvhNote)), false}, {solo5Kernel(6, someCode, note(pvhNote)), true}} {
		info, err := identify(c.kernel)
		if err != nil || info.NoMultiboot != c.want || (CheckGRUB(info) != nil) != c.want {
			t.Errorf("%v: got %v, %v, %v", info.ABIs, info.NoMultiboot, CheckGRUB(info), err)
		}
	}
}

func TestCheckMachine(t *testing.T) {
	arm := testELF{machine: elf.EM_AARCH64, segments: []testPart{load(someCode)}}.build()
	info, err := identify(arm)
	if err != nil {
		t.Fatal(err)
	}
	err = CheckMachine(info, "x86_64")
	var e *step.Error
	if !errors.As(err, &e) || e.Kind != step.Unsupported || e.Error() != "the kernel is for aarch64, the machine is x86_64" || e.Hint == "" {
		t.Errorf("got %v", err)
	}
	for _, c := range []struct {
		kernel, machine string
		ok              bool
	}{
		{"x86_64", "x86_64", true}, {"i386", "x86_64", true}, {"aarch64", "aarch64", true}, {"", "x86_64", true},
		{"x86_64", "i386", false}, {"riscv", "x86_64", false}, {"x86_64", "aarch64", false}, {"i386", "aarch64", false},
	} {
		if err := CheckMachine(Info{Machine: c.kernel}, c.machine); (err == nil) != c.ok {
			t.Errorf("%s on %s: %v", c.kernel, c.machine, err)
		}
	}
}

// An error of reading is not taken for a damaged file.
func TestIdentifyReadFails(t *testing.T) {
	broken := errors.New("input/output error")
	whole := kernels[0].bytes
	_, err := Identify(failing{broken}, int64(len(whole)))
	if !errors.Is(err, broken) || step.KindOf(err) != "" {
		t.Errorf("got %v of kind %q", err, step.KindOf(err))
	}
}

type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }

func FuzzIdentify(f *testing.F) {
	for _, k := range kernels {
		f.Add(k.bytes)
	}
	f.Add([]byte("#!/bin/sh\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if packing(b) != nil && !unpacksTo(b, 1<<20) {
			return // a bomb costs time, which a fuzzer counts as a hang
		}
		r := &counting{r: bytes.NewReader(b)}
		info, err := Identify(r, int64(len(b)))
		switch {
		case err != nil:
			wantInvalid(t, "fuzz", err, "")
		case len(info.ABIs) == 0 || !slices.IsSorted(info.ABIs) || info.Machine == "":
			t.Errorf("got %+v", info)
		}
		for _, d := range info.Devices {
			if _, err := checkDevice([]Device{d}); err != nil {
				t.Errorf("got %+v: %v", d, err)
			}
		}
		if limit := int64((2+maxReplays)*(len(b)+headSize) + 2*maxNotes + maxHeaders); r.n > limit {
			t.Errorf("read %d bytes of a file of %d", r.n, len(b))
		}
	})
}

type counting struct {
	r io.ReaderAt
	n int64
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.r.ReadAt(p, off)
	c.n += int64(n)
	return n, err
}

// unpacksTo reports whether b unpacks to n bytes at most.
func unpacksTo(b []byte, n int64) bool {
	plain, _, err := decompress(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return false
	}
	got, _ := io.Copy(io.Discard, io.LimitReader(plain, n+1))
	return got <= n
}
