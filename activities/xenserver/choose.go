package xenserver

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/step"
)

// loaders are the names in package image's table of what starts a kernel in a VM of a type.
var loaders = map[string]string{typePV: image.PVVM, typePVH: image.PVHVM, typeHVM: image.GRUBOnXen}

// choose returns the type of the VM and the ABI for a kernel with these ABIs. Check has set
// Types.
func (s *settings) choose(abis []string) (vm, abi string, err error) {
	if _, err := image.Supports(Kind, abis); err != nil {
		return "", "", err
	}
	if s.Type != auto {
		abi, err = image.Supports(loaders[s.Type], abis)
		return s.Type, abi, step.Amend(err, func(e *step.Error) { e.Field = "type" })
	}
	for _, vm := range append(slices.Clone(s.Types), allTypes...) {
		abi, err := image.Supports(loaders[vm], abis)
		switch {
		case err != nil:
		case vm == typeHVM && s.expect != nil:
			return "", "", unsupported("expect", "expectPort with address", "the kernel boots in an hvm VM, which has no console of text")
		case !slices.Contains(s.Types, vm):
			return vm, "", unsupported("type", "a pool that runs "+vm+" VMs, or a kernel that boots in one of the others", "the kernel boots in a %s VM, and the VM may be %s only", vm, strings.Join(s.Types, " or "))
		default:
			return vm, abi, nil
		}
	}
	return "", "", unsupported("type", "build it anew", "no VM boots a kernel of %s", strings.Join(abis, ", "))
}

func unsupported(field, hint, format string, args ...any) error {
	return &step.Error{Kind: step.Unsupported, Field: field, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// layout returns the layout of the boot disk of a VM of this type.
func layout(vm string) disk.Layout {
	if vm == typeHVM {
		return disk.BIOS
	}
	return disk.Whole
}

// refuses says of each type of VM that a host does not run why not. With expect a VM needs a
// console of text, which an hvm VM never has.
func (h *hostRecord) refuses(expect bool) map[string]string {
	why := map[string]string{}
	version, is := h.SoftwareVersion, func(capability string) bool { return slices.Contains(h.Capabilities, capability) }
	for _, need := range []struct {
		what         string
		major, minor int
		of           bool
	}{{"a pvh VM with a console of text", 25, 14, expect}, {"a pvh VM", 23, 9, true}} {
		if build := version["xapi_build"]; need.of && !atLeast(build, need.major, need.minor) {
			why[typePVH] = fmt.Sprintf("%s needs xapi %d.%d, and %s has %s", need.what, need.major, need.minor, h.Name, cmp.Or(build, "an older one"))
		}
	}
	switch {
	case version["product_brand"] == "XCP-ng" && atLeast(version["product_version"], 8, 3):
		why[typePV] = fmt.Sprintf("%s is XCP-ng %s, which runs no pv VMs", h.Name, version["product_version"])
	case !is("xen-3.0-x86_64"):
		why[typePV] = h.Name + " runs no pv VMs: xen-3.0-x86_64 is not among its capabilities"
	}
	if !is("hvm-3.0-x86_64") {
		for _, t := range []string{typeHVM, typePVH} {
			why[t] = h.Name + " runs no " + t + " VMs: hvm-3.0-x86_64 is not among its capabilities"
		}
	}
	return why
}

// atLeast reports whether a version as "23.9.0" is major.minor or later. A version that
// cannot be read is not.
func atLeast(version string, major, minor int) bool {
	var have [2]int
	if n, _ := fmt.Sscanf(version, "%d.%d", &have[0], &have[1]); n < 1 {
		return false
	}
	return slices.Compare(have[:], []int{major, minor}) >= 0
}
