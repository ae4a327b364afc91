package image

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

func TestSupports(t *testing.T) {
	hello := []string{Multiboot2, PVH, XenPV, XenPVH}
	for _, c := range []struct {
		target string
		abis   []string
		abi    string // "" means refused
		why    string
	}{
		{"qemu", hello, PVH, ""},
		{"xen", hello, XenPVH, ""},
		{"qemu", []string{Multiboot1, Solo5Virtio}, Multiboot1, ""},
		{"xen", []string{Multiboot1, Solo5Virtio}, "", "Solo5 virtio"},
		{"qemu", []string{Solo5Xen, XenPVH}, "", "it needs Xen"},
		{"xen", []string{Solo5Xen, XenPVH}, XenPVH, ""},
		{"qemu", []string{Solo5HVT}, "", "qemu cannot boot a Solo5 hvt kernel"},
		{"qemu", []string{"solo5-9"}, "", "none of the headers"},
		{"qemu", []string{Multiboot1ELF64, PVH, XenPVH}, "", "does not look further"},
		{"qemu", []string{XenPVH}, "", "no PT_NOTE segment"},
		{"qemu", []string{XenPV}, "", "Xen PV"},
		{"xen", []string{XenPV}, XenPV, ""},
		{"qemu", []string{Multiboot2}, "", "multiboot2"},
		{"xen", []string{Multiboot1, Multiboot2}, "", "no Xen notes"},
		{"qemu", []string{LinuxBzImage}, LinuxBzImage, ""},
		{"qemu", []string{LinuxExecutable}, "", "no kernel"},
		{"qemu", []string{ELF}, "", "none of the headers"},
		{"qemu", []string{Multiboot1, PVH, XenPVH}, Multiboot1, ""},
	} {
		abi, err := Supports(c.target, c.abis)
		if c.abi != "" {
			if err != nil || abi != c.abi {
				t.Errorf("%s %v: got %q, %v, want %q", c.target, c.abis, abi, err, c.abi)
			}
			continue
		}
		var e *step.Error
		if !errors.As(err, &e) || e.Kind != step.Unsupported || abi != "" ||
			!strings.Contains(e.Error(), c.why) || e.Hint == "" {
			t.Errorf("%s %v: got %q, %v, want a refusal that says %q", c.target, c.abis, abi, err, c.why)
		}
	}
}

func TestSupportsHasNoOpinion(t *testing.T) {
	for _, c := range []struct {
		target string
		abis   []string
	}{{"acme", []string{Solo5HVT}}, {"qemu", nil}} {
		if abi, err := Supports(c.target, c.abis); abi != "" || err != nil {
			t.Errorf("%s %v: got %q, %v", c.target, c.abis, abi, err)
		}
	}
}

// A reader of the table must be able to trust its rows: texts as step.Error
// wants them, no row that an earlier one hides, an answer for every kernel.
func TestTable(t *testing.T) {
	seen := map[[2]string]bool{}
	last := map[string]string{}
	for _, row := range table {
		key := [2]string{row.target, row.abi}
		if seen[key] || seen[[2]string{row.target, ""}] {
			t.Errorf("row %v is hidden by an earlier one", key)
		}
		seen[key] = true
		last[row.target] = row.abi
		if (row.why == "") != (row.hint == "") {
			t.Errorf("row %v: a refusal needs a reason and a hint", key)
		}
		if row.why != "" && !strings.HasPrefix(row.why, row.target+" cannot boot ") || strings.HasSuffix(row.why, ".") {
			t.Errorf("row %v: %q", key, row.why)
		}
	}
	for target, abi := range last {
		if abi != "" {
			t.Errorf("%s has no row for the kernels it knows nothing of", target)
		}
	}
	if !slices.Contains([]string{last["qemu"], last["xen"]}, "") {
		t.Error("qemu and xen are missing")
	}
}
