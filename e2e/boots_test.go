package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/need"
)

// examples/hello boots by each of QEMU's boot protocols and prints which it was.
func TestHelloBootsInEveryWay(t *testing.T) {
	t.Parallel()
	need.Tools(t, "gzip")
	l := newLab(t)
	folder := l.hello()
	l.write(filepath.Join(folder, "morgana.yaml"), `app: ways
toolchain: {kind: command, build: [[make]], kernel: hello}
targets:
  kernel: {kind: qemu, accel: tcg, args: "stay a b", expect: staying}
  bios: {kind: qemu, via: bios, accel: tcg, args: "stay a b", expect: staying}
  uefi: {kind: qemu, via: uefi, accel: tcg, args: "stay a b", expect: staying}
  large: {kind: qemu, via: bios, size: 1GiB, accel: tcg, args: "stay a b", expect: staying}
`)
	l.deployed(folder, "--all")
	for target, mode := range map[string]string{"kernel": "pvh", "bios": "multiboot2", "uefi": "multiboot2", "large": "multiboot2"} {
		r := l.morgana(folder, "console", "ways/"+target)
		if !strings.Contains(r.out, "boot mode: "+mode) || !strings.Contains(r.out, "command line: [stay a b]") {
			t.Errorf("%s: want boot mode %s and the arguments in\n%s%s", target, mode, r.out, r.errOut)
		}
	}
	if size := l.storeSize(); size > 16<<20 {
		t.Errorf("the store has %d bytes: a disk of 1 GiB should cost what is in it", size)
	}

	kernel := filepath.Join(t.TempDir(), "hello")
	if err := os.WriteFile(kernel, l.kernel(), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "gzip", "--keep", kernel).CombinedOutput(); err != nil {
		t.Fatalf("gzip: %v\n%s", err, out)
	}
	packed := l.project("app: packed\ntoolchain: {kind: prebuilt, kernel: " + kernel + ".gz}\n" +
		"targets:\n  kernel: {kind: qemu, accel: tcg, args: stay, expect: staying}\n  bios: {kind: qemu, via: bios, accel: tcg, args: stay, expect: staying}\n")
	l.deployed(packed, "--all")

	for _, name := range []string{"ways/kernel", "ways/bios", "ways/uefi", "ways/large", "packed/kernel", "packed/bios"} {
		if r := l.morgana(folder, "destroy", name); r.code != 0 {
			t.Errorf("destroy %s: %s%s", name, r.out, r.errOut)
		}
	}
	l.clean()
}

// storeSize is the sum of the sizes of the store's files.
func (l *lab) storeSize() (sum int64) {
	for _, name := range l.artifacts() {
		if info, err := os.Stat(filepath.Join(l.state("store"), "sha256", name[:2], name)); err == nil {
			sum += info.Size()
		}
	}
	return sum
}
