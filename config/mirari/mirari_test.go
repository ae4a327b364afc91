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
packages: mirage-net, cow.0.6
compiler: 4.01.0+mirage-xen
xl-memory: 040
xl-vcpus: 2
xl-on_crash: preserve
xl-vif: [ 'mac=00:16:3E:74:34:32', "bridge=br0" ]
xl-extra: '--verbose "x"'
xl-disk: ['phy:/dev/vg/a,hda1,w', "format=qcow2, vdev=xvdb, access=ro, target=/srv/b,c.img"]
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
    memory: 32   # MiB, from xl-memory
    cpus: 2
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
    vif:
      - {mac: "00:16:3e:74:34:32"}
      - {bridge: "br0"}
    disks:
      - {path: "/dev/vg/a", vdev: "hda1", access: "w", format: "raw"}
      - {path: "/srv/b,c.img", vdev: "xvdb", access: "r", format: "qcow2"}
    on_crash: preserve
    extra:   # lines of xl.cfg(5)
      - "cpus = \"2-3\""

# What has no counterpart, or one that differs:
#   web.conf:2: ip-address: is in the args of xen, else in comments: QEMU's user network has addresses of its own
#   web.conf:3: ip-netmask: is in the args of xen, else in comments: QEMU's user network has addresses of its own
#   web.conf:9: http-address: needs no counterpart: the unikernel serves on every address it has
#   web.conf:10: main-http: write it as ` + "`start`" + ` of a module Unikernel, in unikernel.ml: MirageOS 4 gives it its devices as arguments
#   web.conf:11: depends: cohttp.syntax was for camlp4, which is gone; its library is asked for, its syntax needs a ppx
#   web.conf:12: depends: mirage is left out: it comes with the devices of config.ml
#   web.conf:13: packages: mirage-net is left out: it comes with the devices of config.ml
#   web.conf:13: packages: cow.0.6 is asked for without its version, which is of 2013
#   web.conf:14: compiler: no counterpart: the opam switch that is current when the worker starts builds it; the kind of a target says what for
#   web.conf:17: xl-on_crash: xl.cfg(5) wants it in quotes; taken as it stands
#   web.conf:22: xl-kernel: left out, Morgana sets it: it is the kernel that was built
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

func TestEveryKey(t *testing.T) {
	c, err := mirari.Parse("web.conf", []byte(web))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(c.Project("web")); got != webProject {
		t.Errorf("morgana.yaml:\n%s\nwant:\n%s", got, webProject)
	}
	if got := string(c.Sketch("web")); got != webSketch {
		t.Errorf("config.ml:\n%s\nwant:\n%s", got, webSketch)
	}
	p := load(t, string(c.Project("web")))
	if p.Toolchain.Kind != "mirage" || len(p.Targets) != 3 || p.Targets[0].Kind != "qemu" || p.Targets[1].Kind != "local" || p.Targets[2].Kind != "xen" {
		t.Errorf("%+v", p)
	}
	const options = `{"args":"--ipv4=10.0.2.15/24 --ipv4-gateway=10.0.2.2 --verbose \"x\"","cpus":2,"expectPort":80,"memory":32,"ports":["8080:80"]}`
	if got := string(p.Targets[0].Options); got != options {
		t.Errorf("options %s", got)
	}
}

func TestVariants(t *testing.T) {
	for name, c := range map[string]struct {
		conf                string
		options, sketchHas  string
		notes, sketchHasNot string
	}{
		"no network": {"main-noip: Noip.main\nip-use-dhcp: true\nhttp-port: 80\nhttp-address: *\n", `{"memory":64}`,
			"let main = main \"Unikernel\" job\nlet () = register \"x\" [ main ]\n", "ip-use-dhcp: left out: main-noip has no network x.conf:3: http-port: left out: main-noip has no network x.conf:4: http-address: left out: main-noip has no network", "stack"},
		"DHCP": {"main-ip: Ping.main\nip-use-dhcp: true\nip-address: 10.0.0.2\n", `{"memory":64,"network":"user"}`,
			"(stackv4v6 @-> job)", "`dhcp: true` x.conf:3: ip-address: left out, as ip-use-dhcp had mirari do]", "packages"},
		"fs without a name": {"main-noip: M.m\nfs: x\nxl: y\n", `{"memory":64}`, "\"Unikernel\" job", "x.conf:2: fs: left out: mirari did not know it either x.conf:3: xl: left out", "crunch"},
		"DHCP refused": {"main-ip: Ping.main\nip-use-dhcp: false\n", `{"args":"--ipv4=10.0.2.15/24 --ipv4-gateway=10.0.2.2","memory":64,"network":"user"}`,
			"generic_stackv4v6", "", "http"},
		"nothing said": {"main-ip:main\n", `{"args":"--ipv4=10.0.2.15/24 --ipv4-gateway=10.0.2.2","memory":64,"network":"user"}`,
			"register \"x\" [ main $ stack ]", "", ""},
		"high port": {"main-http: A.b\nhttp-port: 8080\nhttp-address: 10.0.0.2\n",
			`{"args":"--ipv4=10.0.2.15/24 --ipv4-gateway=10.0.2.2","expectPort":8080,"memory":64,"ports":["8080:8080"]}`, "http @-> job",
			"http-address: no counterpart: the unikernel serves on every address it has", ""},
		"no address": {"main-http: A.b\nhttp-port: 443\n",
			`{"args":"--ipv4=10.0.2.15/24 --ipv4-gateway=10.0.2.2","expectPort":443,"memory":64,"ports":["8443:443"]}`, "http @-> job",
			"mirari passed over it", ""},
		"quotes": {"main-noip: M.m\nfs-A: a\"b\\c\nfs-a: \tx *) y\r\n", `{"memory":64}`,
			"let fs_a = crunch \"a\\\"b\\\\c\"\nlet fs_a_1 = crunch \"x *) y\"\n", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			parsed, err := mirari.Parse("x.conf", []byte(c.conf))
			if err != nil {
				t.Fatal(err)
			}
			p := load(t, string(parsed.Project("x")))
			if got := string(p.Targets[0].Options); got != c.options {
				t.Errorf("options %s", got)
			}
			sketch := string(parsed.Sketch("x"))
			if !strings.Contains(sketch, c.sketchHas) || c.sketchHasNot != "" && strings.Contains(sketch, c.sketchHasNot) {
				t.Errorf("config.ml:\n%s", sketch)
			}
			if notes := fmt.Sprint(parsed.Notes); !strings.Contains(notes, c.notes) {
				t.Errorf("notes %s", notes)
			}
		})
	}
}

func TestBad(t *testing.T) {
	const form = `a line is "key: value", or begins with #`
	const exactly = "give exactly one of main-http, main-ip and main-noip"
	noip := func(more string) string { return "main-noip: M.main\n" + more }
	for name, c := range map[string]struct{ conf, want, hint string }{
		"empty":           {"", "x.conf: no main function", exactly},
		"two mains":       {"main-ip: A.a\n\nmain-http: B.b\n", "x.conf:3: main-http: a second main function, the first is at x.conf:1", exactly},
		"no colon":        {"# x\nmain-ip A.a\n", `x.conf:2: no colon in "main-ip A.a"`, form},
		"no key":          {": a\n", "x.conf:1: no key before the colon", form},
		"space in key":    {"main ip: a\n", `x.conf:1: a key with a space, "main ip"`, form},
		"no value":        {"main-ip:\n", "x.conf:1: main-ip: no value", ""},
		"twice":           {noip("compiler: a\ncompiler: b\n"), "x.conf:3: compiler: given twice, first at x.conf:2", ""},
		"main's name":     {"main-ip: let x =\n", `x.conf:1: main-ip: "let x =" is not the name of a function`, `as "Dispatch.main"`},
		"not UTF-8":       {noip("compiler: \xff\n"), "x.conf:2: not UTF-8", ""},
		"line separator":  {noip("compiler: a\u2028b\n"), "x.conf:2: an unprintable character, U+2028", ""},
		"escape":          {noip("compiler: \x1b[1m\n"), "x.conf:2: an unprintable character, U+001B", ""},
		"too long":        {noip(strings.Repeat("#\n", 5000)), "x.conf:1: more than 8 KiB", ""},
		"too many":        {noip(strings.Repeat("depends: a\n", 200)), "x.conf:201: more than 200 keys", ""},
		"DHCP perhaps":    {noip("ip-use-dhcp: yes\n"), `x.conf:2: ip-use-dhcp: want true or false, not "yes"`, ""},
		"address":         {noip("ip-address: 10.0.0\n"), `x.conf:2: ip-address: "10.0.0" is no IPv4 address`, ""},
		"IPv6":            {noip("ip-gateway: ::1\n"), `x.conf:2: ip-gateway: "::1" is no IPv4 address`, ""},
		"netmask":         {"main-ip: A.a\nip-netmask: 255.0.255.0\n", `x.conf:2: ip-netmask: "255.0.255.0" is no netmask`, "as 255.255.255.0"},
		"http, no port":   {"main-http: A.a\n", "x.conf:1: main-http: a server without a port", "give http-port and http-address"},
		"address alone":   {noip("http-address: *\n"), "x.conf:2: http-address: an address without a port", "give http-port as well"},
		"port 0":          {noip("http-port: 0\n"), `x.conf:2: http-port: "0" is no port`, "1 to 65535"},
		"port too high":   {noip("http-port: 65536\n"), `x.conf:2: http-port: "65536" is no port`, "1 to 65535"},
		"http's address":  {noip("http-port: 80\nhttp-address: localhost\n"), `x.conf:3: http-address: "localhost" is no address`, "an IPv4 address, or * for any"},
		"fs without name": {noip("fs-: x\n"), `x.conf:2: fs-: "" is no name for a filesystem`, ""},
		"library":         {noip("depends: a b\n"), `x.conf:2: depends: "a b" is no library`, "as in: depends: cohttp, re.str"},
		"package":         {noip("packages: a,\"b\"\n"), `x.conf:2: packages: "\"b\"" is no package`, "as in: packages: cow, re"},
		"memory":          {noip("xl-memory: lots\n"), `x.conf:2: xl-memory: want a whole number from 1 to 1048576, not "lots"`, ""},
		"processors":      {noip("xl-vcpus: 256\n"), `x.conf:2: xl-vcpus: want a whole number from 1 to 255, not "256"`, ""},
		"xl's key, upper": {noip("xl-Memory: 1\n"), `x.conf:2: xl-Memory: "Memory" is no key of xl.cfg(5)`, ""},
		"xl's key":        {noip("xl-a-b: 1\n"), `x.conf:2: xl-a-b: "a-b" is no key of xl.cfg(5)`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := mirari.Parse("x.conf", []byte(c.conf))
			var e *step.Error
			if !errors.As(err, &e) || e.Kind != step.InvalidSpec || e.Error() != c.want || e.Hint != c.hint {
				t.Errorf("got %v, hint %q\nwant %s, hint %q", err, hintOf(e), c.want, c.hint)
			}
		})
	}
}

// FuzzParse: whatever is taken gives a morgana.yaml that is taken as well, its
// target xen by the target.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{web, "main-noip: a\nxl-vif: [&a [*a]]\n", "main-ip: A.b\nxl-x: \"'\nfs-a: *)\"\n", "main-ip: a\nxl-disk: ['\\x', \"\\q\"]\n",
		"main-ip: a\nip-netmask: 0.0.0.0\n", "main-http: a\nhttp-port: 1\nunknown key: x\n", "main-ip: a\n#: \n:\n", "main-ip: a\nxl-extra: \t\\\n",
		"main-noip: a\nxl-cpus: 2-3\nxl-pci: ['01:00.0', [1,],] # a\nxl-root: '\\a\\v'\nxl-cmdline: 0x1\nxl-x: '\\q'; \n",
		"main-noip: a\nxl-disk: ['tap2:aio:/a,b,', '/a/../b,,,r', 'target=/b,c', '/b,qcow2,hda:disk,rw', 'x,y,z', '', 'file:phy:/d,sda1,w!,z']\n",
		"main-noip: a\nxl-vif: ['mac=00-16-3E-00-00-01,ip=10.0.0.2', 'mac=00:16:3e:00:00:01', 'mac=ff:ff:ff:ff:ff:ff', 'script=a b,rate=1', '\\n=']\n"} {
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
		p, err := config.Load(path, nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, c.Project("x"))
		}
		for _, target := range p.Targets {
			if err := refusal(t, target); err != nil {
				t.Errorf("the target: %v\n%s", err, c.Project("x"))
			}
		}
	})
}

// refusal is what the target xen has against the options of a target of its kind.
// It looks at them before it finds that it cannot start such a kernel.
func refusal(t *testing.T, target config.Target) error {
	t.Helper()
	if target.Kind != xen.Kind {
		return nil
	}
	_, err := xen.New(step.Site{}).Package(t.Context(), step.Kernel{ABIs: []string{image.Solo5HVT}, Spec: step.Spec{Kind: xen.Kind, Options: target.Options}})
	if step.KindOf(err) == step.Unsupported {
		return nil
	}
	return fmt.Errorf("not Unsupported: %w", err)
}

func hintOf(e *step.Error) string {
	if e == nil {
		return ""
	}
	return e.Hint
}

func load(t *testing.T, content string) *config.Project {
	t.Helper()
	path := filepath.Join(t.TempDir(), config.Filename)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := config.Load(path, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, content)
	}
	return p
}
