package mirari_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/activities/xen"
	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/config/mirari"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

// web has every key.
const web = `# IP configuration
ip-address: 10.0.0.9
ip-netmask: 255.255.0.0
# ip-gateway: 10.0.0.1

fs-static: ../files
fs-template: tmpl
http-port: 80
http-address: *
main-http: Dispatch.main
depends: cohttp.syntax, uri, re.str
depends: re, mirage
packages: mirage-net.0.9, cow.0.6
compiler: 4.01.0+mirage-xen
xl-memory: 040
xl-vcpus: 2
xl-on_crash: preserve
xl-vif: [ 'mac=00:16:3E:74:34:32', "bridge=br0" , ]
xl-extra: '--verbose "x"'
xl-disk: ['phy:/dev/vg/a,hda1,w']
xl-cpus: "2-3"
xl-kernel: mir-web.xen
ip-netmsk: 255.0.0.0
`

const webProject = `# Made by morgana import from web.conf, a configuration of mirari.
app: "web"
source: .
toolchain:
  kind: mirage   # MirageOS 4: config.ml says what the unikernel is made of

targets:
  # A -t virtio kernel in QEMU, on this host.
  qemu:
    memory: 32   # MiB
    ports: ["8080:80"]   # 127.0.0.1:8080 here is port 80 of the unikernel
    expectPort: 80
    # 10.0.0.9/16, gateway 10.0.0.1 in web.conf; QEMU's user network has these:
    args: "--ipv4=10.0.2.15/24 --ipv4-gateway=10.0.2.2 --verbose \"x\""
  # A -t unix program, a process of this host.
  local:
    kind: local
    # It has this host's sockets. mirari run --unix gave it a tap; that is the key
    # ` + "`net: ocaml`" + ` under toolchain.keys, and here:
    # networks: [{name: service, tap: tap0, address: 10.0.0.1/16}]
    # args: ["--ipv4=10.0.0.9/16", "--ipv4-gateway=10.0.0.1"]
  # A -t xen kernel, the domain that the xl- lines describe.
  xen:
    kind: xen
    # host: ssh://root@xen1   # the Xen host, reached by ssh; without it the worker's own
    memory: 32   # MiB
    vcpus: 2
    args: "--ipv4=10.0.0.9/16 --ipv4-gateway=10.0.0.1 --verbose \"x\""
    on_crash: "preserve"
    vif:
      - {mac: "00:16:3E:74:34:32"}
      - {bridge: "br0"}
    disks:
      - {path: "/dev/vg/a", vdev: "hda1", access: "w"}
    extra:
      - "cpus = \"2-3\""

# Lines without a counterpart, or with one that differs:
#   web.conf:2: ip-address: an argument at boot now: see the args and comments of the targets; not used with DHCP
#   web.conf:3: ip-netmask: an argument at boot now: see the args and comments of the targets; not used with DHCP
#   web.conf:9: http-address: no counterpart: the unikernel serves on every address it has
#   web.conf:10: main-http: write it as ` + "`start`" + ` of a module Unikernel, in unikernel.ml: MirageOS 4 gives it its devices as arguments
#   web.conf:11: depends: cohttp.syntax was for camlp4, which is gone: cohttp is asked for, its syntax needs a ppx
#   web.conf:12: depends: mirage is left out: it comes with the devices of config.ml
#   web.conf:13: packages: mirage-net.0.9 is left out: it comes with the devices of config.ml
#   web.conf:13: packages: cow is asked for without its version, which is of 2013
#   web.conf:14: compiler: no counterpart: the worker's current opam switch builds it, or the option switch of the toolchain
#   web.conf:22: xl-kernel: left out: Morgana sets it
#   web.conf:23: ip-netmsk: left out: mirari did not know it either (ip-netmask?)
`

const webSketch = `(* mirage >= 4.9.0 & < 5.0.0 *)
(* A sketch made by morgana import. unikernel.ml has the program: what was
   Dispatch.main is ` + "`start`" + ` of Unikernel.Main there,
   which takes one argument for each device. *)
open Mirage

let stack = generic_stackv4v6 default_network
let http_server = cohttp_server @@ conduit_direct ~tls:false stack
let fs_static = crunch "../files"
let fs_template = crunch "tmpl"

let packages = [
  package "cohttp";
  package "uri";
  package ~sublibs:["str"] "re";
  package "cow";
  package "cohttp-mirage";
]

let main = main ~packages "Unikernel.Main" (http @-> kv_ro @-> kv_ro @-> job)
let () = register "web" [ main $ http_server $ fs_static $ fs_template ]
`

// TestEveryKey reads a whole file, whose domain the target takes.
func TestEveryKey(t *testing.T) {
	c := parse(t, "web.conf", web)
	if got := string(c.Project("web")); got != webProject {
		t.Errorf("morgana.yaml:\n%s\nwant:\n%s", got, webProject)
	}
	if got := string(c.Sketch("web")); got != webSketch {
		t.Errorf("config.ml:\n%s\nwant:\n%s", got, webSketch)
	}
	target, err := load(t, c).Target("xen")
	if err != nil {
		t.Fatal(err)
	}
	// The target reads its options before it finds that it cannot start such a kernel.
	_, err = xen.New(step.Site{}).Check(t.Context(), step.Spec{Tags: step.Tags{App: "web", Target: "xen", Life: "0a1b2c3d", Generation: 1},
		Kind: xen.Kind, Options: target.Options, Origin: step.Origin{ABIs: []string{image.Solo5HVT}}})
	if step.KindOf(err) != step.Unsupported {
		t.Errorf("the target: %v", err)
	}
}

func TestVariants(t *testing.T) {
	const user = `{"args":"--ipv4=10.0.2.15/24 --ipv4-gateway=10.0.2.2","memory":64,"network":"user"}`
	const noip = "main-noip: M.m\n"
	// The options are target's; sketch is in config.ml; the notes end with notes.
	for name, c := range map[string]struct{ target, conf, options, sketch, notes string }{
		"no network": {"qemu", noip + "http-port: 80\n", `{"memory":64}`,
			"let main = main \"Unikernel\" job\nlet () = register \"x\" [ main ]\n", "1: main-noip: has no network: what the lines ip- and http- say is left out"},
		"DHCP": {"qemu", "main-ip: Ping.main\nip-use-dhcp: true\nip-address: 10.0.0.2\n", `{"memory":64,"network":"user"}`,
			"(stackv4v6 @-> job)", "`dhcp: true`|3: ip-address: an argument at boot now: see the args and comments of the targets; not used with DHCP"},
		"DHCP refused":      {"qemu", "main-ip: Ping.main\nip-use-dhcp: false\n", user, "generic_stackv4v6", ""},
		"no address":        {"qemu", "main-ip:main\n", user, "register \"x\" [ main $ stack ]", ""},
		"fs without a name": {"qemu", noip + "fs: x\nxl-: y\n", `{"memory":64}`, "\"Unikernel\" job", "2: fs: left out: mirari did not know it either|3: xl-: left out: mirari did not know it either"},
		"high port": {"qemu", "main-http: A.b\nhttp-port: 8080\n",
			`{"args":"--ipv4=10.0.2.15/24 --ipv4-gateway=10.0.2.2","expectPort":8080,"memory":64,"ports":["8080:8080"]}`, "http @-> job", ""},
		"quotes": {"qemu", noip + "fs-A: a\"b\\c\nfs-a: \tx *) y\r\n", `{"memory":64}`,
			"let fs_a = crunch \"a\\\"b\\\\c\"\nlet fs_a_1 = crunch \"x *) y\"\n", ""},

		"xl, another's": {"xen", noip + "xl-type: pv\nxl-bootloader: 'pygrub'\nxl-cmdline: 'x'\nxl-ramdisk: '/a'\nxl-on_crash: 'restart'\nxl-on_reboot: 'restart'\n", "", "",
			"2: xl-type: left out: Morgana sets it|3: xl-bootloader: left out: the kernel is booted directly|4: xl-cmdline: left out: write it in args|5: xl-ramdisk: left out: name the file in modules|" +
				"6: xl-on_crash: left out: Xen may not start a deployment's domain again|7: xl-on_reboot: left out: Xen may not start a deployment's domain again"},
		"xl, as it is":  {"xen", noip + "xl-pci: [ '01:00.0', ]  # a card\nxl-on_reboot: 'preserve'\n", `{"extra":["pci = [ '01:00.0', ]  # a card","on_reboot = 'preserve'"]}`, "", ""},
		"xl, no quotes": {"xen", noip + "xl-extra: -v\n", `{"args":"-v"}`, "", ""},
		"xl, escapes":   {"xen", noip + "xl-extra: '\\x41'\n", "", "", "2: xl-extra: left out: write it in args"},
		"xl, DHCP":      {"xen", "main-ip: M.m\nip-use-dhcp: true\nxl-memory: 64\n", `{"memory":64,"vif":[{"bridge":"xenbr0"}]}`, "", "`dhcp: true`"},
		"xl, vif": {"xen", "main-ip: M.m\nxl-vif: ['bridge=br0, mac=00:16:3e:00:00:01','rate=1Mb/s','']\n", `{"vif":[{"bridge":"br0","mac":"00:16:3e:00:00:01"}]}`, "",
			`2: xl-vif: left out, write it in vif: "rate=1Mb/s"|2: xl-vif: left out, write it in vif: ""`},
		"xl, disk": {"xen", noip + "xl-disk: ['file:/a.img,xvda', 'phy:/dev/b,xvdb,ro', '/c,raw,xvdc,w', 'phy:/d,hda:cdrom,r']\n",
			`{"disks":[{"path":"/a.img","vdev":"xvda"},{"access":"r","path":"/dev/b","vdev":"xvdb"}]}`, "",
			`2: xl-disk: left out, write it in disks: "/c,raw,xvdc,w"|2: xl-disk: left out, write it in disks: "phy:/d,hda:cdrom,r"`},
		"xl, no list": {"xen", noip + "xl-disk: 'phy:/a,xvda,w'\n", "", "", "2: xl-disk: left out, write it in disks: it is not a list of strings as xl.cfg(5) has it"},
	} {
		t.Run(name, func(t *testing.T) {
			conf := parse(t, "x.conf", c.conf)
			target, err := load(t, conf).Target(c.target)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(target.Options); got != c.options && got+c.options != "{}" {
				t.Errorf("options %s, want %s", got, c.options)
			}
			if sketch := string(conf.Sketch("x")); !strings.Contains(sketch, c.sketch) {
				t.Errorf("config.ml:\n%s", sketch)
			}
			var notes []string
			for _, n := range conf.Notes {
				notes = append(notes, strings.TrimPrefix(fmt.Sprint(n), "x.conf:"))
			}
			if got := strings.Join(notes, "|"); !strings.HasSuffix(got, c.notes) {
				t.Errorf("notes %s\nwant  %s", got, c.notes)
			}
		})
	}
}

func TestBad(t *testing.T) {
	const form = `a line is "key: value", or begins with #`
	const exactly = "give exactly one of main-http, main-ip and main-noip"
	noip := func(more string) string { return "main-noip: M.main\n" + more }
	for name, c := range map[string]struct{ conf, want, hint string }{
		"empty":          {"", "x.conf: no main function", exactly},
		"two mains":      {"main-ip: A.a\n\nmain-http: B.b\n", "x.conf:3: main-http: a second main function, the first is at x.conf:1", exactly},
		"no colon":       {"# x\nmain-ip A.a\n", `x.conf:2: no colon in "main-ip A.a"`, form},
		"no key":         {": a\n", `x.conf:1: "" is no key`, form},
		"space in key":   {"main ip: a\n", `x.conf:1: "main ip" is no key`, form},
		"no value":       {"main-ip:\n", "x.conf:1: main-ip: no value", ""},
		"twice":          {noip("compiler: a\ncompiler: b\n"), "x.conf:3: compiler: given twice, first at x.conf:2", ""},
		"main's name":    {"main-ip: let x =\n", `x.conf:1: main-ip: "let x =" is not the name of a function`, `as "Dispatch.main"`},
		"not UTF-8":      {noip("compiler: \xff\n"), "x.conf:2: an unprintable character, U+FFFD", ""},
		"line separator": {noip("compiler: a\u2028b\n"), "x.conf:2: an unprintable character, U+2028", ""},
		"too long":       {noip(strings.Repeat("#\n", 5000)), "x.conf:1: more than 8 KiB", ""},
		"DHCP perhaps":   {noip("ip-use-dhcp: yes\n"), `x.conf:2: ip-use-dhcp: want true or false, not "yes"`, ""},
		"IPv6":           {noip("ip-gateway: ::1\n"), `x.conf:2: ip-gateway: "::1" is no IPv4 address`, ""},
		"netmask":        {"main-ip: A.a\nip-netmask: 255.0.255.0\n", `x.conf:2: ip-netmask: "255.0.255.0" is no netmask`, "as 255.255.255.0"},
		"http, no port":  {"main-http: A.a\n", "x.conf:1: main-http: a server without a port", "give http-port"},
		"port 0":         {noip("http-port: 0\n"), `x.conf:2: http-port: "0" is no port`, "1 to 65535"},
		"fs's name":      {noip("fs-a.b: x\n"), `x.conf:2: fs-a.b: "a.b" is no name for a filesystem`, "letters, digits, _ and -"},
		"library":        {noip("depends: a b\n"), `x.conf:2: depends: "a b" is no name`, "as in: depends: cohttp, re"},
		"package":        {noip("packages: a,\"b\"\n"), `x.conf:2: packages: "\"b\"" is no name`, "as in: packages: cohttp, re"},
		"memory":         {noip("xl-memory: lots\n"), `x.conf:2: xl-memory: want a whole number from 1 to 65535, not "lots"`, ""},
		"xl's key":       {noip("xl-a-b: 1\n"), `x.conf:2: xl-a-b: "a-b" is no key of xl.cfg(5)`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := mirari.Parse("x.conf", []byte(c.conf))
			var e *step.Error
			if !errors.As(err, &e) || e.Kind != step.InvalidSpec || e.Error() != c.want || e.Hint != c.hint {
				t.Errorf("got %v\nwant %s, hint %q", err, c.want, c.hint)
			}
		})
	}
}

// TestManyNotes: the project of the longest .conf can be read.
func TestManyNotes(t *testing.T) {
	c := parse(t, "x.conf", "main-noip: a\ndepends: "+strings.Repeat("lwt,", mirari.MaxBytes/4-10))
	if load(t, c); len(c.Notes) < 1000 {
		t.Errorf("%d notes", len(c.Notes))
	}
}

// FuzzParse: a .conf that is read gives a morgana.yaml that can be read.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{web, "main-noip: a\nxl-vif: [&a [*a]]\n", "main-ip: A.b\nxl-x: \"'\nfs-a: *)\"\n",
		"main-http: a\nhttp-port: 1\nunknown key: x\n", "main-ip: a\nxl-extra: \t\\\nxl-disk: ['phy:/\\,a']\n#: \n"} {
		f.Add([]byte(seed))
	}
	path := filepath.Join(f.TempDir(), config.Filename)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := mirari.Parse("x.conf", data)
		if err != nil {
			if step.KindOf(err) != step.InvalidSpec {
				t.Errorf("%v is of kind %q", err, step.KindOf(err))
			}
			return
		}
		c.Sketch("x")
		if err := os.WriteFile(path, c.Project("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := config.Load(path, nil); err != nil {
			t.Fatalf("%v\n%s", err, c.Project("x"))
		}
	})
}

func parse(t *testing.T, shown, content string) *mirari.Conf {
	t.Helper()
	c, err := mirari.Parse(shown, []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func load(t *testing.T, c *mirari.Conf) *config.Project {
	t.Helper()
	path := filepath.Join(t.TempDir(), config.Filename)
	if err := os.WriteFile(path, c.Project("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := config.Load(path, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, c.Project("x"))
	}
	return p
}
