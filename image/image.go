// Package image identifies kernels and says which kinds of target boot them.
//
// [Identify] reads a kernel's ABIs from its bytes: words such as "pvh" or "xen-pv".
// [Supports] looks up an ABI and a kind of target in a table. An impossible pair is
// refused, with its reason, before any long work.
//
// The package is pure: it opens no file and runs no program.
package image

import (
	"errors"
	"fmt"
	"strings"

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

	// LinuxExecutable: a program for Linux, such as MirageOS's unix target makes.
	LinuxExecutable = "linux-executable"
	// ELF: a linked ELF file with none of the above. No general loader starts it.
	ELF = "elf"
)

// Info describes a kernel, as read from its bytes.
type Info struct {
	// ABIs is sorted and never empty. For a compressed kernel they are the ABIs of
	// the kernel inside; some loaders do not unpack it.
	ABIs []string
	// Machine is the kernel's processor: "x86_64", "i386", "aarch64", ...
	Machine string
	// Compression of the file: "", "gzip", "xz" or "bzip2".
	Compression string
	// Devices of a Solo5 kernel's manifest, in its order; nil for any other kernel
	// and for an empty manifest.
	Devices []Device
	// NoMultiboot says that a Solo5 xen kernel has no multiboot 1 header, by which GRUB
	// starts it. Solo5 0.6.8 and later give it one.
	NoMultiboot bool
	// EmptyLoad says that GRUB reads the kernel's ELF segments and refuses one of them: a
	// PT_LOAD segment of no size ("overlap detected"). Unikraft's kernels have one.
	// Solo5's virtio kernels have such a segment too, but GRUB does not read it, because
	// their multiboot 1 header has load addresses.
	EmptyLoad bool
	// End is the first address behind the loaded kernel in the machine's memory; 0
	// if the headers do not say.
	End uint64
}

// CheckMachine refuses a kernel that does not run on a processor: Unsupported. machine is
// the processor's name, as in [Info.Machine]. An i386 kernel runs on x86_64; it is often
// a 64-bit kernel in a 32-bit ELF file.
func CheckMachine(info Info, machine string) error {
	if info.Machine == machine || info.Machine == "" || info.Machine == "i386" && machine == "x86_64" {
		return nil
	}
	return &step.Error{Kind: step.Unsupported,
		Err:  fmt.Errorf("the kernel is for %s, the machine is %s", info.Machine, machine),
		Hint: "build it for " + machine + ", or run it on a machine that is " + info.Machine}
}

// CheckGRUB refuses a kernel that GRUB does not load: Unsupported, with Field "via".
// [Supports] does not know a kernel's segments and headers.
func CheckGRUB(info Info) error {
	if info.NoMultiboot {
		return &step.Error{Kind: step.Unsupported, Field: "via", Hint: "via: kernel, or build it with Solo5 0.6.8 or later",
			Err: errors.New("grub cannot load this Solo5 xen kernel: it has no multiboot header")}
	}
	if !info.EmptyLoad {
		return nil
	}
	return &step.Error{Kind: step.Unsupported, Field: "via", Hint: "via: kernel, or link it without such a segment",
		Err: errors.New(`grub cannot load this kernel: it has a segment of no size ("overlap detected")`)}
}

// WithoutVia returns an error about a boot disk, of [CheckGRUB] or of package disk, for a target
// that boots from a disk only.
func WithoutVia(err error) error {
	return step.Amend(err, func(e *step.Error) {
		e.Hint = strings.TrimPrefix(e.Hint, "via: kernel, or ")
		if e.Field == "via" {
			e.Field = ""
		}
	})
}

// CheckMemory refuses a machine with mib MiB of memory if the kernel and its modules need
// more. The error is InvalidSpec with Field "memory". QEMU would start such a machine
// without an error, and it would run for ever and print nothing.
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
	return step.Invalid("memory", fmt.Sprintf("at least %d, and what it works with", least), "%d MiB is too little: %s takes all up to %d MiB", mib, what, least)
}
