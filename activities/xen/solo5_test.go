package xen

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

// solo5Xen builds the stand-in for a Solo5 xen kernel with the sources of examples/hello.
func solo5Xen(t *testing.T) []byte {
	t.Helper()
	folder := t.TempDir()
	for _, from := range []string{"../../examples/hello", "testdata/solo5xen"} {
		files, err := filepath.Glob(filepath.Join(from, "*.[cSh]"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range append(files, filepath.Join(from, "link.ld")) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(folder, filepath.Base(file)), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	cmd := exec.CommandContext(t.Context(), "gcc", "-m64", "-O2", "-ffreestanding", "-fno-pic", "-fno-stack-protector", "-fno-asynchronous-unwind-tables",
		"-fcf-protection=none", "-mgeneral-regs-only", "-mno-red-zone", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none,-z,max-page-size=4096,-z,noexecstack,-T,link.ld",
		"-o", "kernel.xen", "headers.S", "kernel.c", "start.S", "console.c", "xen.c")
	cmd.Dir = folder
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	kernel, err := os.ReadFile(filepath.Join(folder, "kernel.xen"))
	if err != nil {
		t.Fatal(err)
	}
	return kernel
}

// GRUB starts a Solo5 xen kernel in an hvm domain. No interrupt of the PC's timer ends it,
// and its console is Xen's.
func TestSolo5XenFromDisk(t *testing.T) {
	b := newBench(t)
	kernel := b.put(solo5Xen(t))
	spec := step.Spec{Tags: step.Tags{App: "solo5", Target: "lab", Life: "0a1b2c3d", Generation: 1}, Kind: Kind,
		Options: completed(t, string(options(b.l, `"via":"disk","args":"--ipv4=10.0.0.2/24 a","expect":"no interrupt came","timeout":"5m"`)))}
	img, err := New(b.site).Package(t.Context(), step.Kernel{Spec: spec, File: kernel, ABIs: image.MirageABIs("xen")})
	if err != nil {
		t.Fatal(err)
	}
	m := b.boot(b.register(img))
	text, err := New(b.site).Console(t.Context(), step.ConsoleFrom{Machine: m, WaitSeconds: 60})
	if err != nil || !strings.Contains(text.Text, "started by multiboot\r\ncommand line: [--ipv4=10.0.0.2/24 a]") {
		t.Errorf("console: %q, %v", text.Text, err)
	}
	b.destroy(spec)
}
