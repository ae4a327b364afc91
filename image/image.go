// Package image knows what a kernel is: it reads from a file's bytes how the
// file can be booted, and says which kinds of target boot it that way.
//
// [Identify] gives a kernel's ABIs, words such as "pvh" or "xen-pv".
// [Supports] is the table of ABI and kind of target, so that an impossible pair
// is refused with its reason before any long work.
//
// The package is pure: it reads what it is given, opens nothing, runs nothing.
package image

import (
	"errors"
	"fmt"

	"github.com/morgana-deploy/morgana/step"
)

// The ABIs: the ways a kernel can be started. A kernel often has several. They
// travel as plain strings in step.Origin and step.Kernel.
const (
	// PVH: a 32-bit entry point given by Xen note 18 in a PT_NOTE segment.
	// QEMU, Firecracker and Cloud Hypervisor start it without Xen.
	PVH = "pvh"
	// XenPVH: the same entry point, started by Xen in a PVH domain. Xen finds
	// the note by section too, so not every XenPVH kernel is PVH.
	XenPVH = "xen-pvh"
	// XenPV: a paravirtual Xen domain, started directly or by pv-grub.
	XenPV = "xen-pv"
	// Multiboot1: a multiboot 1 header in a 32-bit ELF file, or with load
	// addresses of its own (the "a.out kludge", as in Solo5's virtio kernels).
	Multiboot1 = "multiboot1"
	// Multiboot1ELF64: a multiboot 1 header without load addresses in a 64-bit
	// ELF file. GRUB loads it; QEMU finds the header and gives up, even if the
	// kernel is PVH as well.
	Multiboot1ELF64 = "multiboot1-elf64"
	// Multiboot2: a multiboot2 header, which GRUB loads.
	Multiboot2 = "multiboot2"
	// LinuxBzImage: Linux's boot protocol, header "HdrS".
	LinuxBzImage = "linux-bzimage"

	// The Solo5 ABIs name the binding a MirageOS or other Solo5 kernel is
	// linked with. A Solo5 kernel also has the ABI by which its binding is
	// loaded: Solo5Virtio has Multiboot1, Solo5Xen has XenPVH.
	Solo5HVT    = "solo5-hvt"
	Solo5SPT    = "solo5-spt"
	Solo5Virtio = "solo5-virtio"
	Solo5Muen   = "solo5-muen"
	Solo5Genode = "solo5-genode"
	Solo5Xen    = "solo5-xen"

	// LinuxExecutable: no kernel but a program that Linux runs, which is what
	// MirageOS's unix target makes.
	LinuxExecutable = "linux-executable"
	// ELF: a linked ELF file with none of the above; only a loader that knows
	// it in particular can start it.
	ELF = "elf"
)

// Info is what a kernel's bytes say.
type Info struct {
	// ABIs is sorted and never empty. Of a compressed kernel they are those of
	// the kernel inside; whether it starts compressed is up to its loader.
	ABIs []string
	// Machine is the processor it is for: "x86_64", "i386", "aarch64", ...
	Machine string
	// Compression is how the file is packed: "", "gzip", "xz" or "bzip2".
	Compression string
	// Devices are those a Solo5 kernel was linked for, in the manifest's order;
	// nil for any other kernel, and for one that wants none.
	Devices []Device
	// EmptyLoad says that GRUB reads the kernel's ELF segments and refuses one of
	// them: a PT_LOAD segment of no size ("overlap detected"). Unikraft's kernels
	// have one. Solo5's virtio kernels have one too, but their multiboot 1 header
	// has load addresses, so GRUB does not read their segments.
	EmptyLoad bool
	// End is the first address behind the loaded kernel in the machine's memory; 0
	// if the headers do not say.
	End uint64
}

// CheckMachine is nil if a machine of the given processor, in the words of
// [Info.Machine], runs the kernel; else Unsupported. A 32-bit x86 kernel runs
// on x86_64, and is often a 64-bit one in a 32-bit ELF file for its loader.
func CheckMachine(info Info, machine string) error {
	if info.Machine == machine || info.Machine == "" || info.Machine == "i386" && machine == "x86_64" {
		return nil
	}
	return &step.Error{Kind: step.Unsupported,
		Err:  fmt.Errorf("the kernel is for %s, the machine is %s", info.Machine, machine),
		Hint: "build it for " + machine + ", or run it on a machine that is " + info.Machine}
}

// CheckGRUB is nil if GRUB loads the segments of a kernel that it [Supports];
// else Unsupported, of the option via.
func CheckGRUB(info Info) error {
	if !info.EmptyLoad {
		return nil
	}
	return &step.Error{Kind: step.Unsupported, Field: "via", Hint: "via: kernel, or link it without such a segment",
		Err: errors.New(`grub cannot load this kernel: it has a segment of no size ("overlap detected")`)}
}

// CheckMemory is nil if a machine with mib MiB of memory holds the kernel and its
// modules; else InvalidSpec, of the option memory. A loader may not see that: QEMU
// drops what is behind the machine's memory, and the machine runs for ever.
func CheckMemory(info Info, mib int, modules []step.File) error {
	need, what := info.End, "the kernel"
	for _, m := range modules {
		need += uint64(m.Artifact.Size)
		what = "the kernel with its modules"
	}
	if need <= uint64(mib)<<20 {
		return nil
	}
	least := (need + 1<<20 - 1) >> 20
	return &step.Error{Kind: step.InvalidSpec, Field: "memory",
		Err:  fmt.Errorf("%d MiB is too little: %s takes all up to %d MiB", mib, what, least),
		Hint: fmt.Sprintf("at least %d, and what it works with", least)}
}
