package disk

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/image"
)

const (
	ovmfCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// boot runs QEMU until the kernel ends it, and gives what the console said.
func boot(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", append([]string{"-accel", "tcg", "-m", "256", "-nodefaults",
		"-display", "none", "-serial", "stdio", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	const done = 33 // what the kernels of these tests write to isa-debug-exit
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != done {
		t.Errorf("qemu: %v", err)
	}
	return strings.ReplaceAll(out.String(), "\r", "")
}

// bootLayout boots a disk as its layout wants it.
func bootLayout(t *testing.T, l Layout, disk string) string {
	t.Helper()
	args := []string{"-drive", "file=" + disk + ",format=raw,if=ide"}
	if l == UEFI {
		raw, err := os.ReadFile(ovmfVars)
		if err != nil {
			t.Fatal(err)
		}
		vars := filepath.Join(t.TempDir(), "vars")
		if err := os.WriteFile(vars, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-drive", "if=pflash,format=raw,readonly=on,file="+ovmfCode, "-drive", "if=pflash,format=raw,file="+vars)
	}
	return boot(t, args...)
}

func TestBoot(t *testing.T) {
	t.Parallel()
	tools(t, "qemu-system-x86_64", ovmfCode, ovmfVars, "gzip")
	makes(t, BIOS, UEFI)
	hello, mb1 := buildHello(t), buildMultiboot1(t)
	// A ramdisk that is compressed stays so.
	_ = sh(t, "gzip", "-kn", hello)
	packed, err := os.ReadFile(hello + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	const args = `a=b  c $x ${y} ; * ? {d} #e & | <f> é it`
	modules := []Module{{Path: textFile(t, "first"), Args: args}, {Path: hello + ".gz", Name: "initrd.gz"}}
	for _, l := range []Layout{BIOS, UEFI} {
		for _, c := range []struct {
			name string
			boot Boot
			want []string
		}{
			{"multiboot2", Boot{Kernel: hello, ABI: image.Multiboot2, Args: args, Modules: modules},
				[]string{"boot mode: multiboot2\ncommand line: [" + args + "]\n"}},
			{"compressed multiboot2", Boot{Kernel: hello + ".gz", ABI: image.Multiboot2, Args: `--hello="Hello World" \" \'q\' c\\d "it\'s \"so\""`},
				[]string{`boot mode: multiboot2` + "\n" + `command line: ["--hello=Hello World" \" \'q\' c\\d "it\'s \"so\""]`}},
			{"multiboot1", Boot{Kernel: mb1, ABI: image.Multiboot1, Args: args, Modules: modules},
				[]string{"kernel [/boot/kernel " + args + "]\n", "module [/boot/module0 " + args + "] [first]\n",
					"module [/boot/initrd.gz] [" + strings.ReplaceAll(string(packed), "\r", "") + "]\n"}},
		} {
			if l == UEFI && strings.HasPrefix(c.name, "compressed") {
				continue // the same code of GRUB, and OVMF takes five seconds
			}
			t.Run(string(l)+" "+c.name, func(t *testing.T) {
				t.Parallel()
				out := bootLayout(t, l, write(t, l, c.boot, 0))
				for _, want := range c.want {
					if !strings.Contains(out, want) {
						t.Errorf("no %q in\n%q", want, out)
					}
				}
			})
		}
	}
}

// GRUB prints an error and halts if the file is no kernel.
func TestBootOfNoKernelEnds(t *testing.T) {
	t.Parallel()
	tools(t, "qemu-system-x86_64")
	makes(t, BIOS)
	disk := write(t, BIOS, Boot{Kernel: file(t, 1000), ABI: image.Multiboot2}, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg", "-nodefaults", "-display", "none", "-serial", "stdio",
		"-drive", "file="+disk+",format=raw,if=ide").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "GRUB did not start the kernel") {
		t.Errorf("%v: %q", err, out)
	}
}

// pv-grub needs Xen. GRUB's own reader of menu.lst stands in for it, and boots the
// kernel on the root that menu.lst names.
func TestMenuBoots(t *testing.T) {
	t.Parallel()
	tools(t, "qemu-system-x86_64", "grub-mkimage")
	makes(t, Whole, Partition, BIOS)
	const args = `a=b $x ; é it`
	b := Boot{Kernel: buildMultiboot1(t), ABI: image.Multiboot1, Args: args,
		Modules: []Module{{Path: textFile(t, "first"), Args: args}, {Path: textFile(t, "second"), Name: "two"}}}
	for _, l := range []Layout{Whole, Partition} {
		// A comma in the name of a folder would mean something to QEMU.
		t.Run(strings.ReplaceAll(string(l), ",", ""), func(t *testing.T) {
			disk := write(t, l, b, 0)
			legacy := buildLegacyGRUB(t, map[Layout]string{Whole: "(hd0)", Partition: "(hd0,msdos1)"}[l])
			out := boot(t, "-kernel", legacy, "-drive", "file="+disk+",format=raw,if=virtio")
			// GRUB 2 adds no path to what a menu.lst says; GRUB legacy does.
			for _, want := range []string{"kernel [", args + "]\n", args + "] [first]\n", "] [second]\n"} {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%q", want, out)
				}
			}
		})
	}
}

// buildLegacyGRUB makes a GRUB that QEMU starts as a kernel, and that reads
// menu.lst on a device.
func buildLegacyGRUB(t *testing.T, device string) string {
	t.Helper()
	dir := t.TempDir()
	config := textFile(t, "serial\nterminal_output serial\nlegacy_configfile "+device+"/boot/grub/menu.lst\n")
	core := filepath.Join(dir, "core.img")
	_ = sh(t, "grub-mkimage", "-O", biosPlatform, "-p", "/boot/grub", "-o", core, "-c", config, "serial", "terminal", "biosdisk",
		"part_msdos", "ext2", "legacycfg", "multiboot", "linux", "normal", "configfile", "boot")
	head, err := os.ReadFile(filepath.Join(thisHost().grub, biosPlatform, "lnxboot.img"))
	if err != nil {
		t.Fatal(err)
	}
	rest, err := os.ReadFile(core)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "grub.lnx")
	if err := os.WriteFile(path, append(head, rest...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func buildHello(t *testing.T) string {
	t.Helper()
	tools(t, "make", "cc")
	dir := t.TempDir()
	for _, pattern := range []string{"*.[chS]", "*.ld", "Makefile"} {
		files, err := filepath.Glob(filepath.Join("..", "..", "examples", "hello", pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			raw, err := os.ReadFile(file)
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, filepath.Base(file)), raw, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = sh(t, "make", "-s", "-C", dir)
	return filepath.Join(dir, "hello")
}

func buildMultiboot1(t *testing.T) string {
	t.Helper()
	tools(t, "gcc", "ld")
	object, kernel := filepath.Join(t.TempDir(), "o"), filepath.Join(t.TempDir(), "kernel")
	_ = sh(t, "gcc", "-m32", "-c", "-o", object, filepath.Join("testdata", "multiboot1.S"))
	_ = sh(t, "ld", "-m", "elf_i386", "-Ttext", "0x100000", "-e", "0x100000", "--oformat", "binary", "-o", kernel, object)
	return kernel
}
