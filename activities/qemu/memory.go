package qemu

import (
	"bufio"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

// leastMemory is what a kernel of no size needs, in MiB: kernels begin at 1 MiB.
// OVMF (2022.11) does not come as far as GRUB with less.
var leastMemory = map[string]int{viaKernel: 2, viaBIOS: 2, viaUEFI: 64}

// fits refuses a kernel whose memory ends behind the machine's: QEMU would load
// it all the same, into nothing, and the processor run through nothing for ever.
func (s *settings) fits(kernel io.ReaderAt, abi string, modules []step.File) error {
	need := extent(kernel, abi)
	what := "the kernel"
	for _, m := range modules {
		need += uint64(m.Artifact.Size)
		what = "the kernel with its modules"
	}
	if need <= uint64(s.Memory)<<20 {
		return nil
	}
	mib := (need + 1<<20 - 1) >> 20
	return invalid("memory", fmt.Sprintf("at least %d, and what it works with", mib), "%d MiB is too little: %s takes all up to %d MiB", s.Memory, what, mib)
}

// extent is the first address behind the kernel once it is loaded, as far as
// its headers tell; 0 if they do not.
func extent(kernel io.ReaderAt, abi string) (end uint64) {
	if abi == image.LinuxBzImage {
		return linuxExtent(kernel)
	}
	f, err := elf.NewFile(kernel)
	if err != nil {
		return multibootExtent(kernel)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && p.Memsz > 0 && p.Paddr+p.Memsz >= p.Paddr {
			end = max(end, p.Paddr+p.Memsz)
		}
	}
	return end
}

// linuxExtent is where the kernel unpacks itself and its room there, since
// protocol 2.10: https://docs.kernel.org/arch/x86/boot.html
func linuxExtent(kernel io.ReaderAt) uint64 {
	head := make([]byte, 0x264)
	if _, err := kernel.ReadAt(head, 0); err != nil || string(head[0x202:0x206]) != "HdrS" || binary.LittleEndian.Uint16(head[0x206:]) < 0x20a {
		return 0
	}
	preferred, size := binary.LittleEndian.Uint64(head[0x258:]), binary.LittleEndian.Uint32(head[0x260:])
	if preferred > 1<<40 {
		return 0 // not of this world
	}
	return preferred + uint64(size)
}

// multibootExtent is that of a kernel which gives its addresses in its
// multiboot header: https://www.gnu.org/software/grub/manual/multiboot
func multibootExtent(kernel io.ReaderAt) uint64 {
	head := make([]byte, 8192)
	n, err := kernel.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0
	}
	head = head[:n]
	at := bytes.Index(head, []byte("\x02\xb0\xad\x1b"))
	if at < 0 || at+32 > len(head) {
		return 0
	}
	word := func(i int) uint32 { return binary.LittleEndian.Uint32(head[at+4*i:]) }
	if word(1)&(1<<16) == 0 || word(0)+word(1)+word(2) != 0 {
		return 0
	}
	return uint64(max(word(5), word(6)))
}

// checkMemory refuses what the whole host does not have. Whether it is free is
// not asked: that changes until boot, and Linux gives it when it is touched.
func checkMemory(mib int) error {
	f, err := os.Open("/proc/meminfo")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	total := 0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var name string
		var kib int
		if _, err := fmt.Sscanf(lines.Text(), "%s %d kB", &name, &kib); err == nil && (name == "MemTotal:" || name == "SwapTotal:") {
			total += kib / 1024
		}
	}
	if total > 0 && mib > total {
		return &step.Error{Kind: step.Unsupported, Field: "memory", Err: fmt.Errorf("%d MiB is more than the host has", mib),
			Hint: fmt.Sprintf("the host has %d MiB with its swap", total)}
	}
	return nil
}
