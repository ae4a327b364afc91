package disk

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// BenchmarkWrite makes disks of 1 GiB; "mke2fs" is mke2fs -d alone on a folder
// that is there already.
func BenchmarkWrite(b *testing.B) {
	makes(b, both...)
	for _, size := range []int64{10_000_000, 100_000_000} {
		kernel := file(b, size)
		for _, l := range both {
			b.Run(fmt.Sprintf("%s/%dMB", l, size/1e6), func(b *testing.B) {
				path := filepath.Join(b.TempDir(), "disk")
				for b.Loop() {
					if err := Write(b.Context(), path, l, Boot{Kernel: kernel, ABI: abiFor(l)}, 1<<30); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(used(b, path)), "disk-B")
			})
		}
		b.Run(fmt.Sprintf("mke2fs/%dMB", size/1e6), func(b *testing.B) {
			mke2fs, err := thisHost().find("mke2fs")
			if err != nil {
				b.Fatal(err)
			}
			path := filepath.Join(b.TempDir(), "disk")
			for b.Loop() {
				_ = os.Remove(path) // there on all runs but the first
				cmd := exec.CommandContext(context.WithoutCancel(b.Context()), mke2fs, "-q", "-t", "ext2", "-d", filepath.Dir(kernel), path, "1G")
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
			}
			b.ReportMetric(float64(used(b, path)), "disk-B")
		})
	}
}

func BenchmarkPack(b *testing.B) {
	makes(b, BIOS)
	path := filepath.Join(b.TempDir(), "disk")
	if err := Write(b.Context(), path, BIOS, Boot{Kernel: file(b, 10_000_000), ABI: abiFor(BIOS)}, 1<<30); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := Pack(b.Context(), io.Discard, path); err != nil {
			b.Fatal(err)
		}
	}
}
