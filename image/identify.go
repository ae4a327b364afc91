package image

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/morgana-deploy/morgana/step"
)

// headSize is the part of a file in which headers are searched. A multiboot2 header
// is in the first 32 KiB, the magic of an ISO image just behind them.
const headSize = 33 << 10

// maxHeaders limits the size of an ELF file's headers and section names. A kernel
// has a few KiB of them.
const maxHeaders = 2 << 20

// Identify reads the headers and notes of the kernel in r, a file of size bytes. It
// trusts no count or size in them, so its memory is bounded. A compressed kernel is
// unpacked to its end, up to 1 GiB.
//
// The error is InvalidSpec if the file is no kernel, damaged or cut off, and says
// what the file is. Errors of reading r are returned unchanged.
func Identify(r io.ReaderAt, size int64) (Info, error) {
	f := newFile(r, size)
	info, err := f.identify()
	if f.err != nil {
		return Info{}, fmt.Errorf("identify kernel: %w", f.err)
	}
	if err != nil {
		return Info{}, err
	}
	slices.Sort(info.ABIs)
	return info, nil
}

// file reads a kernel's file and keeps the first error of reading, so that it is
// not mistaken for damage of the file.
type file struct {
	r   *io.SectionReader
	err error
}

func newFile(r io.ReaderAt, size int64) *file {
	return &file{r: io.NewSectionReader(r, 0, max(size, 0))}
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.r.ReadAt(p, off)
	// A negative offset in a damaged file gives io.EOF, which is no error of reading.
	if err != nil && !errors.Is(err, io.EOF) && f.err == nil {
		f.err = err
	}
	return n, err
}

func (f *file) size() uint64 { return uint64(f.r.Size()) }

func (f *file) head() ([]byte, error) {
	head := make([]byte, min(headSize, f.size()))
	if n, _ := f.ReadAt(head, 0); n < len(head) {
		return nil, damaged("it is shorter than %d bytes", f.size())
	}
	return head, nil
}

func (f *file) identify() (Info, error) {
	head, err := f.head()
	if err != nil {
		return Info{}, err
	}
	if p := packing(head); p != nil {
		return f.identifyPacked(p)
	}
	return f.identifyPlain()
}

func (f *file) identifyPlain() (Info, error) {
	head, err := f.head()
	if err != nil {
		return Info{}, err
	}
	if bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
		return f.identifyELF(head)
	}
	if info, ok := bzImage(head); ok {
		return info, nil
	}
	if m, found := findMultiboot1(head); found && m.addressed() {
		return Info{ABIs: []string{Multiboot1}, Machine: "i386", End: m.end(f.size())}, nil
	}
	return Info{}, notKernel(head)
}

// frugal limits the bytes that debug/elf reads. debug/elf allocates as many sections
// and as long a table of names as the file claims.
type frugal struct {
	f    *file
	left int
}

var errHeaders = errors.New("too large")

func (l *frugal) ReadAt(p []byte, off int64) (int, error) {
	if len(p) > l.left && off <= l.f.r.Size()-int64(len(p)) {
		return 0, errHeaders
	}
	l.left -= len(p)
	return l.f.ReadAt(p, off)
}

func (f *file) identifyELF(head []byte) (Info, error) {
	// debug/elf checks the offsets of headers. The offsets in them are checked below.
	e, err := elf.NewFile(&frugal{f, maxHeaders})
	if errors.Is(err, errHeaders) {
		return Info{}, damaged("its ELF headers take more than %d bytes", maxHeaders)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return Info{}, damaged("it ends inside its ELF headers")
	}
	if err != nil {
		return Info{}, damaged("its ELF headers make no sense: %w", err)
	}
	switch e.Type {
	case elf.ET_EXEC, elf.ET_DYN:
	case elf.ET_REL:
		return Info{}, invalid("this is an object file, not a kernel: it is not linked", wanted)
	case elf.ET_CORE:
		return Info{}, invalid("this is a core dump, not a kernel", wanted)
	default:
		return Info{}, invalid(fmt.Sprintf("this is an ELF file of type %d, not a kernel", uint16(e.Type)), wanted)
	}
	if err := f.checkSegments(e); err != nil {
		return Info{}, err
	}
	notes, err := f.readNotes(e)
	if err != nil {
		return Info{}, err
	}

	abis := elfABIs(e, notes, head)
	if len(abis) == 0 {
		switch {
		case notes.linux || hasSegment(e, elf.PT_INTERP) || hasSegment(e, elf.PT_TLS):
			abis = []string{LinuxExecutable}
		case e.Type == elf.ET_DYN && e.Entry == 0:
			return Info{}, invalid("this is a shared library, not a kernel", wanted)
		default:
			abis = []string{ELF}
		}
	}
	info := Info{ABIs: abis, Machine: machineName(e.Machine), Devices: notes.devices}
	m, found := findMultiboot1(head)
	addressed := found && m.addressed()
	if notes.solo5 == Solo5Xen {
		info.End, info.NoMultiboot = segmentsEnd(e), !addressed
	} else if addressed && slices.Contains(abis, Multiboot1) {
		info.End = m.end(f.size())
		info.EmptyLoad = emptyLoad(e) && slices.Contains(abis, Multiboot2) // GRUB prefers it, and then reads segments
	} else {
		info.End, info.EmptyLoad = segmentsEnd(e), emptyLoad(e)
	}
	return info, nil
}

// elfABIs returns the ABIs of an ELF file, none if it is no kernel.
func elfABIs(e *elf.File, notes notes, head []byte) []string {
	var abis []string
	if notes.solo5 != "" {
		abis = append(abis, notes.solo5)
	}
	if e.Machine != elf.EM_X86_64 && e.Machine != elf.EM_386 {
		return abis // the ABIs below are those of x86
	}
	if notes.xen.pv() {
		abis = append(abis, XenPV)
	}
	if notes.xen.phys32Entry {
		abis = append(abis, XenPVH)
	}
	// A Solo5 xen kernel has a multiboot 1 header too, but calls Xen's hypervisor.
	// Started by that header, without Xen, it hangs and prints nothing.
	if notes.solo5 == Solo5Xen {
		return abis
	}
	if notes.xen.phys32Entry && notes.xen.inSegment {
		abis = append(abis, PVH)
	}
	if m, found := findMultiboot1(head); found {
		if m.addressed() || e.Class == elf.ELFCLASS32 {
			abis = append(abis, Multiboot1)
		} else {
			abis = append(abis, Multiboot1ELF64)
		}
	}
	if multiboot2(head) {
		abis = append(abis, Multiboot2)
	}
	return abis
}

// checkSegments refuses segments that a loader would refuse.
func (f *file) checkSegments(e *elf.File) error {
	var memory uint64
	for i, p := range e.Progs {
		if p.Type != elf.PT_LOAD && p.Type != elf.PT_NOTE {
			continue
		}
		if p.Off > f.size() || p.Filesz > f.size()-p.Off {
			return damaged("segment %d is %d bytes at %d, but the file has %d bytes",
				i, p.Filesz, p.Off, f.size())
		}
		if p.Type != elf.PT_LOAD {
			continue
		}
		if p.Filesz > p.Memsz {
			return damaged("segment %d has %d bytes for %d bytes of memory", i, p.Filesz, p.Memsz)
		}
		// One empty segment is no damage: Solo5 and Unikraft link one.
		memory |= p.Memsz
	}
	if memory == 0 {
		return damaged("it has nothing to load into memory")
	}
	return nil
}

func emptyLoad(e *elf.File) bool {
	return slices.ContainsFunc(e.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_LOAD && p.Memsz == 0 })
}

// segmentsEnd is the first physical address behind the segments.
func segmentsEnd(e *elf.File) (end uint64) {
	for _, p := range e.Progs {
		if p.Type == elf.PT_LOAD && p.Memsz > 0 && p.Paddr+p.Memsz >= p.Paddr {
			end = max(end, p.Paddr+p.Memsz)
		}
	}
	return end
}

func hasSegment(e *elf.File, t elf.ProgType) bool {
	return slices.ContainsFunc(e.Progs, func(p *elf.Prog) bool { return p.Type == t })
}

func machineName(m elf.Machine) string {
	switch m {
	case elf.EM_386:
		return "i386"
	case elf.EM_S390:
		return "s390x"
	}
	// "EM_X86_64" becomes "x86_64".
	return strings.ToLower(strings.TrimPrefix(m.String(), "EM_"))
}

const wanted = "a kernel is an ELF file (PVH, Xen PV, multiboot or Solo5) or a Linux bzImage"

const again = "build it or copy it again"

func invalid(what, hint string) error {
	return &step.Error{Kind: step.InvalidSpec, Op: "identify kernel", Err: errors.New(what), Hint: hint}
}

func damaged(format string, args ...any) error {
	return &step.Error{Kind: step.InvalidSpec, Op: "identify kernel",
		Err:  fmt.Errorf("the file is damaged or cut off: "+format, args...),
		Hint: again}
}
