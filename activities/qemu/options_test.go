package qemu

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

func TestReadRefuses(t *testing.T) {
	for _, test := range []struct{ options, field, text string }{
		{`{"memroy":64}`, "memroy", "unknown field"},
		{`{"memory":"1G"}`, "memory", "a whole number"},
		{`{"memory":0}`, "memory", "too little"},
		{`{"memory":1}`, "memory", "1 MiB is too little"},
		{`{"via":"bios","expect":"x","memory":1}`, "memory", "1 MiB is too little"},
		{`{"via":"uefi","expect":"x","memory":63}`, "memory", "63 MiB is too little"},
		{`{"cpus":-1}`, "cpus", "-1"},
		{`{"args":"a\u0000b"}`, "args", "NUL"},
		{`{"accel":"kvn"}`, "accel", "kvn"},
		{`{"cpu":"max -S"}`, "cpu", "max -S"},
		{`{"accel":"tcg","cpu":"host"}`, "cpu", "needs accel kvm"},
		{`{"ports":["80"]}`, "ports[0]", "no guest port"},
		{`{"ports":["8080:80","1:x"]}`, "ports[1]", `"x" is no port`},
		{`{"ports":["0:80"]}`, "ports[0]", `"0" is no port`},
		{`{"ports":["65536:80"]}`, "ports[0]", `"65536" is no port`},
		{`{"ports":["8080:80/sctp"]}`, "ports[0]", "sctp"},
		{`{"ports":["localhost:8080:80"]}`, "ports[0]", "no IPv4 address"},
		{`{"ports":["[::1]:8080:80"]}`, "ports[0]", "no IPv4 address"},
		{`{"ports":["8080:80","0.0.0.0:8080:81"]}`, "ports[1]", "twice"},
		{`{"ports":["8080:80,hostfwd=tcp::1-:2"]}`, "ports[0]", "no port"},
		{`{"network":"tun"}`, "network", "tun"},
		{`{"network":"none","ports":["8080:80"]}`, "network", "need a network"},
		{`{"network":"none","expectPort":80}`, "network", "need a network"},
		{`{"expect":"("}`, "expect", "missing closing ): ("},
		{`{"expectPort":70000}`, "expectPort", "70000"},
		{`{"timeout":"60"}`, "timeout", "60"},
		{`{"timeout":"-1s"}`, "timeout", "-1s"},
		{`{"qemu":""}`, "qemu", "no program"},
		{`{"via":"floppy"}`, "via", "floppy"},
		{`{"via":"bios"}`, "expect", "GRUB print as well"},
		{`{"via":"bios","expect":"x","machine":"microvm"}`, "machine", "does not boot from a disk"},
		{`{"size":"1GiB"}`, "size", "no boot disk"},
		{`{"via":"bios","expect":"x","size":"1GB"}`, "size", `"1GB" is no size`},
		{`{"via":"bios","expect":"x","size":"-1GiB"}`, "size", "no size"},
		{`{"via":"bios","expect":"x","size":"0MiB"}`, "size", "no size"},
		{`{"via":"bios","expect":"x","size":"1MiB"}`, "size", "via bios"},
		{`{"via":"uefi","expect":"x","size":"32MiB"}`, "size", "via uefi"},
		{`{"via":"bios","expect":"x","size":"9TiB"}`, "size", "9TiB"},
		{`{"via":"bios","expect":"x","size":"9999999999TiB"}`, "size", "no size"},
		{`{"firmware":"/x"}`, "firmware", "via kernel"},
		{`{"via":"uefi","expect":"x","firmware":"x"}`, "firmware", "absolute"},
		{`{"machine":"q35,x=y"}`, "machine", "no machine type"},
		{`{"respawn":true}`, "respawn", "it is for a carrier"},
		{`{"carrier":"linux","memory":64}`, "memory", "too little for the carrier's Linux"},
		{`{"carrier":"linux","via":"uefi","expect":"x"}`, "memory", "128 MiB is too little for the carrier's Linux"},
		{`{"carrier":"linux","modules":["a"]}`, "modules", "a ramdisk of its own"},
		{`{"modules":["../initrd"]}`, "modules[0]", "../initrd"},
		{`{"modules":[""]}`, "modules[0]", "cannot be a module's name"},
		{`{"modules":["a,b"]}`, "modules[0]", "a,b"},
		{`{"modules":["a b"]}`, "modules[0]", "a b"},
		{`{"modules":["kernel"]}`, "modules[0]", "kernel"},
		{`{"modules":["console.log"]}`, "modules[0]", "console.log"},
		{`{"modules":["disk3.raw"]}`, "modules[0]", "disk3.raw"},
		{`{"modules":["a","b","a"]}`, "modules[2]", "twice"},
		{`{"disks":[{}]}`, "disks[0]", "either a path or a size"},
		{`{"disks":[{"path":"/x","size":"1GiB"}]}`, "disks[0]", "either a path or a size"},
		{`{"disks":[{"path":"x"}]}`, "disks[0].path", "absolute"},
		{`{"disks":[{"size":"1"}]}`, "disks[0].size", "no size"},
		{`{"disks":[{"size":"1GiB","readonly":true}]}`, "disks[0].readonly", "no use"},
		{`{"disks":[{"size":"1GiB","name":"a-b"}]}`, "disks[0].name", "a-b"},
		{`{"disks":[{"size":"1GiB","name":"a"},{"size":"1GiB","name":"a"}]}`, "disks[1].name", "another disk"},
		{`{"disks":[{"path":"/a/b"},{"path":"/a/./b","readonly":true}]}`, "disks[1].path", "disks[0].path too"},
		{`{"disks":[{"sise":"1GiB"}]}`, "disks[0].sise", "unknown field"},
		{`{"bridge":"br0","network":"user"}`, "bridge", "no bridge"},
		{`{"bridge":"br0","ports":["8080:80"]}`, "network", "need a network of kind user"},
		{`{"network":"user","networks":[{"kind":"user"}]}`, "network", "either"},
		{`{"bridge":"br0","networks":[{"kind":"user"}]}`, "bridge", "goes with"},
		{`{"networks":[{"kind":"wifi"}]}`, "networks[0].kind", "wifi"},
		{`{"networks":[{"kind":"user","bridge":"br0"}]}`, "networks[0].kind", "go with kind tap"},
		{`{"networks":[{"name":"a_b"}]}`, "networks[0].name", "a_b"},
		{`{"networks":[{"name":"a"},{"name":"a"}]}`, "networks[1].name", "another network"},
		{`{"networks":[{"tap":"t0"},{"kind":"user"},{"tap":"t0"}]}`, "networks[2].tap", "networks[0].tap"},
		{`{"networks":[{"mac":"01:00:5e:00:00:01"}]}`, "networks[0].mac", "01:00:5e"},
		{`{"networks":[{"mac":"x"}]}`, "networks[0].mac", "no MAC"},
		{`{"networks":[{"address":"10.0.0.1"}]}`, "networks[0].address", "10.0.0.1"},
		{`{"networks":[{"kind":"tap"}],"expectPort":80}`, "networks", "need a network of kind user"},
	} {
		_, err := complete(json.RawMessage(test.options))
		var e *step.Error
		if !errors.As(err, &e) || e.Kind != step.InvalidSpec || e.Field != test.field || !strings.Contains(e.Err.Error(), test.text) {
			t.Errorf("%s: got %#v, want InvalidSpec of %s with %q", test.options, err, test.field, test.text)
		}
	}
}

func TestReadNormalises(t *testing.T) {
	for _, test := range []struct{ options, want string }{
		{``, `{"via":"kernel","memory":128,"cpus":1,"accel":"auto","network":"none","timeout":"60s","qemu":"qemu-system-x86_64"}`},
		{`{"ports":["8080:80","127.0.0.1:53:53/udp","0.0.0.0:443:8443"],"args":"a,b"}`,
			`{"via":"kernel","memory":128,"cpus":1,"args":"a,b","accel":"auto","ports":["127.0.0.1:8080:80/tcp","127.0.0.1:53:53/udp","0.0.0.0:443:8443/tcp"],"network":"user","timeout":"60s","qemu":"qemu-system-x86_64"}`},
		{`{"expectPort":80}`, `{"via":"kernel","memory":128,"cpus":1,"accel":"auto","network":"user","expectPort":80,"timeout":"60s","qemu":"qemu-system-x86_64"}`},
		{`{"networks":[{"bridge":"br0","mac":"52-54-00-00-00-AA"},{"name":"uplink"}],"disks":[{"path":"/a/../b"}],"modules":["x"]}`,
			`{"via":"kernel","memory":128,"cpus":1,"modules":["x"],"accel":"auto","disks":[{"path":"/b"}],"networks":[{"kind":"tap","bridge":"br0","mac":"52:54:00:00:00:aa"},{"name":"uplink","kind":"user"}],"timeout":"60s","qemu":"qemu-system-x86_64"}`},
		{`{"bridge":"br0","networks":[]}`, `{"via":"kernel","memory":128,"cpus":1,"accel":"auto","network":"tap","bridge":"br0","timeout":"60s","qemu":"qemu-system-x86_64"}`},
	} {
		s, err := complete(json.RawMessage(test.options))
		if err != nil {
			t.Errorf("%s: %v", test.options, err)
			continue
		}
		b, err := json.Marshal(s.Options)
		if err != nil || string(b) != test.want {
			t.Errorf("%s:\ngot  %s, %v\nwant %s", test.options, b, err, test.want)
		}
		again, err := read(b)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := json.Marshal(again.Options); err != nil || string(c) != string(b) {
			t.Errorf("read again: %s, %v", c, err)
		}
	}
}

// Defaults are Check's: a later stage that has not all options has none of its own.
func TestOnlyCheckKnowsDefaults(t *testing.T) {
	for _, options := range []string{``, `{}`, `{"memory":128}`} {
		if s, err := read(json.RawMessage(options)); step.KindOf(err) != step.InvalidSpec {
			t.Errorf("%s: got %+v, %v", options, s.Options, err)
		}
	}
}

func TestParseUsernet(t *testing.T) {
	// As QEMU 7.2 prints it; a hub first, a UDP conversation with its age.
	const text = "Hub -1 (n0):\r\n" +
		"  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n" +
		"  TCP[SYN_SENT]      17       127.0.0.1 44269       10.0.2.15    81     0     0\r\n" +
		"  TCP[HOST_FORWARD]  16       127.0.0.1 44269       10.0.2.15    81     0     0\r\n" +
		"  TCP[HOST_FORWARD]  15               *  8080       10.0.2.15    80     0     0\r\n" +
		"  UDP[236 sec]       14       10.0.2.15 32001        10.0.2.3    53     0     0\r\n" +
		"  UDP[HOST_FORWARD]  13       127.0.0.1  5353       10.0.2.15    53     0     0\r\n" +
		"  ICMP[10 sec]       12       10.0.2.15     -         1.1.1.1     -     0     0\r\n"
	var got []string
	for _, r := range parseUsernet(text) {
		got = append(got, r.forward.String()+" "+r.state)
	}
	want := []string{
		"127.0.0.1:44269:81/tcp SYN_SENT", "127.0.0.1:44269:81/tcp HOST_FORWARD", "0.0.0.0:8080:80/tcp HOST_FORWARD",
		"10.0.2.15:32001:53/udp 236 sec", "127.0.0.1:5353:53/udp HOST_FORWARD",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
