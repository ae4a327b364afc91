package image

import (
	"errors"
	"slices"

	"github.com/morgana-deploy/morgana/step"
)

// table says what each kind of target makes of each ABI. For a kernel, the
// first row of the target that has one of the kernel's ABIs decides: it boots
// by that ABI if why is empty, else it is refused. Row order is therefore the
// target's own order of preference; a row with no ABI matches every kernel.
var table = []struct{ target, abi, why, hint string }{
	// QEMU's x86_load_linux tries Linux, multiboot 1 and PVH in this order, and
	// ends with an error at a multiboot 1 header it cannot use.
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
		"build it with -t virtio, or run it on a target of kind local"},
	{"qemu", Solo5Muen, "qemu cannot boot a Solo5 muen kernel", "build it with -t virtio"},
	{"qemu", Solo5Genode, "qemu cannot boot a Solo5 genode kernel", "build it with -t virtio"},
	{"qemu", XenPVH, "qemu cannot boot this PVH kernel: its Xen notes are in no PT_NOTE segment, where qemu looks",
		"link it with a PT_NOTE segment that holds its Xen notes, or run it on a target of kind xen"},
	{"qemu", XenPV, "qemu cannot boot a Xen PV kernel", "run it on a target of kind xen"},
	{"qemu", Multiboot2, "qemu cannot boot a multiboot2 kernel without a boot loader",
		"give it a PVH note (as examples/hello has) or a multiboot 1 header"},
	{"qemu", LinuxExecutable, "qemu cannot boot a Linux program: it is no kernel",
		"build it as a kernel (MirageOS: -t virtio), or run it on a target of kind local"},
	{"qemu", "", "qemu cannot boot this ELF file: it has none of the headers qemu looks for",
		"qemu boots a kernel by a PVH note, a multiboot 1 header or Linux's boot protocol"},

	// Xen's domain builder; PVH first, as it is what new kernels are made for.
	{"xen", XenPVH, "", ""},
	{"xen", XenPV, "", ""},
	// It unpacks a bzImage and reads the notes of the kernel inside, which are
	// not seen here; distributions' kernels have them.
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
}

// Supports gives the ABI by which a kind of target boots a kernel with these
// ABIs, or Unsupported with the reason and, as hint, what would work.
//
// It has no opinion ("", nil) on a kind of target that is not in its table, nor
// on a kernel of which nothing is known.
func Supports(target string, abis []string) (abi string, err error) {
	if len(abis) == 0 {
		return "", nil
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
