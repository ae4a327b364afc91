package bench

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"
	"sync"
	"testing"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/need"
)

const mebibyte = 1 << 20

// BenchmarkImage compares boot disks of 1 GiB, as the package stage makes them but
// without the store, with mke2fs -d and with mirage's ec2.sh: dd, mkfs, a loop mount
// and cp.
func BenchmarkImage(b *testing.B) {
	need.Tools(b, "mke2fs")
	measure(b, func(f *figures) {
		for _, mib := range []int64{10, 100} {
			path := b.TempDir()
			kernel := random(b, filepath.Join(path, "kernel"), mib*mebibyte)
			write := timed(b, func() error { return write(b, filepath.Join(path, "ours"), kernel, 1<<30) })
			pack := timed(b, func() error { return disk.Pack(b.Context(), io.Discard, filepath.Join(path, "ours")) })
			alone := timed(b, func() error {
				return sh(b, `mkdir "$1/root" && ln "$1/kernel" "$1/root" && mke2fs -q -F -t ext2 -d "$1/root" "$1/mke2fs.img" 1G`, path)
			})
			f.add(fmt.Sprintf("%dMiB/mke2fs", mib), write, alone)
			f.add(fmt.Sprintf("%dMiB-and-packed/mke2fs", mib), write+pack, alone)
			if os.Geteuid() == 0 {
				f.add(fmt.Sprintf("%dMiB-and-packed/loop-mount", mib), write+pack, timed(b, func() error {
					return sh(b, `cd "$1" && mkdir mnt && dd if=/dev/zero of=loop.img bs=1M count=1024 && mkfs.ext2 -q -F loop.img &&
						mount -o loop loop.img mnt && { cp kernel mnt; umount mnt; }`, path)
				}))
			}
		}
	})
}

// BenchmarkImageMemory compares the peak memory of this process for eight disks of 8 GiB
// at once with that for one. Layout Whole needs no other process.
func BenchmarkImageMemory(b *testing.B) {
	const mib, gib = 10, 8
	path := b.TempDir()
	kernel := random(b, filepath.Join(path, "kernel"), mib*mebibyte)
	peak := func(n int) float64 {
		debug.FreeOSMemory()
		if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // resets VmHWM
			b.Fatal(err)
		}
		errs := make([]error, n)
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() {
				name := filepath.Join(path, fmt.Sprint(i))
				if errs[i] = write(b, name, kernel, gib<<30); errs[i] == nil {
					errs[i] = errors.Join(disk.Pack(b.Context(), io.Discard, name), os.Remove(name))
				}
			})
		}
		all.Wait()
		if err := errors.Join(errs...); err != nil {
			b.Fatal(err)
		}
		status, err := os.ReadFile("/proc/self/status")
		found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
		if err != nil || found == nil {
			b.Fatalf("no VmHWM in /proc/self/status: %v", err)
		}
		kib, err := strconv.ParseFloat(string(found[1]), 64)
		if err != nil {
			b.Fatal(err)
		}
		return kib / 1024
	}
	measure(b, func(f *figures) {
		one := peak(1)
		f.add("8-at-once/one", peak(8), one, "MiB")
	})
}

func write(b *testing.B, path, kernel string, size int64) error {
	return disk.Write(b.Context(), path, disk.Whole, disk.Boot{Kernel: kernel, ABI: image.XenPV, Args: "bench"}, size)
}

// sh runs a script with the folder as $1.
func sh(b *testing.B, script, folder string) error {
	cmd := exec.CommandContext(b.Context(), "sh", "-c", script, "sh", folder)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// random makes a file of random bytes, which has no holes and does not compress.
func random(b *testing.B, path string, size int64) string {
	b.Helper()
	f, err := os.Create(path)
	if err == nil {
		_, err = io.CopyN(f, rand.Reader, size)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		b.Fatal(err)
	}
	return path
}
