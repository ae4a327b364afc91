package xen

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

func TestReadRefuses(t *testing.T) {
	for _, test := range []struct{ options, field, text string }{
		{`{"memroy":1}`, "memroy", `"memory"`},
		{`{"tool":"xe"}`, "tool", `"xl"`},
		{`{"type":"hwm"}`, "type", `"hvm"`},
		{`{"via":"disc"}`, "via", `"disk"`},
		{`{"type":"hvm"}`, "via", "via: disk"},
		{`{"type":"pvh","via":"disk","expect":"x"}`, "via", "via: kernel"},
		{`{"type":"pvh","tool":"xm"}`, "type", "xm knows no pvh"},
		{`{"memory":-1}`, "memory", "MiB"},
		{`{"vcpus":1000}`, "vcpus", "1 to 512"},
		{`{"args":"a\u0000"}`, "args", "NUL"},
		{`{"on_crash":"destroyed"}`, "on_crash", `"destroy"`},
		{`{"size":"1GiB"}`, "size", "via: disk"},
		{`{"layout":"hd0"}`, "layout", "via: disk"},
		{`{"bootloader":"pygrub"}`, "bootloader", "via: disk"},
		{`{"via":"disk"}`, "expect", "boot loaders print as well"},
		{`{"via":"disk","expect":"x","layout":"hd1"}`, "layout", `"hd0"`},
		{`{"via":"disk","expect":"x","type":"hvm","layout":"hd0"}`, "layout", "leave it out"},
		{`{"via":"disk","expect":"x","type":"hvm","bootloader":"pygrub"}`, "bootloader", "type: pv"},
		{`{"via":"disk","expect":"x","bootloader":"pv-grub"}`, "bootloader", "path of a pv-grub"},
		{`{"via":"disk","expect":"x","size":"1GB"}`, "size", "1GiB"},
		{`{"modules":["a","b"]}`, "modules", "one ramdisk"},
		{`{"modules":["../a"]}`, "modules[0]", "initrd.img"},
		{`{"modules":["writes"]}`, "modules[0]", "cannot be the name"},
		{`{"modules":["console.log"]}`, "modules[0]", "cannot be the name"},
		{`{"via":"disk","expect":"x","modules":["a","a"]}`, "modules[1]", "twice"},
		{`{"vif":[{"bridge":"br0,mac=1"}]}`, "vif[0].bridge", "xenbr0"},
		{`{"vif":[{"script":"a,b"}]}`, "vif[0].script", "vif-openvswitch"},
		{`{"vif":[{"mac":"01:00:00:00:00:01"}]}`, "vif[0].mac", "one station"},
		{`{"vif":[{"mac":"00:16:3e:00:00:01"},{"mac":"00-16-3E-00-00-01"}]}`, "vif[1].mac", "another vif"},
		{`{"vif":[{"ip":"10.0.0.2/24"}]}`, "vif[0].ip", "10.0.0.2"},
		{`{"vif":[{"model":"e1000"}]}`, "vif[0].model", "only an hvm domain"},
		{`{"vif":[{"name":"a@b"}]}`, "vif[0].name", "@NETWORK"},
		{`{"vif":[{"name":"a"},{"name":"a"}]}`, "vif[1].name", "another vif"},
		{`{"disks":[{"name":"a"}]}`, "disks[0]", "either a path or a file"},
		{`{"disks":[{"path":"a"}]}`, "disks[0].path", "absolute"},
		{`{"disks":[{"path":"/a\nb"}]}`, "disks[0].path", "absolute"},
		{`{"disks":[{"path":"/a,b"}],"tool":"xm"}`, "disks[0].path", "xm cannot quote"},
		{`{"disks":[{"file":"kernel"}]}`, "disks[0].file", "cannot be the name"},
		{`{"disks":[{"path":"/a","vdev":"vda"}]}`, "disks[0].vdev", "xvdb"},
		{`{"disks":[{"path":"/a","access":"rw"}]}`, "disks[0].access", "did you mean"},
		{`{"disks":[{"path":"/a","format":"iso9660"}]}`, "disks[0].format", "one of"},
		{`{"disks":[{"path":"/a"},{"path":"/b/../a","access":"r"}]}`, "disks[1].path", "access: r on both"},
		{`{"disks":[{"file":"a"},{"file":"a"}]}`, "disks[1].file", "access: r on both"},
		{`{"disks":[{"path":"/a","vdev":"xvdb"},{"path":"/b","vdev":"xvdb"}]}`, "disks[1].vdev", "disks[0]"},
		{`{"extra":["cpus = 2-3"]}`, "extra[0]", "in quotes"},
		{`{"extra":["cpus"]}`, "extra[0]", "want = behind cpus"},
		{`{"extra":["a = 1\nname = \"x\""]}`, "extra[0]", "one plain line"},
		{`{"extra":["a = 1; name = \"x\""]}`, "extra[0]", "behind the value"},
		{`{"extra":["maxmem = 64","maxmem = 65"]}`, "extra[1]", "twice"},
		{`{"extra":["name = \"x\""]}`, "extra[0]", "set by Morgana"},
		{`{"extra":["memory = 1"]}`, "extra[0]", "option memory"},
		{`{"extra":["disk += ['/x,raw,xvdz,w']"]}`, "extra[0]", "option disks"},
		{`{"expect":"("}`, "expect", "missing closing )"},
		{`{"timeout":"90"}`, "timeout", "90s"},
	} {
		_, err := complete(json.RawMessage(test.options))
		var e *step.Error
		if !errors.As(err, &e) || e.Kind != step.InvalidSpec || e.Field != test.field || !strings.Contains(e.Error()+"\n"+e.Hint, test.text) {
			t.Errorf("%s: got %+v, want InvalidSpec of %s with %q", test.options, err, test.field, test.text)
		}
	}
}

func TestReadIsComplete(t *testing.T) {
	for _, test := range []struct{ options, want string }{
		{``, `{"tool":"xl","type":"auto","via":"kernel","timeout":"60s"}`},
		{`{"host":"ssh://root@xen1","memory":32,"vif":[{"mac":"00-16-3E-00-00-01"}],"disks":[{"path":"/a/../b"}],"extra":["cpus = '2'"]}`,
			`{"host":"ssh://root@xen1","tool":"xl","type":"auto","via":"kernel","memory":32,"vif":[{"mac":"00:16:3e:00:00:01"}],"disks":[{"path":"/b"}],"extra":["cpus = '2'"],"timeout":"60s"}`},
	} {
		s, err := complete(json.RawMessage(test.options))
		if err != nil {
			t.Errorf("%s: %v", test.options, err)
			continue
		}
		b, err := json.Marshal(s.Options)
		if string(b) != test.want || err != nil {
			t.Errorf("%s:\ngot  %s, %v\nwant %s", test.options, b, err, test.want)
		}
		if again, err := read(b); err != nil || again.Timeout != s.Timeout || again.Memory != s.Memory {
			t.Errorf("%s: reads its own JSON as %+v, %v", test.options, again, err)
		}
	}
}
