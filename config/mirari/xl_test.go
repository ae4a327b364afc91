package mirari_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/config/mirari"
)

// TestXL: what the xl- lines become, and that the target takes it.
func TestXL(t *testing.T) {
	const nothing = ``
	for name, c := range map[string]struct{ lines, options, notes string }{
		"none of ours": {"xl-kernel: a\nxl-name: b\nxl-uuid: c\nxl-type: pv\nxl-builder: 'linux'\nxl-serial: pty\nxl-boot: c\nxl-bootloader: pygrub\nxl-bootloader_args: x\n", nothing,
			"2: xl-kernel: left out, Morgana sets it: it is the kernel that was built|3: xl-name: left out, Morgana sets it: a machine is named after app, target and generation|" +
				"4: xl-uuid: left out, Morgana sets it: each machine has its own|5: xl-type: left out, Morgana sets it: the kernel's notes say how it boots|" +
				"6: xl-builder: left out, Morgana sets it: the kernel's notes say how it boots|7: xl-serial: left out, Morgana sets it: the console is Xen's|" +
				"8: xl-boot: left out, Morgana sets it: the kernel is booted directly|9: xl-bootloader: left out, Morgana sets it: the kernel is booted directly|" +
				"10: xl-bootloader_args: left out, Morgana sets it: the kernel is booted directly"},
		"numbers":       {"xl-memory: 0x20 # MiB\nxl-vcpus: '4';\n", `"memory":32,"vcpus":4`, ""},
		"root":          {"xl-extra: \"-v\\t'x'\"\nxl-root: '/dev/xvda1'\n", `"args":"root=/dev/xvda1 -v\t'x'"`, ""},
		"cmdline":       {"xl-extra: '-v'\nxl-root: 'x'\nxl-cmdline: '-q'\n", `"args":"-q"`, "2: xl-extra: left out, as xl does: there is xl-cmdline|3: xl-root: left out, as xl does: there is xl-cmdline"},
		"escapes":       {`xl-extra: '\\ \' \a\b\f\n\r\t\v.'` + "\n", `"args":"\\ ' \u0007\b\f\n\r\t\u000b."`, ""},
		"no quotes":     {"xl-extra: -v \"x\"\n", `"args":"-v \"x\""`, "2: xl-extra: xl.cfg(5) wants it in quotes; taken as it stands"},
		"a list":        {"xl-extra: ['a']\n", nothing, "2: xl-extra: left out: xl.cfg(5) wants a string, not a list"},
		"ramdisk":       {"xl-ramdisk: '/a'\n", nothing, "2: xl-ramdisk: left out: a ramdisk is a file that comes with the kernel; name it in the target's modules"},
		"on_crash":      {"xl-on_crash: 'coredump-destroy'\n", `"on_crash":"coredump-destroy"`, ""},
		"on_crash else": {"xl-on_crash: 'soft-reset'\n", nothing, `2: xl-on_crash: left out: "soft-reset" is not among destroy, preserve, coredump-destroy, what a deployment's domain may do`},
		"others": {"xl-cpus: 2-3\nxl-maxmem: 64\nxl-pci: [ '01:00.0', ]  # a card\nxl-on_reboot: 'preserve'\nxl-cpuid: ['a\nxl-cap: 3; name = 'x'\n",
			`"extra":["cpus = \"2-3\"","maxmem = 64","pci = [ '01:00.0', ]  # a card","on_reboot = 'preserve'"]`,
			"2: xl-cpus: xl.cfg(5) wants it in quotes; it has them now|6: xl-cpuid: left out: xl.cfg(5) wants a number, a string in quotes or a list of them|" +
				"7: xl-cap: left out: xl.cfg(5) wants a number, a string in quotes or a list of them"},
		"vif": {`xl-vif: ["", 'mac=00:16:3E:00:00:01 , bridge=br0,ip=10.0.0.2,script=vif-openvswitch']` + "\n",
			`"vif":[{},{"bridge":"br0","ip":"10.0.0.2","mac":"00:16:3e:00:00:01","script":"vif-openvswitch"}]`, ""},
		"vif in part": {`xl-vif: ['mac=00:16:3e:00:00:01,model=e1000,rate=1Mb/s', 'mac=00:16:3e:00:00:01,bridge=br0', 'ip=10.0.0.2/24,mac=ff:ff:ff:ff:ff:ff,script=a b,bridge=']` + "\n",
			`"vif":[{"mac":"00:16:3e:00:00:01"},{"bridge":"br0"},{}]`,
			`2: xl-vif: no option can express all of it: vif 1 is without "model=e1000", "rate=1Mb/s"; vif 2 is without a MAC address that another one has; vif 3 is without "ip=10.0.0.2/24", "mac=ff:ff:ff:ff:ff:ff", "script=a b", "bridge="`},
		"vif no list": {"xl-vif: 'bridge=br0'\nxl-disk: [['phy:/a']]\n", nothing,
			"2: xl-vif: left out: xl.cfg(5) wants a list of strings, and 100 at most make sense|3: xl-disk: left out: xl.cfg(5) wants a list of strings, and 100 at most make sense"},
		"disks": {"xl-disk: ['file:/a,hda,r', 'tap:qcow2:/b.img,sda1:disk,w', '/c/../d', '/e,vhd,xvdb,rw', 'phy:/dev/vg/f,xvdc', 'access=r,target=/g,h,,',]\n",
			`"disks":[{"access":"r","format":"raw","path":"/a","vdev":"hda"},{"access":"w","format":"qcow2","path":"/b.img","vdev":"sda1"},` +
				`{"access":"w","format":"raw","path":"/d"},{"access":"w","format":"vhd","path":"/e","vdev":"xvdb"},` +
				`{"access":"w","format":"raw","path":"/dev/vg/f","vdev":"xvdc"},{"access":"r","format":"raw","path":"/g,h,"}]`, ""},
		"disks left out": {"xl-disk: ['a.img', '/a,raw,hda:cdrom,r', '/a,iso', '/a,raw,xvda,w!', '/a,raw,xvda,w,x', 'backendtype=qdisk,target=/a', '/a,raw,xvda', '/a,raw,xvdb', '/b,raw,xvda']\n",
			`"disks":[{"access":"w","format":"raw","path":"/a","vdev":"xvda"}]`,
			`2: xl-disk: left out, write it as an element of disks: disk 1 ("a.img" is no absolute path on the Xen host); disk 2 (no virtual device "hda:cdrom"); disk 3 (no format "iso"); ` +
				`disk 4 (no access "w!"); disk 5 (no option for "x"); disk 6 (no option for "backendtype=qdisk"); disk 8 (another has its path); disk 9 (another is xvda)`},
	} {
		t.Run(name, func(t *testing.T) {
			parsed, err := mirari.Parse("x.conf", []byte("main-noip: M.main\n"+c.lines))
			if err != nil {
				t.Fatal(err)
			}
			target, err := load(t, string(parsed.Project("x"))).Target("xen")
			if err != nil {
				t.Fatal(err)
			}
			if got := string(target.Options); got != "{"+c.options+"}" && got+c.options != "" {
				t.Errorf("options %s, want {%s}", got, c.options)
			}
			var notes []string
			for _, n := range parsed.Notes[1:] { // behind that of main-noip
				notes = append(notes, strings.TrimPrefix(fmt.Sprint(n), "x.conf:"))
			}
			if got := strings.Join(notes, "|"); got != c.notes {
				t.Errorf("notes\n%s\nwant\n%s", got, c.notes)
			}
			if err := refusal(t, target); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestXLNetwork: a kernel with a network has a vif, for its xl.in asks for one.
func TestXLNetwork(t *testing.T) {
	for conf, want := range map[string]string{
		"main-ip: A.a\nip-use-dhcp: true\nxl-memory: 64\n":                             `{"memory":64,"vif":[{"bridge":"xenbr0"}]}`,
		"main-ip: A.a\nip-gateway: 10.0.0.3\nxl-vif: ['bridge=br0']\nxl-extra: '-v'\n": `{"args":"--ipv4=10.0.0.2/24 --ipv4-gateway=10.0.0.3 -v","vif":[{"bridge":"br0"}]}`,
	} {
		parsed, err := mirari.Parse("x.conf", []byte(conf))
		if err != nil {
			t.Fatal(err)
		}
		target, err := load(t, string(parsed.Project("x"))).Target("xen")
		if err != nil {
			t.Fatal(err)
		}
		if got := string(target.Options); got != want {
			t.Errorf("options %s, want %s", got, want)
		}
		if err := refusal(t, target); err != nil {
			t.Error(err)
		}
	}
	parsed, err := mirari.Parse("x.conf", []byte("main-noip: A.a\n"))
	if err != nil || strings.Contains(string(parsed.Project("x")), "xen") {
		t.Errorf("without xl- lines: %v\n%s", err, parsed.Project("x"))
	}
}
