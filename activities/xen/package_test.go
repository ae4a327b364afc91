package xen

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
)

// workshop is a worker's site with a store, where kernels are packaged.
type workshop struct {
	*testing.T
	site step.Site
}

func newWorkshop(t *testing.T) workshop {
	return workshop{t, step.Site{Host: "testhost", State: t.TempDir(), Store: steptest.NewStore(t)}}
}

func (w workshop) put(b []byte) step.Artifact {
	w.Helper()
	a, err := w.site.Store.Put(w.Context(), bytes.NewReader(b))
	if err != nil {
		w.Fatal(err)
	}
	return a
}

// pack packages a kernel, and sees to it that nothing is left of the work.
func (w workshop) pack(kernel []byte, options string, files ...step.File) (step.Image, error) {
	w.Helper()
	k := step.Kernel{File: w.put(kernel), Files: files, Spec: step.Spec{Kind: Kind, Options: completed(w.T, options),
		Tags: step.Tags{App: "hello", Target: "xen", Life: "00c0ffee", Generation: 1}}}
	img, err := New(w.site).Package(w.Context(), k)
	if left, _ := filepath.Glob(filepath.Join(w.site.State, Kind, "*")); len(left) > 0 {
		w.Errorf("left: %q", left)
	}
	return img, err
}

func (w workshop) mustPack(kernel []byte, options string, files ...step.File) step.Image {
	w.Helper()
	img, err := w.pack(kernel, options, files...)
	if err != nil {
		w.Fatalf("%s: %v", options, err)
	}
	if img.Digest != step.DigestOf(img.Files) {
		w.Errorf("%s: digest %s is not that of the files", options, img.Digest)
	}
	return img
}

// config is the image's domain.json.
func (w workshop) config(img step.Image) (d domain) {
	w.Helper()
	a, _ := step.FileNamed(img.Files, domainFile)
	r, err := w.site.Store.Open(w.Context(), a)
	if err != nil {
		w.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close(), json.Unmarshal(b, &d)); err != nil {
		w.Fatal(err)
	}
	return d
}

// completed are options as Check passes them on.
func completed(t testing.TB, options string) json.RawMessage {
	t.Helper()
	s, err := complete(json.RawMessage(options))
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(s.Options)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func names(img step.Image) string {
	var all []string
	for _, f := range img.Files {
		all = append(all, f.Name)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// helloKernel is examples/hello, plain and as gzip has it.
func helloKernel(t *testing.T) (plain, zipped []byte) {
	t.Helper()
	plain, err := os.ReadFile(hello(t))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(plain); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	return plain, b.Bytes()
}

func TestPackageKernel(t *testing.T) {
	kernel, zipped := helloKernel(t)
	w, other := newWorkshop(t), newWorkshop(t)
	data := step.File{Name: "data.img", Artifact: w.put(make([]byte, 1024))}
	initrd := step.File{Name: "initrd.img", Artifact: w.put([]byte("ramdisk"))}
	other.put(make([]byte, 1024))
	other.put([]byte("ramdisk"))

	const options = `{"args":"a","modules":["initrd.img"],"disks":[{"file":"data.img"}]}`
	img := w.mustPack(kernel, options, initrd, data)
	if got := names(img); got != "data.img domain.json initrd.img kernel" || img.Format != "kernel" {
		t.Errorf("%s of %s", img.Format, got)
	}
	if again := other.mustPack(kernel, options, data, initrd); again.Digest != img.Digest {
		t.Error("another folder gives another digest")
	}
	if same := w.mustPack(kernel, `{"expect":"x","timeout":"1s",`+options[1:], initrd, data); same.Digest != img.Digest {
		t.Error("what does not change the domain changes the digest")
	}
	for _, changed := range []string{`{"args":"b","modules":["initrd.img"],"disks":[{"file":"data.img"}]}`, `{"memory":64,` + options[1:], `{"type":"pv",` + options[1:],
		`{"host":"ssh://elsewhere",` + options[1:]} {
		if img := w.mustPack(kernel, changed, initrd, data); img.Digest == other.mustPack(kernel, options, initrd, data).Digest {
			t.Errorf("%s changes nothing", changed)
		}
	}
	if d := w.config(img); d.Type != typePVH || d.Ramdisk != "initrd.img" || !slices.Equal(d.copies(), []string{"data.img"}) {
		t.Errorf("got %+v", d)
	}
	if a, _ := step.FileNamed(w.mustPack(zipped, `{}`).Files, kernelFile); a != w.put(zipped) {
		t.Error("Xen unpacks gzip itself, and was given something else")
	}
}

func TestPackageHonoursXLIn(t *testing.T) {
	kernel, _ := helloKernel(t)
	w := newWorkshop(t)
	in := step.File{Name: xlIn, Artifact: w.put([]byte(mirageXLIn))}
	img := w.mustPack(kernel, `{"vif":[{"name":"service","bridge":"br7"}],"disks":[{"path":"/dev/vg/d"}]}`, in)
	d := w.config(img)
	if names(img) != "domain.json kernel" || d.OnCrash != "preserve" || len(d.Vif) != 1 || d.Vif[0].Bridge != "br7" ||
		len(d.Disks) != 1 || d.Disks[0].Path != "/dev/vg/d" || d.Disks[0].Vdev != "xvdb" {
		t.Errorf("%s: %+v", names(img), d)
	}
	if _, err := w.pack(kernel, `{"disks":[{"path":"/dev/vg/d"}]}`, in); err == nil || !strings.Contains(err.Error(), "@NETWORK:service@") {
		t.Errorf("unbound: %v", err)
	}
	in.Artifact = w.put(bytes.Repeat([]byte("#\n"), maxXLIn))
	if _, err := w.pack(kernel, `{}`, in); step.KindOf(err) != step.InvalidSpec {
		t.Errorf("a huge xl.in: %v", err)
	}
}

func TestPackageDisk(t *testing.T) {
	kernel, zipped := helloKernel(t)
	w, other := newWorkshop(t), newWorkshop(t)
	digests := map[string]string{}
	for _, options := range []string{
		`{"via":"disk","expect":"x"}`,
		`{"via":"disk","expect":"x","layout":"hd0,0"}`,
		`{"via":"disk","expect":"x","args":"a"}`,
		`{"via":"disk","expect":"x","size":"32MiB"}`,
		`{"via":"disk","expect":"x","type":"hvm"}`,
		`{"via":"disk","expect":"x","bootloader":"/usr/lib/xen/boot/pv-grub"}`,
	} {
		img := w.mustPack(kernel, options)
		if names(img) != "disk.tar domain.json" || img.Format != "disk" {
			t.Errorf("%s: %s of %s", options, img.Format, names(img))
		}
		if other.mustPack(kernel, options).Digest != img.Digest {
			t.Errorf("%s: another folder gives another digest", options)
		}
		if same := digests[img.Digest]; same != "" {
			t.Errorf("%s is %s", options, same)
		}
		digests[img.Digest] = options
	}
	const hvm = `{"via":"disk","expect":"x","type":"hvm"}`
	if w.mustPack(zipped, hvm).Digest != w.mustPack(kernel, hvm).Digest {
		t.Error("GRUB was given a compressed kernel")
	}
	if d := w.config(w.mustPack(kernel, hvm)); !slices.Equal(d.copies(), []string{bootDisk}) {
		t.Errorf("an hvm domain writes to the image: %+v", d)
	}
}

// A kernel that is packed small and is large takes no time when it is not wanted.
func TestUnpackingCancelled(t *testing.T) {
	plain, _ := helloKernel(t)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, err := z.Write(append(plain, make([]byte, 32<<20)...))
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ctx = step.WithReporter(ctx, func(p step.Progress) {
		if strings.HasPrefix(p.Note, "unpacking") {
			cancel()
		}
	}, nil)
	w := newWorkshop(t)
	k := step.Kernel{File: w.put(zipped.Bytes()), Spec: step.Spec{Kind: Kind, Options: completed(t, `{"via":"disk","expect":"x","type":"hvm"}`),
		Tags: step.Tags{App: "hello", Target: "xen", Life: "00c0ffee", Generation: 1}}}
	w.site.Store = untouched{w.site.Store, t}
	_, err = New(w.site).Package(ctx, k)
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// untouched is a store that must get nothing.
type untouched struct {
	step.Store
	t *testing.T
}

func (s untouched) Put(context.Context, io.ReadSeeker) (a step.Artifact, err error) {
	s.t.Error("the whole kernel was unpacked")
	return a, context.Canceled
}

func TestPackageRefuses(t *testing.T) {
	kernel, _ := helloKernel(t)
	large := bytes.Clone(kernel)
	binary.LittleEndian.PutUint64(large[64+56+40:], 64<<20) // the memory of its data
	w := newWorkshop(t)
	odd := step.File{Name: "data.img", Artifact: w.put([]byte("odd"))}
	for _, test := range []struct {
		kernel        []byte
		options       string
		kind          step.Kind
		field, within string
	}{
		{kernel, `{"disks":[{"file":"dota.img"}]}`, step.InvalidSpec, "disks[0].file", `"data.img"`},
		{kernel, `{"disks":[{"file":"data.img"}]}`, step.InvalidSpec, "disks[0].file", "3 bytes"},
		{kernel, `{"modules":["initrd"]}`, step.InvalidSpec, "modules[0]", "no file"},
		{kernel, `{"via":"disk","expect":"x","modules":["initrd"]}`, step.InvalidSpec, "modules[0]", "no file"},
		{large, `{"memory":32}`, step.InvalidSpec, "memory", "the kernel takes all up to 66 MiB"},
		{[]byte("#!/bin/sh\n"), `{}`, step.InvalidSpec, "", "shell script"},
	} {
		_, err := w.pack(test.kernel, test.options, odd)
		var e *step.Error
		if !errors.As(err, &e) || e.Kind != test.kind || e.Field != test.field || !strings.Contains(e.Error()+e.Hint, test.within) {
			t.Errorf("%s: got %+v", test.options, err)
		}
	}
	// Before anything is fetched.
	k := step.Kernel{ABIs: []string{image.Solo5HVT}, Spec: step.Spec{Options: completed(t, `{}`)}}
	if _, err := New(w.site).Package(t.Context(), k); step.KindOf(err) != step.Unsupported || !strings.HasPrefix(err.Error(), "package for xen: ") {
		t.Errorf("got %v", err)
	}
}
