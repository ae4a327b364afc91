package qemu

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
)

// The probe computes rightly where SSE works, else it would refuse every KVM.
func TestProbe(t *testing.T) {
	need.Tools(t, "qemu-system-x86_64")
	kernel := filepath.Join(t.TempDir(), "probe")
	if err := os.WriteFile(kernel, probeKernel, 0o600); err != nil {
		t.Fatal(err)
	}
	err := exec.CommandContext(t.Context(), "qemu-system-x86_64", probeArgs("tcg", "max", kernel)...).Run()
	var status *exec.ExitError
	if !errors.As(err, &status) || status.ExitCode() != probeStatus {
		t.Errorf("under tcg: %v, want status %d", err, probeStatus)
	}
	// And it does use SSE: on a processor without, it must not end so.
	err = exec.CommandContext(t.Context(), "qemu-system-x86_64", probeArgs("tcg", "max,-sse2,-sse", kernel)...).Run()
	if errors.As(err, &status) && status.ExitCode() == probeStatus {
		t.Error("ends well without SSE")
	}
}

func TestProbeIsItsSource(t *testing.T) {
	need.Tools(t, "gcc")
	need.Tools(t, "ld")
	dir := t.TempDir()
	object, binary := filepath.Join(dir, "probe.o"), filepath.Join(dir, "probe.bin")
	if out, err := exec.CommandContext(t.Context(), "gcc", "-c", "-o", object, "probe/probe.S").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), "ld", "-n", "-Ttext", "0x100000", "-e", "_start", "--oformat", "binary", "-o", binary, object).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if built, err := os.ReadFile(binary); err != nil || !bytes.Equal(built, probeKernel) {
		t.Errorf("probe.bin is not what probe.S gives (%v): go generate", err)
	}
}

// Whatever this host has: auto decides, once, in time, for what then works.
func TestAccelerate(t *testing.T) {
	need.Tools(t, "qemu-system-x86_64")
	q := New(step.Site{State: t.TempDir(), Log: slog.Default()})
	auto, err := complete(nil)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	with, err := q.accelerate(t.Context(), auto)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > probeTimeout+2*time.Second {
		t.Errorf("took %s", took)
	}
	want := map[string]string{"kvm": "host", "tcg": "max"}[with.accel]
	if with.cpu != want {
		t.Errorf("%s with processor %s", with.accel, with.cpu)
	}
	began = time.Now()
	again, err := q.accelerate(t.Context(), auto)
	if took := time.Since(began); err != nil || again != with || took > time.Second/10 {
		t.Errorf("again: %+v, %v, in %s", again, err, took)
	}
	kvm := auto
	kvm.Accel = "kvm"
	if _, err := q.accelerate(t.Context(), kvm); (err == nil) != (with.accel == "kvm") || err != nil && step.KindOf(err) != step.Unsupported {
		t.Errorf("auto gives %s, accel kvm gives %v", with.accel, err)
	}
	t.Logf("this host: %+v", with)
}

// fake makes a program that stands in for a QEMU we cannot have here.
func fake(t *testing.T, script string) string {
	path := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil { //nolint:gosec // it is to be run
		t.Fatal(err)
	}
	return path
}

func TestTryKVM(t *testing.T) {
	for _, test := range []struct {
		name, script, why string
		stays             bool
	}{
		{"works", "exit 133", "", true},
		{"computes wrongly", "exit 131", "a kernel that uses SSE ends wrongly", true},
		{"triple fault", "exit 0", "a kernel that uses SSE ends wrongly", true},
		{"busy", "echo ioctl: busy >&2; exit 1", "ioctl: busy", false},
		{"internal error", "echo KVM internal error >&2; exec sleep 60", "a kernel that uses SSE hangs", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			began := time.Now()
			why, stays, err := tryKVM(t.Context(), fake(t, test.script))
			if took := time.Since(began); took > probeTimeout/2 {
				t.Errorf("took %s", took)
			}
			if why != test.why || stays != test.stays || err != nil {
				t.Errorf("got %q, %v, %v", why, stays, err)
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, _, err := tryKVM(ctx, fake(t, "exec sleep 60")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestSandboxIsAsked(t *testing.T) {
	for script, want := range map[string]bool{"exit 0": true, "echo no sandbox >&2; exit 1": false} {
		if got, err := knowsSandbox(t.Context(), fake(t, script)); got != want || err != nil {
			t.Errorf("%s: %v, %v", script, got, err)
		}
	}
}
