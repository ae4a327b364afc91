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

		{"local", []string{LinuxExecutable}, LinuxExecutable, ""},
		{"local", []string{Solo5HVT}, Solo5HVT, ""},
		{"local", []string{Solo5SPT}, Solo5SPT, ""},
		{"local", []string{Multiboot1, Solo5Virtio}, "", "Solo5 virtio kernel: it has no tender"},
		{"local", []string{Solo5Xen, XenPVH}, "", "Solo5 xen kernel"},
		{"local", []string{Solo5Muen}, "", "Solo5 muen"},
		{"local", hello, "", "a kernel for a whole machine"},
		{"local", []string{Multiboot1}, "", "a kernel for a whole machine"},
		{"local", []string{LinuxBzImage}, "", "a Linux kernel"},
		{"local", []string{XenPV}, "", "a Xen kernel"},
		{"local", []string{ELF}, "", "it is no Linux program"},

		{"grub", hello, Multiboot2, ""},
		{"grub", []string{Multiboot1, Multiboot2}, Multiboot2, ""},
		{"grub", []string{Multiboot1, PVH, XenPVH}, Multiboot1, ""},
		{"grub", []string{Multiboot1ELF64, PVH, XenPVH}, Multiboot1ELF64, ""},
		{"grub", []string{Multiboot1, Solo5Virtio}, Multiboot1, ""},
		{"grub", []string{LinuxBzImage}, LinuxBzImage, ""},
		{"grub", []string{PVH, XenPVH}, "", "by its PVH entry point"},
		{"grub", []string{XenPVH}, "", "by its PVH entry point"},
		{"grub", []string{XenPV}, "", "a Xen PV kernel"},
		{"grub", []string{Solo5Xen, XenPVH}, "", "only Xen starts it"},
		{"grub", []string{Solo5HVT}, "", "only its tender starts it"},
		{GRUBOnXen, []string{Solo5Xen, XenPVH}, Solo5Xen, ""},
		{GRUBOnXen, hello, Multiboot2, ""},
		{GRUBOnXen, []string{XenPV}, "", "a Xen PV kernel"},
		{"grub", []string{Solo5SPT}, "", "only its tender starts it"},
		{"grub", []string{LinuxExecutable}, "", "no kernel"},
		{"grub", []string{"solo5-9"}, "", "none of the headers grub looks for"},

		{"pv-grub", hello, XenPV, ""},
		{"pv-grub", []string{XenPV}, XenPV, ""},
		{"pv-grub", []string{LinuxBzImage}, LinuxBzImage, ""},
		{"pv-grub", []string{Solo5Xen, XenPVH}, "", "(MirageOS 3.9 or later): it is PVH only"},
		{"pv-grub", []string{PVH, XenPVH}, "", "PVH only"},
		{"pv-grub", []string{Multiboot1, Solo5Virtio}, "", "not for Xen"},
		{"pv-grub", []string{Solo5HVT}, "", "not for Xen"},
		{"pv-grub", []string{LinuxExecutable}, "", "no kernel"},
		{"pv-grub", []string{Multiboot1}, "", "no Xen PV notes"},

		{"xenserver", hello, XenPVH, ""},
		{"xenserver", []string{Solo5Xen, XenPVH}, XenPVH, ""},
		{"xenserver", []string{Multiboot2}, Multiboot2, ""},
		{"xenserver", []string{Multiboot1, Solo5Virtio}, "", "no virtio devices"},
		{"xenserver", []string{Solo5SPT}, "", "Solo5 spt"},
		{"xenserver", []string{PVH}, "", "neither Xen notes nor a header"},
		{PVVM, hello, XenPV, ""},
		{PVVM, []string{Solo5Xen, XenPVH}, "", "PVH only"},
		{PVVM, []string{Multiboot2}, "", "no Xen PV notes"},
		{PVHVM, hello, XenPVH, ""},
		{PVHVM, []string{LinuxBzImage}, LinuxBzImage, ""},
		{PVHVM, []string{XenPV}, "", "PV only"},
		{PVHVM, []string{Multiboot2}, "", "no PVH note"},
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

// The table has texts in the form of step.Error, no row that an earlier one hides, and
// an answer for every kernel.
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
	for _, target := range []string{"qemu", "xen", "local", "grub", "pv-grub", "carrier", "ec2"} {
		if _, ok := last[target]; !ok {
			t.Errorf("%s is missing", target)
		}
	}
}

// EC2 starts a kernel by GRUB or by pv-grub, so its rows follow from theirs.
func TestEC2IsGRUBOrPVGRUB(t *testing.T) {
	for _, row := range table {
		abis := []string{row.abi}
		_, grub := Supports("grub", abis)
		_, pv := Supports("pv-grub", abis)
		if _, err := Supports("ec2", abis); row.abi != "" && (err == nil) != (grub == nil || pv == nil) {
			t.Errorf("%s: ec2 says %v, grub %v, pv-grub %v", row.abi, err, grub, pv)
		}
	}
}

// The -t that suits a kind of target makes kernels which boot there.
func TestMirageTarget(t *testing.T) {
	for _, c := range []struct{ kind, want string }{
		{"qemu", "virtio"}, {"xen", "xen"}, {"xenserver", "xen"}, {"openstack", "virtio"}, {"local", "unix"},
		{"ec2", ""}, {"acme", ""}, {"", ""},
	} {
		got := MirageTarget(c.kind)
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.kind, got, c.want)
		}
		if _, err := Supports(c.kind, MirageABIs(got)); err != nil {
			t.Errorf("%s: -t %s: %v", c.kind, got, err)
		}
	}
	for _, c := range []struct {
		target, mirage string
		ok             bool
	}{
		{"qemu", "hvt", false}, {"qemu", "xen", false}, {"qemu", "unix", false}, {"xen", "virtio", false},
		{"local", "spt", true}, {"local", "hvt", true}, {"local", "xen", false}, {"grub", "virtio", true},
		{"pv-grub", "xen", false}, {"xen", "qubes", true}, {"qemu", "unikraft-qemu", true}, {"acme", "muen", true},
		{"ec2", "xen", false}, {"ec2", "virtio", true}, {"ec2", "spt", false},
	} {
		if _, err := Supports(c.target, MirageABIs(c.mirage)); (err == nil) != c.ok {
			t.Errorf("%s: -t %s: %v", c.target, c.mirage, err)
		}
	}
	// What is promised before a build is what the built kernel has.
	for _, c := range []struct {
		mirage string
		kernel []byte
	}{
		{"hvt", solo5Kernel(1, nil)}, {"spt", solo5Kernel(2, nil)}, {"virtio", solo5Kernel(3, mb1AOut)},
		{"muen", solo5Kernel(4, nil)}, {"genode", solo5Kernel(5, nil)}, {"xen", solo5Kernel(6, mb1AOut, note(pvhNote))},
	} {
		info, err := identify(c.kernel)
		if err != nil || !slices.Equal(info.ABIs, MirageABIs(c.mirage)) {
			t.Errorf("-t %s: promised %v, got %v, %v", c.mirage, MirageABIs(c.mirage), info.ABIs, err)
		}
	}
}

func TestTargets(t *testing.T) {
	for want, abis := range map[string][]string{
		"qemu": MirageABIs("virtio"), "xen xenserver": MirageABIs("xen"), "local": MirageABIs("spt"),
		"qemu xen xenserver": {LinuxBzImage}, "": MirageABIs("muen"),
	} {
		if got := strings.Join(Targets(abis), " "); got != want {
			t.Errorf("%v: got %q, want %q", abis, got, want)
		}
	}
	if got := Targets(nil); got != nil {
		t.Errorf("of a kernel that is not known: %v", got)
	}
}

func TestMirageDevices(t *testing.T) {
	for _, test := range []struct {
		config string
		want   map[string][]string // by target
	}{
		{`let () = register "hello" [ main $ default_network ]`,
			map[string][]string{"xen": {"0"}, "qubes": {"0"}, "virtio": {"service"}, "spt": {"service"}, "unix": {"tap0"}}},
		{`let stack = generic_stackv4v6 default_network let b = f default_network`, map[string][]string{"xen": {"0"}, "hvt": {"service"}}},
		{`let net = netif "service" let other = netif ~group:"private" "1"`, map[string][]string{"xen": {"service", "1"}, "spt": {"service", "1"}}},
		{"(** A page.\n *\n **)\n(* netif \"1\" **) let net = default_network (* default *)", map[string][]string{"xen": {"0"}, "unikraft-qemu": nil}},
		{`(* default_network (* as here *) *) let () = register "hello" [ job ]`, map[string][]string{"xen": nil}},
		{`let s = "(* \" default" let net = default_network let t = "*)"`, map[string][]string{"xen": nil}},
		{`let net = if_impl Key.is_unix default_network (netif "1")`, map[string][]string{"xen": nil}},
		{`let net = netif name`, map[string][]string{"xen": nil}},
		{``, map[string][]string{"xen": nil}},
	} {
		for target, want := range test.want {
			if got, _ := MirageDevices(test.config, target); !slices.Equal(got, want) {
				t.Errorf("%s for %s: got %q, want %q", test.config, target, got, want)
			}
		}
	}
}

func TestMirageBlocks(t *testing.T) {
	for config, want := range map[string][]string{
		`let one = block_of_file "disk.img" let two = block_of_file "store" let again = block_of_file "store"`: {"disk.img", "store"},
		`let one = block_of_file name let two = block_of_file "store"`:                                         nil,
		`let one = block_of_file "store" let files = archive_of_files ()`:                                      nil,
		``: nil,
	} {
		if _, got := MirageDevices(config, "xen"); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", config, got, want)
		}
	}
}
