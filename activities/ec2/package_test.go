package ec2

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
)

// TestPackage makes the same image twice, of the plain kernel and of the compressed one,
// for each layout. The list of blocks is that of the packed disk.
func TestPackage(t *testing.T) {
	need.Tools(t, "grub-mkimage", "mformat", "gcc")
	old := filepath.Join(t.TempDir(), "old.xen") // has no multiboot header
	out, err := exec.CommandContext(t.Context(), "gcc", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-DTARGET=6", "-DDEVICES=0", "-o", old, "../local/testdata/kernel.S").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	solo5, err := os.ReadFile(old)
	no(t, err)
	plain, err := os.ReadFile(hello(t))
	no(t, err)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, err = z.Write(plain)
	no(t, errors.Join(err, z.Close()))
	site := step.Site{Host: "testhost", State: t.TempDir(), Store: steptest.NewStore(t)}
	put := func(kernel []byte) step.Artifact {
		t.Helper()
		a, err := site.Store.Put(t.Context(), bytes.NewReader(kernel))
		no(t, err)
		return a
	}
	pack := func(kernel []byte, options string) (step.Image, error) {
		t.Helper()
		s := step.Spec{Kind: Kind, Options: json.RawMessage(options), Tags: step.Tags{App: "hello", Target: "prod", Life: "00c0ffee", Generation: 1}}
		return New(site).Package(t.Context(), step.Kernel{Spec: s, File: put(kernel)})
	}
	for _, test := range []struct {
		options string
		want    ami
		gib     int64
	}{
		{`"virtualization":"hvm","boot_mode":"legacy-bios"`, ami{Virtualization: virtHVM, BootMode: bootBIOS, Layout: disk.BIOS}, 1},
		{`"virtualization":"hvm","boot_mode":"uefi","encrypted":true`, ami{Virtualization: virtHVM, BootMode: bootUEFI, Layout: disk.UEFI, Encrypted: true}, 1},
		{`"virtualization":"paravirtual","layout":"hd0","kernel_id":"aki-dc9ed9af"`, ami{Virtualization: virtPV, Layout: disk.Whole, KernelID: "aki-dc9ed9af"}, 1},
		{`"virtualization":"paravirtual","layout":"hd0,0","kernel_id":"aki-0a1b2c3d","size":"1500MiB"`, ami{Virtualization: virtPV, Layout: disk.Partition, KernelID: "aki-0a1b2c3d"}, 2},
	} {
		options := `{"backing":"direct","timeout":"1m",` + test.options + `}`
		img, err := pack(plain, options)
		again, failed := pack(zipped.Bytes(), options)
		if err != nil || failed != nil || img.Digest != again.Digest || img.Digest != step.DigestOf(img.Files) || img.Valid() != nil {
			t.Fatalf("%s: %+v, %v; of the compressed kernel %s, %v", options, img, err, again.Digest, failed)
		}
		for more, same := range map[string]bool{`"profile":"ann","endpoint":"http://here"`: true, `"instance_type":"m5.large"`: false, `"user_data":"x"`: false} {
			other, err := pack(plain, options[:len(options)-1]+","+more+"}")
			if err != nil || (other.Digest == img.Digest) != same || machine.ContentDigest(other) != machine.ContentDigest(img) {
				t.Errorf("%s with %s: digest %s, before %s; %v", options, more, other.Digest, img.Digest, err)
			}
		}
		var got ami
		file := func(name string) io.ReadCloser {
			a, _ := step.FileNamed(img.Files, name)
			r, err := site.Store.Open(t.Context(), a)
			no(t, err)
			return r
		}
		no(t, json.NewDecoder(file(amiFile)).Decode(&got))
		path := filepath.Join(t.TempDir(), "disk")
		no(t, disk.Unpack(t.Context(), file(packedDisk), path))
		blocks, size, err := blocksOf(t.Context(), path)
		no(t, err)
		test.want.Architecture, test.want.Size = "x86_64", size
		if got != test.want || got.gibibytes() != test.gib {
			t.Errorf("%s: %+v of %d GiB, want %+v of %d", options, got, got.gibibytes(), test.want, test.gib)
		}
		a, _ := step.FileNamed(img.Files, blocksFile)
		if l, err := readBlocks(t.Context(), site.Store, a); err != nil || len(l) == 0 || !slices.Equal(l, blocks) {
			t.Errorf("%s: %d blocks are listed, the disk has %d; %v", options, len(l), len(blocks), err)
		}
	}
	for _, test := range []struct {
		kernel      []byte
		options     string
		kind        step.Kind
		field, says string
	}{
		{[]byte("no kernel"), `"virtualization":"hvm"`, step.InvalidSpec, "", "not a kernel"},
		{plain, `"virtualization":"hvm","size":"1MiB"`, step.InvalidSpec, "size", "too small"},
		{plain, `"virtualization":"hvm","args":"it's"`, step.InvalidSpec, "args", "pass on it's as it\\'s\nno single quotes"},
		{plain, `"virtualization":"hvm","modules":["initrd"]`, step.InvalidSpec, "modules[0]", "initrd"},
	} {
		_, err := pack(test.kernel, `{"backing":"direct","timeout":"1m",`+test.options+`}`)
		refusedWith(t, test.options, err, step.Error{Kind: test.kind, Field: test.field}, test.says)
	}
	// Package believes check that the instance is on Xen.
	xen := step.Kernel{File: put(solo5), Spec: step.Spec{Kind: Kind, Options: json.RawMessage(`{"backing":"direct","timeout":"1m","virtualization":"hvm"}`),
		Tags: step.Tags{App: "hello", Target: "prod", Life: "00c0ffee", Generation: 1}}}
	_, err = New(site).Package(t.Context(), xen)
	refusedWith(t, "a Solo5 xen kernel that check did not know", err, step.Error{Kind: step.Unsupported}, "only Xen starts it")
	xen.Spec.Origin.ABIs = image.MirageABIs("xen")
	_, err = New(site).Package(t.Context(), xen)
	refusedWith(t, "an old Solo5 xen kernel", err, step.Error{Kind: step.Unsupported}, "build it with Solo5 0.6.8")
	if left, _ := filepath.Glob(filepath.Join(site.State, Kind, "*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}
