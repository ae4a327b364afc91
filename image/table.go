package image

import (
	"errors"
	"slices"

	"github.com/morgana-deploy/morgana/step"
)

// table lists the ABIs that each kind of target, GRUB, pv-grub, pygrub and the carrier boots
// or refuses. The first row of the target with one of the kernel's ABIs decides; a row without
// an ABI matches every kernel. If why is empty the target boots the kernel by that ABI. The
// order of rows is the target's order of preference.
var table = []struct{ target, abi, why, hint string }{
	// QEMU's x86_load_linux tries Linux, multiboot 1 and PVH in this order, and
	// ends with an error at a multiboot 1 header without load addresses in a
	// 64-bit ELF file.
	{"qemu", LinuxBzImage, "", ""},
	{"qemu", Multiboot1ELF64, "qemu cannot boot a 64-bit ELF kernel by multiboot 1, and does not look further",
		"remove its multiboot 1 header and give it a PVH note, or give the header load addresses (flag 16)"},
	{"qemu", Multiboot1, "", ""},
	{"qemu", PVH, "", ""},
	{"qemu", Solo5Xen, "qemu cannot boot a Solo5 xen kernel: it needs Xen, and would hang without a word",
		"build it with -t virtio, or run it on a target of kind xen"},
	{"qemu", Solo5HVT, "qemu cannot boot a Solo5 hvt kernel",
		"build it with -t virtio, or run it on a target of kind local"},
	{"qemu", Solo5SPT, "qemu cannot boot a Solo5 spt kernel",
		"build it with -t virtio, or give carrier: linux, or run it on a target of kind local"},
	{"qemu", Solo5Muen, "qemu cannot boot a Solo5 muen kernel", "build it with -t virtio"},
	{"qemu", Solo5Genode, "qemu cannot boot a Solo5 genode kernel", "build it with -t virtio"},
	{"qemu", XenPVH, "qemu cannot boot this PVH kernel: its Xen notes are in no PT_NOTE segment, where qemu looks",
		"link it with a PT_NOTE segment that holds its Xen notes, or run it on a target of kind xen"},
	{"qemu", XenPV, "qemu cannot boot a Xen PV kernel", "run it on a target of kind xen"},
	{"qemu", Multiboot2, "qemu cannot boot a multiboot2 kernel without a boot loader",
		"give it a PVH note (as examples/hello has) or a multiboot 1 header"},
	{"qemu", LinuxExecutable, "qemu cannot boot a Linux program: it is no kernel",
		"build it as a kernel (MirageOS: -t virtio), or give carrier: linux, or run it on a target of kind local"},
	{"qemu", "", "qemu cannot boot this ELF file: it has none of the headers qemu looks for",
		"qemu boots a kernel by a PVH note, a multiboot 1 header or Linux's boot protocol"},

	// Xen's domain builder. PVH comes first: new kernels are made for it.
	{"xen", XenPVH, "", ""},
	{"xen", XenPV, "", ""},
	// Xen unpacks a bzImage and reads the notes of the kernel inside, which
	// Identify does not. Distributions' kernels have such notes.
	{"xen", LinuxBzImage, "", ""},
	{"xen", Solo5Virtio, "xen cannot boot a Solo5 virtio kernel",
		"build it with -t xen, or run it on a target of kind qemu"},
	{"xen", Solo5HVT, "xen cannot boot a Solo5 hvt kernel",
		"build it with -t xen, or run it on a target of kind local"},
	{"xen", Solo5SPT, "xen cannot boot a Solo5 spt kernel",
		"build it with -t xen, or run it on a target of kind local"},
	{"xen", Solo5Muen, "xen cannot boot a Solo5 muen kernel", "build it with -t xen"},
	{"xen", Solo5Genode, "xen cannot boot a Solo5 genode kernel", "build it with -t xen"},
	{"xen", LinuxExecutable, "xen cannot boot a Linux program: it is no kernel",
		"build it as a kernel (MirageOS: -t xen), or run it on a target of kind local"},
	{"xen", "", "xen cannot boot this kernel: it has no Xen notes",
		"xen boots a kernel whose ELF notes say PVH (note 18) or PV (XEN_VERSION xen-3.0)"},

	// The worker's own host: Linux and the tenders of Solo5.
	{"local", LinuxExecutable, "", ""},
	{"local", Solo5HVT, "", ""},
	{"local", Solo5SPT, "", ""},
	{"local", Solo5Virtio, "local cannot boot a Solo5 virtio kernel: it has no tender",
		"build it with -t unix, spt or hvt, or run it on a target of kind qemu"},
	{"local", Solo5Xen, "local cannot boot a Solo5 xen kernel: it has no tender",
		"build it with -t unix, spt or hvt, or run it on a target of kind xen"},
	{"local", Solo5Muen, "local cannot boot a Solo5 muen kernel: it has no tender", "build it with -t unix, spt or hvt"},
	{"local", Solo5Genode, "local cannot boot a Solo5 genode kernel: it has no tender", "build it with -t unix, spt or hvt"},
	{"local", Multiboot1, "local cannot boot a kernel for a whole machine", "run it on a target of kind qemu"},
	{"local", PVH, "local cannot boot a kernel for a whole machine", "run it on a target of kind qemu"},
	{"local", LinuxBzImage, "local cannot boot a Linux kernel", "run it on a target of kind qemu"},
	{"local", XenPVH, "local cannot boot a Xen kernel", "run it on a target of kind xen"},
	{"local", XenPV, "local cannot boot a Xen kernel", "run it on a target of kind xen"},
	{"local", "", "local cannot boot this kernel: it is no Linux program and no Solo5 kernel with a tender",
		"local runs what MirageOS makes with -t unix, spt or hvt"},

	// GRUB on a BIOS or UEFI disk. grub.cfg names the command, so the order is
	// ours. GRUB's multiboot loads 64-bit ELF files too, unlike QEMU's loader.
	{"grub", LinuxBzImage, "", ""},
	{"grub", Multiboot2, "", ""},
	{"grub", Multiboot1, "", ""},
	{"grub", Multiboot1ELF64, "", ""},
	{"grub", Solo5Xen, "grub cannot boot a Solo5 xen kernel: only Xen starts it",
		"build it with -t virtio, or run it on a target of kind xen"},
	{"grub", Solo5HVT, "grub cannot boot a Solo5 hvt kernel: only its tender starts it",
		"build it with -t virtio, or run it on a target of kind local"},
	{"grub", Solo5SPT, "grub cannot boot a Solo5 spt kernel: only its tender starts it",
		"build it with -t virtio, or run it on a target of kind local"},
	{"grub", Solo5Muen, "grub cannot boot a Solo5 muen kernel", "build it with -t virtio"},
	{"grub", Solo5Genode, "grub cannot boot a Solo5 genode kernel", "build it with -t virtio"},
	{"grub", PVH, "grub cannot boot a kernel by its PVH entry point", "give it a multiboot 1 or 2 header (as examples/hello has), " +
		"or start it without a disk: target qemu with via: kernel, or target xen"},
	{"grub", XenPVH, "grub cannot boot a kernel by its PVH entry point",
		"give it a multiboot 1 or 2 header (as examples/hello has), or run it on a target of kind xen"},
	{"grub", XenPV, "grub cannot boot a Xen PV kernel on a BIOS or UEFI machine",
		"run it on a target of kind xen, or boot it by pv-grub"},
	{"grub", LinuxExecutable, "grub cannot boot a Linux program: it is no kernel",
		"build it as a kernel (MirageOS: -t virtio), or run it on a target of kind local"},
	{"grub", "", "grub cannot boot this ELF file: it has none of the headers grub looks for",
		"grub boots a kernel by a multiboot 1 or 2 header or Linux's boot protocol"},

	// Package carrier's Linux, with Solo5's tenders.
	{"carrier", LinuxExecutable, "", ""},
	{"carrier", Solo5SPT, "", ""},
	{"carrier", Solo5HVT, "", ""}, // where the machine has nested virtualization
	{"carrier", "", "carrier cannot boot this kernel: it is no Linux program and no Solo5 kernel with a tender",
		"build it with MirageOS -t spt, or leave out carrier"},

	// pv-grub is GRUB as a Xen PV domain. It starts kernels for PV domains, and
	// unpacks gzip, bzip2, lzo and xz.
	{"pv-grub", XenPV, "", ""},
	// As on xen: Identify does not read the notes of the kernel inside.
	{"pv-grub", LinuxBzImage, "", ""},
	{"pv-grub", Solo5Xen, "pv-grub cannot boot a Solo5 xen kernel (MirageOS 3.9 or later): it is PVH only, and pv-grub starts PV kernels",
		"build it with MirageOS 3.8 or earlier, which makes PV kernels, or run it on a target of kind xen"},
	{"pv-grub", XenPVH, "pv-grub cannot boot a kernel that is PVH only: it starts PV kernels",
		"give it PV notes and a PV entry point (as examples/hello has), or run it on a target of kind xen"},
	{"pv-grub", Solo5Virtio, "pv-grub cannot boot a Solo5 virtio kernel: it is not for Xen",
		"run it on a target of kind qemu, or boot it from a BIOS or UEFI disk"},
	{"pv-grub", Solo5HVT, "pv-grub cannot boot a Solo5 hvt kernel: it is not for Xen", "run it on a target of kind local"},
	{"pv-grub", Solo5SPT, "pv-grub cannot boot a Solo5 spt kernel: it is not for Xen", "run it on a target of kind local"},
	{"pv-grub", LinuxExecutable, "pv-grub cannot boot a Linux program: it is no kernel", "run it on a target of kind local"},
	{"pv-grub", "", "pv-grub cannot boot this kernel: it has no Xen PV notes",
		"pv-grub boots a kernel whose ELF notes say PV (XEN_VERSION xen-3.0)"},
	// Amazon EC2: GRUB on the boot disk of an hvm instance, or pv-grub. No instance has
	// virtio devices, and none starts a kernel by its PVH entry point.
	{"ec2", LinuxBzImage, "", ""},
	{"ec2", Multiboot2, "", ""},
	{"ec2", Multiboot1, "", ""},
	{"ec2", Multiboot1ELF64, "", ""},
	{"ec2", XenPV, "", ""},
	{"ec2", Solo5Xen, "ec2 cannot boot a Solo5 xen kernel (MirageOS 3.9 or later): it is PVH only, and EC2 starts PV kernels and boot disks",
		"build it with -t spt and give carrier: linux; or with MirageOS 3.8 or earlier, which makes PV kernels; or give virtualization: hvm and an instance_type on Xen, as t2.micro (experimental)"},
	{"ec2", Solo5HVT, "ec2 cannot boot a Solo5 hvt kernel: only its tender starts it", "build it with -t spt and give carrier: linux"},
	{"ec2", Solo5SPT, "ec2 cannot boot a Solo5 spt kernel: only its tender starts it", "give carrier: linux, which has the tender"},
	{"ec2", Solo5Muen, "ec2 cannot boot a Solo5 muen kernel", "build it with -t virtio if it needs no device: EC2 has no virtio network"},
	{"ec2", Solo5Genode, "ec2 cannot boot a Solo5 genode kernel", "build it with -t virtio if it needs no device: EC2 has no virtio network"},
	{"ec2", PVH, "ec2 cannot boot a kernel by its PVH entry point", "give it a multiboot 1 or 2 header or Xen PV notes (examples/hello has both)"},
	{"ec2", XenPVH, "ec2 cannot boot a kernel by its PVH entry point",
		"give it a multiboot 1 or 2 header or Xen PV notes (examples/hello has both), or run it on a target of kind xen"},
	{"ec2", LinuxExecutable, "ec2 cannot boot a Linux program: it is no kernel", "give carrier: linux, which runs it"},
	{"ec2", "", "ec2 cannot boot this ELF file: it has no header that GRUB or pv-grub looks for",
		"EC2 boots a kernel by a multiboot 1 or 2 header, Linux's boot protocol, or Xen PV notes"},
	// XenServer and XCP-ng. Pygrub starts kernels in pv and pvh VMs, GRUB in hvm VMs, whose
	// devices are Xen's and an emulated PC's.
	{"xenserver", XenPVH, "", ""},
	{"xenserver", XenPV, "", ""},
	{"xenserver", LinuxBzImage, "", ""},
	{"xenserver", Solo5Virtio, "xenserver cannot boot a Solo5 virtio kernel: its VMs have no virtio devices",
		"build it with -t xen, or run it on a target of kind qemu"},
	{"xenserver", Solo5HVT, "xenserver cannot boot a Solo5 hvt kernel", "build it with -t xen, or run it on a target of kind local"},
	{"xenserver", Solo5SPT, "xenserver cannot boot a Solo5 spt kernel", "build it with -t xen, or run it on a target of kind local"},
	{"xenserver", Solo5Muen, "xenserver cannot boot a Solo5 muen kernel", "build it with -t xen"},
	{"xenserver", Solo5Genode, "xenserver cannot boot a Solo5 genode kernel", "build it with -t xen"},
	{"xenserver", Multiboot2, "", ""},
	{"xenserver", Multiboot1, "", ""},
	{"xenserver", Multiboot1ELF64, "", ""},
	{"xenserver", LinuxExecutable, "xenserver cannot boot a Linux program: it is no kernel",
		"build it as a kernel (MirageOS: -t xen), or run it on a target of kind local"},
	{"xenserver", "", "xenserver cannot boot this kernel: it has neither Xen notes nor a header that GRUB looks for",
		"a pvh VM boots a kernel by its PVH note (18), a pv VM by its PV notes (XEN_VERSION xen-3.0), an hvm VM by multiboot 1 or 2"},

	{PVVM, XenPV, "", ""},
	{PVVM, LinuxBzImage, "", ""}, // as on xen
	{PVVM, XenPVH, "a pv VM cannot boot a kernel that is PVH only", "type: pvh, or leave it out"},
	{PVVM, "", "a pv VM cannot boot this kernel: it has no Xen PV notes", "type: hvm, or leave it out"},
	{PVHVM, XenPVH, "", ""},
	{PVHVM, LinuxBzImage, "", ""},
	{PVHVM, XenPV, "a pvh VM cannot boot a kernel that is PV only: it has no PVH note (18)", "type: pv, or leave it out"},
	{PVHVM, "", "a pvh VM cannot boot this kernel: it has no PVH note (18)", "type: hvm, or leave it out"},
}

// GRUBOnXen is the loader "grub" on the BIOS disk of a Xen hvm domain. It starts a Solo5
// xen kernel by multiboot 1, and the kernel finds Xen by CPUID.
const GRUBOnXen = "grub-xen"

// PVVM and PVHVM are pygrub as the loader of a pv and of a pvh VM of XenServer.
const (
	PVVM  = "a pv VM"
	PVHVM = "a pvh VM"
)

// Supports returns the ABI by which a kind of target boots a kernel with these ABIs.
// The error is Unsupported, with the reason and, as hint, what would work.
//
// It returns ("", nil) for a kind of target that is not in its table and for a
// kernel without ABIs, whose ABIs are not known yet.
func Supports(target string, abis []string) (abi string, err error) {
	if len(abis) == 0 {
		return "", nil
	}
	if target == GRUBOnXen {
		if slices.Contains(abis, Solo5Xen) {
			return Solo5Xen, nil
		}
		target = "grub"
	}
	for _, row := range table {
		if row.target != target || row.abi != "" && !slices.Contains(abis, row.abi) {
			continue
		}
		if row.why != "" {
			return "", &step.Error{Kind: step.Unsupported, Err: errors.New(row.why), Hint: row.hint}
		}
		return row.abi, nil
	}
	return "", nil
}

// Targets returns the kinds of target that boot a kernel with these ABIs, nil if abis is
// empty. The table's loaders (GRUB, pv-grub, pygrub, the carrier) are no kinds of target.
func Targets(abis []string) []string {
	var kinds []string
	for _, row := range table {
		kind := row.target
		if len(abis) == 0 || MirageTarget(kind) == "" || slices.Contains(kinds, kind) {
			continue
		}
		if _, err := Supports(kind, abis); err == nil {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}
