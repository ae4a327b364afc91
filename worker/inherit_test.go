package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain makes the test's program the worker if BE_WORKER is set.
func TestMain(m *testing.M) {
	if os.Getenv("BE_WORKER") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A worker's children do not inherit the worker's own inherited files.
func TestToolsHoldNothingOfTheWorkersStarter(t *testing.T) {
	dir := t.TempDir()
	seen := filepath.Join(dir, "seen")
	for name, script := range map[string]string{"make": "", "opam": "readlink /proc/$$/fd/* >>" + seen} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := os.Create(filepath.Join(dir, "callers.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Close() }()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "--doctor", "--state", filepath.Join(dir, "state"), "--kinds", "mirage")
	cmd.Env = []string{"BE_WORKER=1", "HOME=" + dir, "PATH=" + dir + ":/usr/bin:/bin"}
	cmd.ExtraFiles = []*os.File{lock, lock}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got, err := os.ReadFile(seen)
	if err != nil || !strings.Contains(string(got), "/") || strings.Contains(string(got), lock.Name()) {
		t.Errorf("%v: opam has\n%s", err, got)
	}
}
