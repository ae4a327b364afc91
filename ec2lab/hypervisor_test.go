package ec2lab

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	kernels "github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/xenlab"
)

// helloDisk makes a boot disk of examples/hello.
func helloDisk(t *testing.T, l disk.Layout, abi, args string) string {
	t.Helper()
	need.Tools(t, "make", "gcc")
	folder := filepath.Join(t.TempDir(), "hello")
	if err := os.CopyFS(folder, os.DirFS("../examples/hello")); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "make", "-s", "-C", folder).CombinedOutput(); err != nil {
		t.Fatalf("make: %v\n%s", err, out)
	}
	path := filepath.Join(folder, "disk.raw")
	boot := disk.Boot{Kernel: filepath.Join(folder, "hello"), ABI: abi, Args: args}
	if err := disk.Write(t.Context(), path, l, boot, 1<<30); err != nil {
		t.Fatal(err)
	}
	return path
}

// startGuest starts a guest, which the test stops in the end.
func startGuest(t *testing.T, m *Machines, g Guest) Running {
	t.Helper()
	p, err := m.Start(t.Context(), g)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(m.dir, g.ID)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the guest's folder is left: %v", err)
		}
		if !p.Ended() {
			t.Error("the guest's process runs")
		}
	})
	return p
}

// wait waits until a guest has printed text.
func wait(t *testing.T, p Running, text string) {
	t.Helper()
	var out string
	for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		raw, err := p.Console()
		if err != nil {
			t.Fatal(err)
		}
		if out = strings.ReplaceAll(string(raw), "\r", ""); strings.Contains(out, text) {
			return
		}
	}
	t.Errorf("no %q in\n%s", text, out)
}

// ends waits until a guest has ended by itself.
func ends(t *testing.T, p Running) {
	t.Helper()
	for end := time.Now().Add(10 * time.Minute); !p.Ended(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the guest runs")
		}
	}
}

func TestQEMU(t *testing.T) {
	t.Parallel()
	need.Tools(t, "qemu-system-x86_64", "grub-mkimage")
	for mode, layout := range map[string]disk.Layout{"legacy-bios": disk.BIOS, "uefi": disk.UEFI} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			if mode == "uefi" && testing.Short() {
				t.Skip("the firmware takes 20 s for each guest")
			}
			m := NewMachines(t.TempDir())
			for id, args := range map[string]string{"i-0a": "stay", "i-0b": "end"} {
				g := Guest{ID: id, Disk: helloDisk(t, layout, kernels.Multiboot2, args), Virtualization: "hvm", BootMode: mode, Memory: 1024}
				p := startGuest(t, m, g)
				wait(t, p, "boot mode: multiboot2\ncommand line: ["+args+"]\n")
				if args == "end" {
					ends(t, p)
				} else if p.Ended() {
					t.Error("a guest that stays has ended")
				}
			}
		})
	}
}

func TestXenGuests(t *testing.T) {
	t.Parallel()
	need.Lab(t, xenlab.Missing(t.Context()))
	m := NewMachines(t.TempDir())
	closing(t, m)
	t.Run("guests", func(t *testing.T) { xenGuests(t, m) })
	left, err := m.xen.Lab().Run(t.Context(), "sh", "-c", "xl list | sed 1,2d; ls /root /var/log/xen/console; losetup -a; pgrep -a tail || :")
	if err != nil || strings.Contains(left, "i-0") {
		t.Errorf("left in dom0:\n%s%v", left, err)
	}
}

func xenGuests(t *testing.T, m *Machines) {
	for _, c := range []struct {
		id, args string
		on       disk.Layout // the disk
		grub     disk.Layout
		want     string
	}{
		{"i-00", "stay", disk.Whole, disk.Whole, "boot mode: xen-pv\ncommand line: [stay]\n"},
		{"i-01", "end", disk.Partition, disk.Partition, "boot mode: xen-pv\ncommand line: [end]\nshutting down\n"},
		{"i-02", "stay", disk.Whole, disk.Partition, "no menu on (hd0,msdos1)"},
		{"i-03", "stay", disk.Partition, disk.Whole, "no menu on (hd0)"},
	} {
		t.Run(string(c.on)+" by "+string(c.grub), func(t *testing.T) {
			t.Parallel()
			g := Guest{ID: c.id, Disk: helloDisk(t, c.on, kernels.XenPV, c.args), Virtualization: "paravirtual", Layout: string(c.grub), Memory: 613}
			p := startGuest(t, m, g)
			wait(t, p, c.want)
			if c.id == "i-00" {
				if p.Ended() {
					t.Error("a guest that stays has ended")
				}
				return
			}
			ends(t, p)
		})
	}
}
