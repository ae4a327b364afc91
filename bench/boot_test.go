package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/activities/qemu"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/store"
)

const qemuProgram = "qemu-system-x86_64"

// BenchmarkBoot compares the boot stage of a new machine with QEMU alone, from its start
// until the greeting of the kernel. Both use emulation, since hosts differ in KVM.
func BenchmarkBoot(b *testing.B) {
	need.Tools(b, qemuProgram)
	q, kernel := newQEMU(b), hello(b)
	img := q.image(kernel, []string{image.PVH, image.Multiboot2}, `"memory":64,"args":"stay","expect":"`+greeting+`"`)
	measure(b, func(f *figures) { f.add("QEMU-alone", q.boot(img), bootAlone(b, kernel)) })
}

// qemuBench is a qemu target with a store.
type qemuBench struct {
	*testing.B
	target *qemu.Target
	store  step.Store
}

func newQEMU(b *testing.B) *qemuBench {
	artifacts, err := store.Open(b.Context(), filepath.Join(b.TempDir(), "store"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = artifacts.Close() }) // a folder
	return &qemuBench{b, qemu.New(step.Site{Host: host, State: b.TempDir(), Store: artifacts, Log: slog.New(slog.DiscardHandler)}), artifacts}
}

// image packages a kernel for an emulated machine.
func (q *qemuBench) image(kernel string, abis []string, options string) step.Image {
	file, err := os.Open(kernel)
	if err != nil {
		q.Fatal(err)
	}
	defer func() { _ = file.Close() }() // only read
	stored, err := q.store.Put(q.Context(), file)
	if err != nil {
		q.Fatal(err)
	}
	spec, err := q.target.Check(q.Context(), step.Spec{Tags: step.Tags{App: "hello", Target: "bench", Life: "00000000", Generation: 1}, Kind: qemu.Kind,
		Options: json.RawMessage(`{"accel":"tcg",` + options + `}`)})
	if err != nil {
		q.Fatal(err)
	}
	img, err := q.target.Package(q.Context(), step.Kernel{Spec: spec, File: stored, ABIs: abis})
	if err != nil {
		q.Fatal(err)
	}
	return img
}

// boot times a boot of the image. The machine is destroyed.
func (q *qemuBench) boot(img step.Image) float64 {
	registration, err := q.target.Register(q.Context(), img)
	if err != nil {
		q.Fatal(err)
	}
	took := timed(q.B, func() error { _, err := q.target.Boot(q.Context(), registration); return err })
	if _, err := q.target.Destroy(q.Context(), step.Removal{Spec: img.Spec}); err != nil {
		q.Fatal(err)
	}
	return took
}

func megabytes(img step.Image) (sum float64) {
	for _, f := range img.Files {
		sum += float64(f.Artifact.Size) / 1e6
	}
	return sum
}

// bootAlone times QEMU from its start to the greeting.
func bootAlone(b *testing.B, kernel string) float64 {
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemuProgram, "-accel", "tcg", "-cpu", "max", "-m", "64", "-nodefaults",
		"-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", kernel, "-append", "stay")
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	took := timed(b, func() error {
		if err := cmd.Start(); err != nil {
			return err
		}
		return greets(out)
	})
	cancel()
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait() // killed, as it should be
	return took
}

// greets reads a console until the greeting of hello.
func greets(console io.Reader) error {
	for lines := bufio.NewScanner(console); lines.Scan(); {
		if strings.Contains(lines.Text(), greeting) {
			return nil
		}
	}
	return errors.New("the kernel did not greet")
}
