package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

var judges = []string{"e2fsck", "debugfs", "dumpe2fs", "sfdisk", "sgdisk", "file", "fsck.fat", "mcopy"}

// cut copies the partition out of a disk, for judges that know no offsets.
func cut(t *testing.T, l Layout, disk string) string {
	t.Helper()
	if l == Whole {
		return disk
	}
	raw, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	if l == UEFI { // the partition ends before the table's copy
		raw = raw[:len(raw)-gptTail]
	}
	part := filepath.Join(t.TempDir(), "part")
	if err := os.WriteFile(part, raw[partitionStart:], 0o600); err != nil {
		t.Fatal(err)
	}
	return part
}

func TestWriteIsWhatOthersTakeItFor(t *testing.T) {
	tools(t, judges...)
	makes(t, both...)
	kernel, module := file(t, 3_000_000), file(t, 5)
	for _, l := range both {
		t.Run(string(l), func(t *testing.T) {
			b := Boot{Kernel: kernel, ABI: abiFor(l), Args: "a=b", Modules: []Module{{Path: module, Name: "A_long-name.of.a.module"}}}
			disk := write(t, l, b, 0)
			part := cut(t, l, disk)
			read := func(name string) string {
				copied := filepath.Join(t.TempDir(), "copy")
				if l == UEFI {
					_ = sh(t, "mcopy", "-i", part, "::/"+name, copied)
				} else {
					_ = sh(t, "debugfs", "-R", "dump /"+name+" "+copied, part)
				}
				return copied
			}
			if digest(t, read("boot/kernel")) != digest(t, kernel) || digest(t, read("boot/"+b.Modules[0].Name)) != digest(t, module) {
				t.Error("the kernel or the module on the disk is another one")
			}
			want, err := render(l, b)
			if err != nil {
				t.Fatal(err)
			}
			for name, text := range map[string]string{"grub.cfg": want.grub, "menu.lst": want.menu} {
				if text == "" {
					continue
				}
				if got, err := os.ReadFile(read("boot/grub/" + name)); err != nil || string(got) != text {
					t.Errorf("%s: %q, %v, want %q", name, got, err, text)
				}
			}

			if l == UEFI {
				_ = sh(t, "fsck.fat", "-n", part)
				if out := sh(t, "sgdisk", "-v", disk); !strings.Contains(out, "No problems found") {
					t.Error(out)
				}
			} else {
				_ = sh(t, "e2fsck", "-fn", part)
				// What GRUB legacy reads.
				out := sh(t, "dumpe2fs", "-h", part)
				for _, line := range []string{"Filesystem features:      filetype large_file\n", "Inode size:\t          128\n"} {
					if !strings.Contains(out, line) {
						t.Errorf("no %q in\n%s", line, out)
					}
				}
				for _, name := range []string{"/", "/boot", "/boot/kernel", "/boot/grub/grub.cfg"} {
					out := sh(t, "debugfs", "-R", "stat "+name, part)
					if !strings.Contains(out, "User:     0   Group:     0") || strings.Count(out, "0x12cea600") != 3 || strings.Contains(out, "crtime") {
						t.Errorf("%s has an owner or a time of this host:\n%s", name, out)
					}
				}
			}
			if l == Whole {
				if out := sh(t, "file", "-b", disk); !strings.Contains(out, "ext2 filesystem") {
					t.Error(out)
				}
				return
			}
			_ = sh(t, "sfdisk", "-V", disk)
			out := sh(t, "sfdisk", "--dump", disk)
			want1 := map[Layout]string{Partition: "type=83, bootable", BIOS: "type=83, bootable", UEFI: "type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B"}[l]
			if !strings.Contains(out, "start=        2048") || !strings.Contains(out, want1) {
				t.Error(out)
			}
			if out := sh(t, "file", "-b", disk); !strings.Contains(out, "DOS/MBR boot sector") {
				t.Error(out)
			}
		})
	}
}

func TestWriteIsReproducible(t *testing.T) {
	makes(t, both...)
	kernel, module := file(t, 1_000_000), textFile(t, "module")
	for _, l := range both {
		for _, size := range []int64{0, 1 << 30} {
			t.Run(fmt.Sprintf("%s %d", l, size), func(t *testing.T) {
				b := Boot{Kernel: kernel, ABI: abiFor(l), Modules: []Module{{Path: module, Name: "zz"}, {Path: module, Name: "aa"}}}
				digest := digest
				if size != 0 {
					digest = packedDigest // of 1 GiB the zeros alone take seconds
				}
				first := digest(t, write(t, l, b, size))

				// Another folder, time and environment.
				b.Kernel = filepath.Join(t.TempDir(), "another name")
				raw, err := os.ReadFile(kernel)
				if err == nil {
					err = os.WriteFile(b.Kernel, raw, 0o600)
				}
				if err == nil {
					err = os.Chtimes(b.Kernel, time.Unix(1e9, 0), time.Unix(1e9, 0))
				}
				if err != nil {
					t.Fatal(err)
				}
				for name, value := range map[string]string{"TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8", "TMPDIR": t.TempDir(),
					"SOURCE_DATE_EPOCH": "86400", "MTOOLS_LOWER_CASE": "1"} {
					t.Setenv(name, value)
				}
				defer syscall.Umask(syscall.Umask(0o077))
				second := t.TempDir()
				if dir, err := os.MkdirTemp("/dev/shm", "disk-test-"); err == nil { // another file system, with another order of names
					second = dir
					defer func() { _ = os.RemoveAll(dir) }()
				}
				path := filepath.Join(second, "x.img")
				if err := Write(t.Context(), path, l, b, size); err != nil {
					t.Fatal(err)
				}
				if digest(t, path) != first {
					t.Error("two runs gave two images")
				}

				if size != 0 {
					return
				}
				b.Modules[0].Args = "x"
				if digest(t, write(t, l, b, size)) == first {
					t.Error("another content gave the same image")
				}
			})
		}
	}
}

func TestWriteCostsWhatTheContentCosts(t *testing.T) {
	makes(t, both...)
	const size, content = 1 << 30, 10_000_000
	b := Boot{Kernel: file(t, content)}
	for _, l := range both {
		b.ABI = abiFor(l)
		path := write(t, l, b, size)
		if info, err := os.Stat(path); err != nil || info.Size() != size {
			t.Errorf("%s: %v, %v, want %d bytes", l, info, err, size)
		}
		// GRUB, the FATs and the inodes are within 2 MiB.
		if got := used(t, path); got > content+2*mebi {
			t.Errorf("%s: %d bytes on the host's disk", l, got)
		}
	}
}

// fullest returns the largest size of a kernel with which the disk is as large as with
// the kernel given. With one byte more the disk would be larger.
func fullest(l Layout, c content, kernel int64) int64 {
	size := func(n int64) int64 {
		c := content{dirs: c.dirs, files: append([]staged{{name: "boot/kernel", size: n}}, c.files...)}
		if l == UEFI {
			return newFAT(c).size()
		}
		return newExt2(c).size()
	}
	want := size(kernel)
	return kernel + int64(sort.Search(64*mebi, func(n int) bool { return size(kernel+int64(n)) > want })) - 1
}

// The size of the disk is computed before it is made. The largest content for a size
// fits, and the disk is hardly larger than its content.
func TestSizeFits(t *testing.T) {
	makes(t, Whole, BIOS, UEFI)
	for _, modules := range []int{0, 120} { // more than a block of a folder holds
		var b Boot
		small := content{dirs: []string{"boot", "boot/grub"}}
		for i := range modules {
			m := Module{Path: textFile(t, "x"), Name: fmt.Sprint(strings.Repeat("x", 60), i)}
			b.Modules = append(b.Modules, m)
			small.files = append(small.files, staged{name: "boot/" + m.Name, size: 1})
		}
		for _, l := range []Layout{Whole, BIOS, UEFI} {
			b.ABI = image.Multiboot1
			texts, err := render(l, b)
			if err != nil {
				t.Fatal(err)
			}
			c := small
			c.files = append(slices.Clone(small.files), staged{name: "boot/grub/grub.cfg", size: int64(len(texts.grub))})
			if texts.menu != "" {
				c.files = append(c.files, staged{name: "boot/grub/menu.lst", size: int64(len(texts.menu))})
			}
			kernels := []int64{0, 7 * mebi}
			if l == Whole && modules == 0 { // a group has 128 MiB
				kernels = append(kernels, 126*mebi, 256*mebi)
			}
			if l == UEFI {
				c.dirs = append(slices.Clone(c.dirs), "EFI", "EFI/BOOT")
				c.files = append(c.files, staged{name: "EFI/BOOT/BOOTX64.EFI", size: 700 << 10}) // about
				kernels = []int64{0, 33 * mebi}
			}
			for _, kernel := range kernels {
				size := fullest(l, c, kernel)
				b.Kernel = file(t, size)
				path := filepath.Join(t.TempDir(), "disk")
				if err := Write(t.Context(), path, l, b, 0); err != nil {
					t.Errorf("%s, %d bytes: %v", l, size, err)
					continue
				}
				info, err := os.Stat(path)
				if err != nil {
					t.Fatal(err)
				}
				most := size + size/64 + 3*mebi
				if l == UEFI {
					most = max(size+size/64, 33*mebi) + 4*mebi
					_ = sh(t, "fsck.fat", "-n", cut(t, l, path))
				} else {
					_ = sh(t, "e2fsck", "-fn", cut(t, l, path))
				}
				if info.Size()%mebi != 0 || info.Size() > most {
					t.Errorf("%s: %d bytes for %d", l, info.Size(), size)
				}
			}
		}
	}
}

// For every size of a kernel the data blocks are within the file system, and its last
// group is not too small for what a group begins with.
func TestExt2Geometry(t *testing.T) {
	sizes := []int64{0, 1, maxFile - 1, maxFile}
	for size := int64(mebi); size < maxFile; size += 61 * mebi {
		sizes = append(sizes, size)
	}
	for groups := int64(1); groups <= 8; groups++ {
		for d := int64(-16); d < 2; d++ {
			sizes = append(sizes, (groups*groupBlocks+d*16)*blockSize)
		}
	}
	for _, size := range sizes {
		for _, modules := range []int{0, 1000} {
			c := content{dirs: []string{"boot"}, files: []staged{{name: "boot/kernel", size: size}}}
			for i := range modules {
				c.files = append(c.files, staged{name: fmt.Sprintf("boot/module%d", i), size: 1})
			}
			v := volume{ext2: newExt2(c)}
			last := v.number(v.data - 1)
			if last >= v.blocks || last < v.data {
				t.Errorf("kernel of %d bytes, %d modules: block %d of %d", size, modules, last, v.blocks)
			}
			if rest := v.blocks - (v.groups-1)*groupBlocks; rest < v.overhead() || rest > groupBlocks {
				t.Errorf("kernel of %d bytes, %d modules: the last group has %d blocks, and begins with %d", size, modules, rest, v.overhead())
			}
			if v.inodes() > v.groups*v.perGroup {
				t.Errorf("kernel of %d bytes, %d modules: %d inodes of %d", size, modules, v.inodes(), v.groups*v.perGroup)
			}
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	makes(t, both...)
	kernel := file(t, 2_000_000)
	gone := filepath.Join(t.TempDir(), "gone")
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	huge := textFile(t, "")
	if err := os.Truncate(huge, 4<<30); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		boot  Boot
		size  int64
		kind  step.Kind
		field string
	}{
		"size too small":   {Boot{Kernel: kernel}, mebi, step.InvalidSpec, "size"},
		"size negative":    {Boot{Kernel: kernel}, -1, step.InvalidSpec, "size"},
		"size absurd":      {Boot{Kernel: kernel}, maxSize + 1, step.InvalidSpec, "size"},
		"no kernel":        {Boot{}, 0, step.InvalidSpec, "kernel"},
		"kernel missing":   {Boot{Kernel: gone}, 0, step.NotFound, "kernel"},
		"kernel a folder":  {Boot{Kernel: t.TempDir()}, 0, step.InvalidSpec, "kernel"},
		"kernel a pipe":    {Boot{Kernel: pipe}, 0, step.InvalidSpec, "kernel"},
		"kernel too large": {Boot{Kernel: huge}, 0, step.InvalidSpec, "kernel"},
		"module missing":   {Boot{Kernel: kernel, Modules: []Module{{Path: kernel}, {Path: gone}}}, 0, step.NotFound, "modules[1]"},
	} {
		for _, l := range both {
			t.Run(name+" "+string(l), func(t *testing.T) {
				dir := t.TempDir()
				c.boot.ABI = abiFor(l)
				e := wantError(t, Write(t.Context(), filepath.Join(dir, "disk"), l, c.boot, c.size), c.kind, c.field)
				if name == "size too small" && !strings.Contains(e.Error()+e.Hint, "MiB") {
					t.Errorf("%v (%s) does not say how much it needs", e, e.Hint)
				}
				empty(t, dir)
			})
		}
	}
	err := Write(t.Context(), filepath.Join(gone, "disk"), Whole, Boot{Kernel: kernel, ABI: image.XenPV}, 0)
	_ = wantError(t, err, step.NotFound, "")
}

// A file that changes between its staging and its copying is refused.
func TestStagedFileChanges(t *testing.T) {
	makes(t, Whole, UEFI)
	const size = 10_000
	for _, l := range []Layout{Whole, UEFI} {
		for _, now := range []int64{0, size - 1, size + 1, 10 * size} {
			b := Boot{Kernel: file(t, size), ABI: abiFor(l)}
			dir := t.TempDir()
			w, err := thisHost().newWork(filepath.Join(dir, "disk"))
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(w.stage(l, b, texts{}), os.Truncate(b.Kernel, now)); err != nil {
				t.Fatal(err)
			}
			if l == UEFI {
				err = w.writeUEFI(t.Context(), b, 0)
			} else {
				err = w.writeExt2(t.Context(), l, b, 0)
			}
			want := errGrown
			if now < size {
				want = errShrunk
			}
			if e := wantError(t, err, step.InvalidSpec, "kernel"); !errors.Is(e, want) {
				t.Errorf("%s, %d bytes: %v", l, now, e)
			}
			if err := w.done(); err != nil {
				t.Error(err)
			}
			empty(t, dir)
		}
	}
}

// The size in the error is enough, and the least that is.
func TestSizeNeeded(t *testing.T) {
	makes(t, both...)
	b := Boot{Kernel: file(t, 2_000_000)}
	for _, l := range both {
		b.ABI = abiFor(l)
		info, err := os.Stat(write(t, l, b, 0))
		if err != nil {
			t.Fatal(err)
		}
		err = Write(t.Context(), filepath.Join(t.TempDir(), "disk"), l, b, info.Size()-mebi)
		e := wantError(t, err, step.InvalidSpec, "size")
		if want := fmt.Sprintf("%d MiB", info.Size()/mebi); !strings.Contains(e.Hint, want) {
			t.Errorf("%s: %v (%s) does not say %s", l, e, e.Hint, want)
		}
		_ = write(t, l, b, info.Size())
	}
}
