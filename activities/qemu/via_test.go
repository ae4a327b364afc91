package qemu

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
)

// needDisk skips a test for want of what makes and boots a disk.
func needDisk(t *testing.T, via string) {
	need.Tools(t, "grub-mkimage")
	if via != viaUEFI {
		return
	}
	need.Tools(t, "mformat")
	_, err := findFirmware("")
	need.Nil(t, err)
}

// console is all that the machine has printed.
func (b *bench) console(m step.Machine) string {
	b.Helper()
	text, err := os.ReadFile(filepath.Join(m.Registration.ID, "console.log"))
	if err != nil {
		b.Fatal(err)
	}
	return string(text)
}

// One kernel starts every way, and its console says which it was and that the
// arguments arrived.
func TestEveryWay(t *testing.T) {
	for _, test := range []struct{ name, via, options, mode string }{
		{"kernel", viaKernel, ``, "pvh"},
		{"q35", viaKernel, `,"machine":"q35"`, "pvh"},
		{"microvm", viaKernel, `,"machine":"microvm"`, "pvh"},
		{"bios", viaBIOS, ``, "multiboot2"},
		{"bios on q35", viaBIOS, `,"machine":"q35","size":"1GiB"`, "multiboot2"},
		{"uefi", viaUEFI, `,"memory":256`, "multiboot2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			if test.via != viaKernel {
				needDisk(t, test.via)
			}
			m := b.boot(b.register(b.spec("way", 1, `{"via":%q,"args":"a=b stay","expect":"staying"%s}`, test.via, test.options)))
			console := b.console(m)
			if !strings.Contains(console, "boot mode: "+test.mode+"\r\n") && !strings.Contains(console, "boot mode: "+test.mode+"\n") {
				t.Errorf("not started as %s:\n%s", test.mode, console)
			}
			if !strings.Contains(console, "a=b stay]") {
				t.Errorf("the arguments are not those given:\n%s", console)
			}
			if test.via == viaKernel {
				return
			}
			var stat syscall.Stat_t
			if err := syscall.Stat(filepath.Join(m.Registration.ID, bootDisk), &stat); err != nil {
				t.Fatal(err)
			}
			if stat.Blocks*512 > 16<<20 {
				t.Errorf("the disk takes %d MiB of %d", stat.Blocks>>11, stat.Size>>20)
			}
			if strings.Contains(test.options, "1GiB") && stat.Size != 1<<30 {
				t.Errorf("the disk has %d bytes", stat.Size)
			}
			if _, err := os.Stat(filepath.Join(m.Registration.ID, packedDisk)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the packed disk is still there: %v", err)
			}
		})
	}
}

// A compressed kernel is unpacked for QEMU's loader, and is the same image as
// the plain one.
func TestCompressedKernel(t *testing.T) {
	b := newBench(t)
	plain := b.image(b.spec("z", 1, `{"args":"stay","expect":"staying"}`))
	f, err := b.site.Store.Open(t.Context(), b.kernel)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err = io.Copy(z, f)
	if err := errors.Join(err, z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if b.kernel, err = b.site.Store.Put(t.Context(), bytes.NewReader(packed.Bytes())); err != nil {
		t.Fatal(err)
	}
	spec := b.spec("z", 1, `{"args":"stay","expect":"staying"}`)
	if z := b.image(spec); z.Digest != plain.Digest {
		t.Errorf("digest %s, of the plain kernel %s", z.Digest, plain.Digest)
	}
	b.boot(b.register(spec))
	// Cut off, it is refused, and nothing is left.
	if b.kernel, err = b.site.Store.Put(t.Context(), bytes.NewReader(packed.Bytes()[:packed.Len()/2])); err != nil {
		t.Fatal(err)
	}
	if _, err := New(b.site).Package(t.Context(), step.Kernel{Spec: spec, File: b.kernel}); step.KindOf(err) != step.InvalidSpec {
		t.Errorf("a kernel that is cut off: %v", err)
	}
}

// image runs the sentence up to package.
func (b *bench) image(spec step.Spec) step.Image {
	b.Helper()
	q := New(b.site)
	spec, err := q.Check(b.Context(), spec)
	if err != nil {
		b.Fatal(err)
	}
	img, err := q.Package(b.Context(), step.Kernel{Spec: spec, File: b.kernel, Files: b.files})
	if err != nil {
		b.Fatalf("%v\n%s", err, detail(err).Hint)
	}
	return img
}

func TestPackageIsTheSameAnywhere(t *testing.T) {
	for _, via := range []string{viaKernel, viaBIOS, viaUEFI} {
		t.Run(via, func(t *testing.T) {
			a, b := newBench(t), newBench(t)
			if via != viaKernel {
				needDisk(t, via)
			}
			const options = `{"via":%q,"expect":"x","args":"stay"}`
			if x, y := a.image(a.spec("one", 1, options, via)), b.image(b.spec("two", 7, options, via)); x.Digest != y.Digest {
				t.Errorf("%+v\n%+v", x, y)
			}
			if left := resources(t, a.site); len(left) > 0 {
				t.Errorf("package left %q", left)
			}
		})
	}
}

// A packaging that is cut off leaves nothing.
func TestPackageCancelled(t *testing.T) {
	needDisk(t, viaBIOS)
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	ctx = step.WithReporter(ctx, func(p step.Progress) {
		if p.Note == "making the disk" {
			cancel()
		}
	}, nil)
	_, err := New(b.site).Package(ctx, step.Kernel{Spec: b.spec("cut", 1, `{"via":"bios","expect":"x"}`), File: b.kernel})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if left := resources(t, b.site); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}

func TestModules(t *testing.T) {
	b := newBench(t)
	a, err := b.site.Store.Put(t.Context(), strings.NewReader("a ramdisk"))
	if err != nil {
		t.Fatal(err)
	}
	b.files = []step.File{{Name: "initrd.img", Artifact: a}, {Name: "manifest.json", Artifact: a}, {Name: "large", Artifact: step.Artifact{Size: 4 << 20}}}
	for _, test := range []struct{ modules, field, text, hint string }{
		{`["initrd.img"]`, "", "", ""},
		{`["initrd.gz"]`, "modules[0]", `no file "initrd.gz" comes with the kernel`, `"initrd.img"`},
		{`["nothing"]`, "modules[0]", `no file "nothing"`, "initrd.img, manifest.json, large"},
		{`["initrd.img","second"]`, "modules", "one ramdisk", "via: bios"},
		{`["large"],"memory":4`, "memory", "the kernel with its modules takes all up to 6 MiB", "at least 6"},
	} {
		spec := b.spec("mod", 1, `{"modules":%s}`, test.modules)
		img, err := New(b.site).Package(t.Context(), step.Kernel{Spec: spec, File: b.kernel, Files: b.files})
		if e := detail(err); (err == nil) != (test.text == "") || e.Field != test.field || !strings.Contains(e.Error(), test.text) || !strings.Contains(e.Hint, test.hint) {
			t.Errorf("%s: %s %v, hint %q", test.modules, e.Field, err, e.Hint)
		}
		if err == nil && !slices.ContainsFunc(img.Files, func(f step.File) bool { return f.Name == "initrd.img" }) {
			t.Errorf("%s: files %+v", test.modules, img.Files)
		}
	}
	_, err = New(b.site).Package(t.Context(), step.Kernel{Spec: b.spec("mod", 1, `{"modules":["initrd.img"]}`), File: b.kernel}) // as a kernel that is built already
	if e := detail(err); e.Field != "modules[0]" || !strings.Contains(e.Hint, "toolchain command brings some: files: [initrd.img]") {
		t.Errorf("no files: %s %v, hint %q", e.Field, err, e.Hint)
	}
	// QEMU takes the ramdisk: hello does not look at it, but must start with it.
	m := b.boot(b.registerImage(b.image(b.spec("mod", 1, `{"modules":["initrd.img"],"args":"stay","expect":"staying"}`))))
	if !strings.Contains(cmdline(t, b.pid(m.Registration)), "-initrd\x00initrd.img\x00") {
		t.Errorf("qemu has no ramdisk")
	}
	needDisk(t, viaBIOS)
	b.files = append(b.files, step.File{Name: "second", Artifact: a})
	b.boot(b.register(b.spec("mod", 2, `{"via":"bios","modules":["second","initrd.img"],"args":"stay","expect":"staying"}`)))
}

func cmdline(t *testing.T, pid int) string {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// large makes the data of hello, which is nothing but zeros, 64 MiB.
func large(elf []byte) []byte {
	binary.LittleEndian.PutUint64(elf[64+56+40:], 64<<20) // p_memsz
	return elf
}

// A kernel that is packed small and is large takes no time when it is not wanted.
func TestUnpackingCancelled(t *testing.T) {
	b := newBench(t)
	plain, err := os.ReadFile(hello(t))
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err = z.Write(append(plain, make([]byte, 32<<20)...))
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	if b.kernel, err = b.site.Store.Put(t.Context(), bytes.NewReader(packed.Bytes())); err != nil {
		t.Fatal(err)
	}
	b.site.Store = fullStore{b.site.Store, t}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ctx = step.WithReporter(ctx, func(p step.Progress) {
		if p.Note == "unpacking the kernel (gzip)" {
			cancel()
		}
	}, nil)
	if _, err := New(b.site).Package(ctx, step.Kernel{Spec: b.spec("cut", 1, `{}`), File: b.kernel}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// fullStore is to be given nothing.
type fullStore struct {
	step.Store
	t *testing.T
}

func (s fullStore) Put(ctx context.Context, from io.ReadSeeker) (step.Artifact, error) {
	s.t.Error("the whole kernel was unpacked")
	return s.Store.Put(ctx, from)
}

// Kernels that would start nowhere are refused in words.
func TestPackageRefusesKernels(t *testing.T) {
	b := newBench(t)
	plain, err := os.ReadFile(hello(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, options, field, text string
		kind                       step.Kind
		spoil                      func(elf []byte) []byte
	}{
		{"another machine", `{}`, "", "the kernel is for aarch64", step.Unsupported, func(elf []byte) []byte {
			elf[18] = 183 // e_machine
			return elf
		}},
		{"segment of no size", `{"via":"bios","expect":"x"}`, "via", "overlap detected", step.Unsupported, func(elf []byte) []byte {
			header := elf[64+2*56:][:56] // the notes, which grub does not need
			header[0] = 1                // PT_LOAD
			clear(header[32:48])         // sizes in the file and in memory
			return elf
		}},
		{"cut off", `{}`, "", "damaged or cut off", step.InvalidSpec, func(elf []byte) []byte { return elf[:len(elf)/2] }},
		{"disk too small", `{"via":"bios","expect":"x","size":"2MiB"}`, "size", "the content needs", step.InvalidSpec, func(elf []byte) []byte {
			return append(elf, make([]byte, 4<<20)...)
		}},
		{"memory too little", `{"memory":32}`, "memory", "32 MiB is too little: the kernel takes all up to 66 MiB", step.InvalidSpec, large},
		{"memory too little for grub", `{"via":"bios","expect":"x","memory":32}`, "memory", "32 MiB is too little", step.InvalidSpec, large},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.options != `{}` {
				needDisk(t, viaBIOS)
			}
			a, err := b.site.Store.Put(t.Context(), bytes.NewReader(test.spoil(bytes.Clone(plain))))
			if err != nil {
				t.Fatal(err)
			}
			_, err = New(b.site).Package(t.Context(), step.Kernel{Spec: b.spec("no", 1, "%s", test.options), File: a})
			if e := detail(err); e.Kind != test.kind || e.Field != test.field || !strings.Contains(e.Error(), test.text) || e.Hint == "" {
				t.Errorf("%s %s: %v, hint %q", e.Kind, e.Field, err, e.Hint)
			}
		})
	}
}
