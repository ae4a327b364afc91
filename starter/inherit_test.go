package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain makes the test's program morgana itself where a test starts it so.
func TestMain(m *testing.M) {
	if os.Getenv("BE_MORGANA") != "" {
		main()
	}
	os.Exit(m.Run())
}

// Who deploys under flock(1) has the lock back when morgana is done, not when
// the server is.
func TestServerHoldsNothingOfItsStarter(t *testing.T) {
	sick(t, "exit 9")
	home := os.Getenv("HOME")
	// What it prints is in the log, whose end is the error's hint.
	if err := os.WriteFile(filepath.Join(home, "morgana-devserver"), []byte("#!/bin/sh\necho it has $(readlink /proc/$$/fd/*); exit 9"), 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(filepath.Join(home, "callers.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Close() }()
	cmd := self(t, "dev", "up")
	cmd.ExtraFiles = []*os.File{lock, lock}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "it has /dev/null") || strings.Contains(string(out), lock.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
}
