package xenserver

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

func TestReadRefuses(t *testing.T) {
	digits := strings.Repeat("ab", 32)
	for _, test := range []struct{ options, field, text string }{
		{`{"memroy":1}`, "memroy", `"memory"`},
		{`{"host":"xen1"}`, "host", "https://"},
		{`{"host":"http://xen1"}`, "host", "https://"},
		{`{"host":"https://root:secret@xen1"}`, "host", "leave out the user and the password"},
		{`{"host":"https://xen1/jsonrpc"}`, "host", "https://"},
		{`{"profile":"../passwd"}`, "profile", "~/.xe.d"},
		{`{"fingerprint":"ab:cd"}`, "fingerprint", "openssl x509"},
		{`{"fingerprint":"` + digits + ` ab"}`, "fingerprint", `"ab"`},
		{`{"fingerprint":"` + digits + `","ca":"/a"}`, "ca", "either"},
		{`{"ca":"a.pem"}`, "ca", "begins with /"},
		{`{"type":"hwm"}`, "type", `"hvm"`},
		{`{"type":"pv","types":["pv"]}`, "types", "leaves no choice"},
		{`{"types":["pv","pv"]}`, "types[1]", "each once"},
		{`{"types":["xen"]}`, "types[0]", "pvh, pv, hvm"},
		{`{"via":"kernel"}`, "via", "a file of dom0"},
		{`{"via":"disc"}`, "via", "via: disk"},
		{`{"format":"qcow2"}`, "format", "auto, vhd, raw"},
		{`{"size":"1GB"}`, "size", "1GiB"},
		{`{"size":"10KiB"}`, "size", `"1MiB" to`},
		{`{"size":"3TiB"}`, "size", "2040GiB"},
		{`{"host":"http://root:secret@xen1"}`, "host", "leave out the user and the password"},
		{`{"host":"https://root:secret@xen1:x"}`, "host", "leave out the user and the password"},
		{`{"args":"a\u0000"}`, "args", `'\x00'`},
		{`{"args":"a\u001bb"}`, "args", `'\x1b'`},
		{`{"folder":"/a\u0001"}`, "folder", `'\x01'`},
		{`{"tags":["a","b\u0001"]}`, "tags[1]", `'\x01'`},
		{`{"networks":[{"network":"\u0001"}]}`, "networks[0].network", `'\x01'`},
		{`{"modules":["../a"]}`, "modules[0]", "initrd.img"},
		{`{"modules":["a","a"]}`, "modules[1]", "twice"},
		{`{"network":"a","networks":[{"network":"b"}]}`, "network", "either"},
		{`{"networks":[{"mac":"00:16:3e:00:00:01"}]}`, "networks[0].network", "UUID"},
		{`{"networks":[{"network":"a","mac":"01:00:00:00:00:01"}]}`, "networks[0].mac", "one station"},
		{`{"networks":[{"network":"a","mac":"00:16:3e:00:00:01"},{"network":"a","mac":"00-16-3E-00-00-01"}]}`, "networks[1].mac", "another interface"},
		{`{"memory":-1}`, "memory", "MiB"},
		{`{"memory":1}`, "memory", "at least 4"},
		{`{"type":"hvm","memory":64}`, "memory", "at least 128"},
		{`{"vcpus":0}`, "vcpus", "1 to 64"},
		{`{"folder":"web"}`, "folder", "/web/prod"},
		{`{"tags":["a,b"]}`, "tags[0]", "commas"},
		{`{"address":"a b"}`, "address", "192.0.2.7"},
		{`{"expectPort":70000}`, "expectPort", "70000"},
		{`{"expectPort":80}`, "address", "expectPort needs it"},
		{`{"type":"hvm","expect":"up"}`, "expect", "no console of text"},
		{`{"expect":"("}`, "expect", "regular expression"},
		{`{"timeout":"90"}`, "timeout", "90s"},
	} {
		_, err := complete(json.RawMessage(test.options))
		var e *step.Error
		if !errors.As(err, &e) || e.Kind != step.InvalidSpec || e.Field != test.field || !strings.Contains(e.Error()+"\n"+e.Hint, test.text) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v, want field %s and %q", test.options, err, test.field, test.text)
		}
	}
}

// TestChoose chooses VMs for kernels of a pool.
func TestChoose(t *testing.T) {
	hello, mirage := []string{image.Multiboot2, image.PVH, image.XenPV, image.XenPVH}, []string{image.Solo5Xen, image.XenPVH}
	old, modern := hostRecord{Name: "old", SoftwareVersion: map[string]string{"xapi_build": "23.8.1"}, Capabilities: []string{"xen-3.0-x86_64", "hvm-3.0-x86_64"}},
		hostRecord{Name: "modern", SoftwareVersion: map[string]string{"xapi_build": "24.11.0", "product_brand": "XCP-ng", "product_version": "8.3.0"}, Capabilities: []string{"hvm-3.0-x86_64"}}
	trial := hostRecord{Name: "trial", SoftwareVersion: map[string]string{"xapi_build": "23.10.0"}, Capabilities: old.Capabilities}
	for _, test := range []struct {
		host    hostRecord
		options string
		abis    []string
		want    string // "pvh by xen-pvh", or a part of the error or its hint
	}{
		{old, `{}`, hello, "pv by xen-pv"},
		{modern, `{}`, hello, "pvh by xen-pvh"},
		{old, `{}`, []string{image.Multiboot2}, "hvm by multiboot2"},
		{old, `{}`, []string{image.XenPV}, "pv by xen-pv"},
		{old, `{}`, mirage, "hvm by solo5-xen"},
		{modern, `{}`, mirage, "pvh by xen-pvh"},
		{modern, `{}`, []string{image.XenPV}, "the kernel boots in a pv VM, and modern is XCP-ng 8.3.0"},
		{modern, `{"type":"pv"}`, hello, "modern is XCP-ng 8.3.0, which runs no pv VMs"},
		{old, `{"type":"pvh"}`, hello, "a pvh VM needs xapi 23.9, and old has 23.8.1"},
		{trial, `{"expect":"up"}`, hello, "pv by xen-pv"},
		{trial, `{}`, hello, "pvh by xen-pvh"},
		{trial, `{"expect":"up"}`, nil, "auto of [pv hvm]"},
		{trial, `{"expect":"up","type":"pvh"}`, hello, "a pvh VM with a console of text needs xapi 25.14, and trial has 23.10.0\ntype: pv; or expectPort"},
		{trial, `{"expect":"up"}`, []string{image.XenPVH}, "the kernel boots in a pvh VM, and a pvh VM with a console of text needs xapi 25.14"},
		{modern, `{"expect":"up","type":"pvh"}`, hello, "modern has 24.11.0\nexpectPort with address"},
		{old, `{"types":["hvm","pvh"]}`, hello, "type: pv or hvm"},
		{old, `{"types":["hvm","pv"]}`, hello, "hvm by multiboot2"},
		{old, `{"type":"pv"}`, mirage, "PVH only"},
		{modern, `{"type":"pvh"}`, []string{image.XenPV}, "PV only"},
		{modern, `{"type":"hvm"}`, []string{image.XenPV}, "grub cannot boot a Xen PV kernel"},
		{old, `{"expect":"up"}`, []string{image.Multiboot2}, "expectPort with address"},
		{old, `{"modules":["a","b"]}`, hello, "one ramdisk"},
		{old, `{"modules":["a","b"],"type":"hvm"}`, hello, "hvm by multiboot2"},
		{old, `{"memory":64}`, []string{image.Multiboot2}, "at least 128"},
		{old, `{}`, nil, "auto of [pv hvm]"},
		{modern, `{}`, nil, "auto of [pvh hvm]"},
		{modern, `{"type":"hvm"}`, nil, "hvm by "},
	} {
		s, err := complete(json.RawMessage(test.options))
		if err != nil {
			t.Fatal(err)
		}
		c := &checker{settings: &s, spec: step.Spec{Origin: step.Origin{ABIs: test.abis}}, hosts: map[ref]hostRecord{"OpaqueRef:1": test.host}}
		if err = c.types(t.Context()); err == nil && s.Type == auto {
			if got := "auto of [" + strings.Join(s.Types, " ") + "]"; got != test.want {
				t.Errorf("%s %s %v: got %s, want %s", test.host.Name, test.options, test.abis, got, test.want)
			}
			continue
		}
		got := ""
		if err == nil {
			var abi string
			if s.Type, abi, err = s.choose(test.abis); err == nil {
				got = s.Type + " by " + abi
			}
		}
		var e *step.Error
		if errors.As(err, &e) {
			got = e.Error() + "\n" + e.Hint
		}
		if !strings.Contains(got, test.want) {
			t.Errorf("%s %s %v: got %s, want %s", test.host.Name, test.options, test.abis, got, test.want)
		}
	}
}
