package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/activities/qemu"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/store"
)

const (
	qemuProgram = "qemu-system-x86_64"
	bootRuns    = 15
	greeting    = "hello from a unikernel"
)

// measureBoot times the boot stage on fresh machines, and QEMU alone from its
// start until the kernel has greeted. Both emulate: what a host offers by KVM
// differs, and a machine that boots sooner is no use to compare with.
func measureBoot(ctx context.Context, dir string, r *report) error {
	kernel, err := buildHello(ctx, dir)
	if err != nil {
		return err
	}
	b, err := newBooter(ctx, dir, kernel)
	if err != nil {
		return err
	}
	var c comparison
	for i := range bootRuns + 1 {
		ours, err := b.boot(ctx, i+1)
		if err != nil {
			return err
		}
		peer, err := bootAlone(ctx, kernel)
		if err != nil {
			return fmt.Errorf("boot by QEMU alone: %w", err)
		}
		if i > 0 { // the first warms caches
			c.add(ours.Seconds(), peer.Seconds())
		}
	}
	r.add("boot stage / QEMU alone", seconds, c)
	return nil
}

// booter boots machines of one image by the qemu target.
type booter struct {
	target *qemu.Target
	image  step.Image
}

func newBooter(ctx context.Context, dir, kernel string) (*booter, error) {
	s, err := store.Open(ctx, filepath.Join(dir, "store"))
	if err != nil {
		return nil, err
	}
	file, err := os.Open(kernel)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // read only
	a, err := s.Put(ctx, file)
	if err != nil {
		return nil, err
	}
	found, err := image.Identify(file, a.Size)
	if err != nil {
		return nil, err
	}
	options, err := json.Marshal(map[string]any{"memory": 64, "accel": "tcg", "args": "stay", "expect": greeting})
	if err != nil {
		return nil, err
	}
	t := qemu.New(step.Site{Host: host, State: filepath.Join(dir, "state"), Store: s, Log: slog.New(slog.DiscardHandler)})
	spec, err := t.Check(ctx, step.Spec{ // learns about this QEMU, as a deploy's check does
		Tags: step.Tags{App: "hello", Target: "bench", Life: "00000000", Generation: 1},
		Kind: qemu.Kind, Options: options})
	if err != nil {
		return nil, err
	}
	img, err := t.Package(ctx, step.Kernel{Spec: spec, File: a, ABIs: found.ABIs})
	if err != nil {
		return nil, err
	}
	return &booter{t, img}, nil
}

// boot times the boot of a new machine, and destroys it.
func (b *booter) boot(ctx context.Context, generation int) (took time.Duration, err error) {
	img := b.image
	img.Spec.Generation = generation
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		_, destroyed := b.target.Destroy(ctx, step.Removal{Spec: img.Spec})
		err = errors.Join(err, destroyed)
	}()
	registration, err := b.target.Register(ctx, img)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	_, err = b.target.Boot(ctx, registration)
	return time.Since(began), err
}

// bootAlone times QEMU from its start to the greeting.
func bootAlone(ctx context.Context, kernel string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemuProgram, "-accel", "tcg", "-cpu", "max", "-m", "64", "-nodefaults",
		"-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", kernel, "-append", "stay")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	var took time.Duration
	for lines := bufio.NewScanner(out); took == 0 && lines.Scan(); {
		if strings.Contains(lines.Text(), greeting) {
			took = time.Since(began)
		}
	}
	killed := cmd.Process.Kill()
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait() // killed, as it should be
	if took == 0 {
		return 0, errors.New("the kernel did not greet")
	}
	return took, killed
}

// buildHello builds examples/hello in a copy and gives the kernel's path.
func buildHello(ctx context.Context, dir string) (string, error) {
	folder := filepath.Join(dir, "hello")
	if err := os.CopyFS(folder, os.DirFS(filepath.Join("examples", "hello"))); err != nil {
		return "", err
	}
	for _, target := range []string{"clean", "hello"} { // somebody's build may have been copied
		if out, err := exec.CommandContext(ctx, "make", "-s", "-C", folder, target).CombinedOutput(); err != nil {
			return "", fmt.Errorf("make %s: %w\n%s", target, err, out)
		}
	}
	return filepath.Join(folder, "hello"), nil
}
