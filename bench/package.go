package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/image/disk"
)

const (
	mebibyte     = 1 << 20
	packageRuns  = 5
	manyImages   = 8
	manyImagesGB = 8
)

// measurePackage measures making boot images: a disk and its packed form, as
// the package stage makes them, less the store.
func measurePackage(ctx context.Context, dir string, r *report) error {
	for _, size := range []int64{10, 100} {
		kernel, err := randomFile(dir, size*mebibyte)
		if err != nil {
			return err
		}
		var alone, packed, mounted comparison
		for range packageRuns {
			ours, err := timed(func() error { return writeImage(ctx, dir, "ours", kernel, 1<<30) })
			if err != nil {
				return err
			}
			andPack, err := timed(func() error { return packImage(ctx, filepath.Join(dir, "ours"), io.Discard) })
			if err != nil {
				return err
			}
			mke2fs, err := timed(func() error { return mke2fsAlone(ctx, dir, kernel, 1<<30) })
			if err != nil {
				return err
			}
			alone.add(ours, mke2fs)
			packed.add(ours+andPack, mke2fs)
			if os.Geteuid() != 0 {
				continue
			}
			loop, err := timed(func() error { return loopMounted(ctx, dir, kernel, 1024) })
			if err != nil {
				return err
			}
			mounted.add(ours+andPack, loop)
		}
		what := fmt.Sprintf("image of 1 GiB, kernel of %d MiB", size)
		r.add(what+" / mke2fs -d", seconds, alone)
		r.add("... and packed for the store / mke2fs -d", seconds, packed)
		if len(mounted.ours) > 0 {
			r.add("... and packed / dd, mkfs, loop mount, cp", seconds, mounted)
		} else {
			say("package: a loop mount needs root: left out")
		}
	}
	return measureMemory(ctx, dir, r)
}

// measureMemory packages many large images at once, and compares the memory that
// this process takes at its height with that for one. Layout Whole needs no other
// process.
func measureMemory(ctx context.Context, dir string, r *report) error {
	kernel, err := randomFile(dir, 10*mebibyte)
	if err != nil {
		return err
	}
	peak := func(n int) (float64, error) {
		debug.FreeOSMemory()
		if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // resets VmHWM
			return 0, err
		}
		errs := make([]error, n)
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() {
				name := fmt.Sprintf("many%d", i)
				errs[i] = writeImage(ctx, dir, name, kernel, manyImagesGB<<30)
				if errs[i] == nil {
					errs[i] = packImage(ctx, filepath.Join(dir, name), io.Discard)
				}
				errs[i] = errors.Join(errs[i], os.Remove(filepath.Join(dir, name)))
			})
		}
		all.Wait()
		return highWater(), errors.Join(errs...)
	}
	one, err := peak(1)
	if err != nil {
		return err
	}
	many, err := peak(manyImages)
	if err != nil {
		return err
	}
	var c comparison
	c.add(many, one)
	r.add(fmt.Sprintf("memory for %d images of %d GiB at once / for one", manyImages, manyImagesGB), mebibytes, c)
	return nil
}

// highWater is VmHWM of this process in MiB, 0 if the system does not tell.
func highWater() float64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			if words := strings.Fields(rest); len(words) > 0 {
				kib, _ := strconv.ParseFloat(words[0], 64) // a number, or the system does not tell
				return kib / 1024
			}
		}
	}
	return 0
}

func writeImage(ctx context.Context, dir, name, kernel string, size int64) error {
	return disk.Write(ctx, filepath.Join(dir, name), disk.Whole, disk.Boot{Kernel: kernel, ABI: image.XenPV, Args: "bench"}, size)
}

func packImage(ctx context.Context, path string, w io.Writer) error {
	return disk.Pack(ctx, w, path)
}

// mke2fsAlone is the usual tool for an image without root.
func mke2fsAlone(ctx context.Context, dir, kernel string, size int64) error {
	root, err := os.MkdirTemp(dir, "root-*")
	if err != nil {
		return err
	}
	if err := os.Link(kernel, filepath.Join(root, "kernel")); err != nil {
		return err
	}
	out := filepath.Join(dir, "mke2fs.img")
	_ = os.Remove(out) // of the last run
	return quietly(ctx, "mke2fs", "-q", "-F", "-t", "ext2", "-d", root, out, fmt.Sprintf("%dK", size/1024))
}

// loopMounted is how ec2.sh made its image, with the tools it used.
func loopMounted(ctx context.Context, dir, kernel string, mebibytes int) (err error) {
	out, mnt := filepath.Join(dir, "loop.img"), filepath.Join(dir, "mnt")
	if err := os.MkdirAll(mnt, 0o700); err != nil {
		return err
	}
	if err := quietly(ctx, "dd", "if=/dev/zero", "of="+out, "bs=1M", fmt.Sprintf("count=%d", mebibytes)); err != nil {
		return err
	}
	if err := quietly(ctx, "mkfs.ext2", "-q", "-F", out); err != nil {
		return err
	}
	if err := quietly(ctx, "mount", "-o", "loop", out, mnt); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, quietly(context.WithoutCancel(ctx), "umount", mnt)) }()
	return quietly(ctx, "cp", kernel, mnt)
}

func quietly(ctx context.Context, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", program, err, said.String())
	}
	return nil
}

// randomFile is a file of bytes that no file system can leave out.
func randomFile(dir string, size int64) (path string, err error) {
	f, err := os.CreateTemp(dir, "kernel-*")
	if err != nil {
		return "", err
	}
	_, err = io.CopyN(f, rand.Reader, size)
	return f.Name(), errors.Join(err, f.Close())
}

func timed(do func() error) (float64, error) {
	begun := time.Now()
	err := do()
	return time.Since(begun).Seconds(), err
}
