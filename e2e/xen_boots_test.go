package e2e

import (
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"

	"github.com/morgana-deploy/morgana/xenlab"
)

// boots deploys hello from source by each boot protocol of a domain. Hello prints
// which it was.
func (x *onXen) boots() {
	if err := x.host.MakePVGrubs(x.t.Context()); err != nil {
		x.t.Fatal(err)
	}
	folder := x.hello()
	const all = "kind: xen, host: 'ssh://xenlab', memory: 64, timeout: 20m, args: stay a b, expect: staying"
	x.write(filepath.Join(folder, "morgana.yaml"), `app: ways
toolchain: {kind: command, build: [[make]], kernel: hello}
targets:
  pvh: {`+all+`, type: pvh, vif: [{bridge: xenbr0}, {}]}
  pv: {`+all+`, type: pv, vif: [{}]}
  hvm: {`+all+`, type: hvm, via: disk, vif: [{}]}
  pygrub: {`+all+`, type: pv, via: disk}
  hd0: {`+all+`, type: pv, via: disk, bootloader: `+xenlab.PVGrubHD0+`}
  hd00: {`+all+`, type: pv, via: disk, layout: "hd0,0", bootloader: `+xenlab.PVGrubHD00+`, vif: [{}]}
  wrong0: {`+all+`, type: pv, via: disk, bootloader: `+xenlab.PVGrubHD00+`}
  same: {`+all+`, type: pv, via: disk, bootloader: `+xenlab.PVGrubHD0+`}
`)
	packed := x.project("app: packed\ntoolchain: {kind: prebuilt, kernel: kernel}\n" +
		"targets:\n  dev: {restart: on-failure, health: {console: staying, interval: 500ms, window: 2s}, " + all + "}\n")
	x.gzip(filepath.Join(packed, "kernel"))

	probed := x.begin(packed, "deploy")
	x.done(x.begin(folder, "deploy", "-t", "pvh", "-t", "pv", "-t", "pygrub", "-t", "hd0", "-t", "hd00"))
	if r := x.over(probed); r.code != 0 || !strings.Contains(r.out, "packed/dev health     done") || !strings.Contains(r.out, `console matched "staying"`) {
		x.t.Fatalf("a deploy with a probe ended with %d:\n%s%s", r.code, r.out, r.errOut)
	}
	x.kill(x.worker)
	x.dom0(`xl destroy "$(xl list | awk '/^packed/ { print $1 }')"`)
	x.startWorker("--builds", "4")
	x.done(x.begin(folder, "deploy", "-t", "hvm"))
	c := x.client()
	x.eventually("the destroyed domain is restarted", func() bool { return x.deployment(c, "packed").Restarts == 1 })
	modes := map[string]string{"ways/pvh": "xen-pvh", "ways/pv": "xen-pv", "ways/hvm": "xen-hvm-multiboot2",
		"ways/pygrub": "xen-pv", "ways/hd0": "xen-pv", "ways/hd00": "xen-pv", "packed/dev": "xen-pvh"}
	for name, mode := range modes {
		r := x.morgana(folder, "console", name)
		if text := strings.ReplaceAll(r.out, "\r", ""); !strings.Contains(text, "boot mode: "+mode+"\n") || !strings.Contains(text, "command line: [stay a b]\n") {
			x.t.Errorf("%s: want boot mode %s and the arguments in\n%s%s", name, mode, r.out, r.errOut)
		}
	}
	x.nets(map[string]int{"ways.pvh.": 2, "ways.pv.": 1, "ways.hd00.": 1,
		"ways.hvm.": 2, // the paravirtual device and the emulated one
	})

	x.done(x.begin(folder, "destroy", "ways/hvm"))
	x.wrongRoot(folder)
	x.done(x.begin(folder, "destroy", "ways"), x.begin(folder, "destroy", "packed"))
}

// nets fails the test unless the domains whose names begin so have so many ports
// on the bridge.
func (x *onXen) nets(want map[string]int) {
	x.t.Helper()
	out := x.dom0(`for d in $(xenstore-list /local/domain); do
	ports=$(ls -d /sys/class/net/xenbr0/brif/vif$d.* 2>/dev/null)
	echo $(xenstore-read /local/domain/$d/name) $ports
done`)
	for name, n := range want {
		if words := strings.Fields(lineWith(out, name)); len(words) != n+1 {
			x.t.Errorf("%s has %q on the bridge, want %d ports", name, words, n)
		}
	}
}

// wrongRoot boots disks with a pv-grub for the other layout, and a disk whose
// menu.lst names a disk that does not exist. Each deploy waits for pv-grub's error.
func (x *onXen) wrongRoot(folder string) {
	x.t.Helper()
	// The image is that of target hd0, which is on the host already.
	x.dom0(`cd /var/lib/morgana && image=$(cat domains/ways.hd0.*/digest) &&
test "$(grep -ac 'root (hd0)$' $image/disk.img)" = 1 && sed -i 's/root (hd0)$/root (hd7)/' $image/disk.img`)
	before := x.there()
	var deploys, destroys []*running
	for target, says := range map[string]string{"wrong0": "no menu on .hd0,msdos1.", "same": "couldn't load file /boot/kernel"} {
		deploys = append(deploys, x.begin(folder, "deploy", "-t", target, "--set", target+".expect="+says))
	}
	x.done(deploys...)
	for _, target := range []string{"wrong0", "same"} {
		destroys = append(destroys, x.begin(folder, "destroy", "ways/"+target))
	}
	x.done(destroys...)
	x.asBefore(before)
}

// gzip writes the kernel, packed, into a file.
func (x *onXen) gzip(path string) {
	x.t.Helper()
	f, err := os.Create(path)
	if err != nil {
		x.t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	if _, err := z.Write(x.kernel); err != nil {
		x.t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		x.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		x.t.Fatal(err)
	}
}
