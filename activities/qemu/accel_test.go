package qemu

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
)

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
	if took := time.Since(began); took > probeTimeout+time.Minute {
		t.Errorf("took %s", took)
	}
	want := map[string]string{"kvm": "host", "tcg": "max"}[with.accel]
	if with.cpu != want {
		t.Errorf("%s with processor %s", with.accel, with.cpu)
	}
	began = time.Now()
	again, err := q.accelerate(t.Context(), auto)
	if took := time.Since(began); err != nil || again != with || took > time.Minute {
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

func TestSandboxIsAsked(t *testing.T) {
	for script, want := range map[string]bool{"exit 0": true, "echo no sandbox >&2; exit 1": false} {
		if got, err := knowsSandbox(t.Context(), fake(t, script)); got != want || err != nil {
			t.Errorf("%s: %v, %v", script, got, err)
		}
	}
}
