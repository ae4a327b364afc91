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
	kernel, folder := hello(b), b.TempDir()
	artifacts, err := store.Open(b.Context(), filepath.Join(folder, "store"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = artifacts.Close() }() // a folder
	file, err := os.Open(kernel)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = file.Close() }() // only read
	stored, err := artifacts.Put(b.Context(), file)
	if err != nil {
		b.Fatal(err)
	}
	t := qemu.New(step.Site{Host: host, State: filepath.Join(folder, "state"), Store: artifacts, Log: slog.New(slog.DiscardHandler)})
	spec, err := t.Check(b.Context(), step.Spec{
		Tags: step.Tags{App: "hello", Target: "bench", Life: "00000000", Generation: 1}, Kind: qemu.Kind,
		Options: json.RawMessage(`{"memory":64,"accel":"tcg","args":"stay","expect":"` + greeting + `"}`)})
	if err != nil {
		b.Fatal(err)
	}
	img, err := t.Package(b.Context(), step.Kernel{Spec: spec, File: stored, ABIs: []string{image.PVH, image.Multiboot2}})
	if err != nil {
		b.Fatal(err)
	}
	measure(b, func(f *figures) {
		registration, err := t.Register(b.Context(), img)
		if err != nil {
			b.Fatal(err)
		}
		ours := timed(b, func() error { _, err := t.Boot(b.Context(), registration); return err })
		if _, err := t.Destroy(b.Context(), step.Removal{Spec: spec}); err != nil {
			b.Fatal(err)
		}
		f.add("QEMU-alone", ours, bootAlone(b, kernel))
	})
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
