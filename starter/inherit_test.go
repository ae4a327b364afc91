package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain makes the test's program another one if a BE_ variable is set.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv("BE_MORGANA") != "":
		main()
	case os.Getenv("BE_SERVER") != "":
		beServer(os.Args[1:])
	case os.Getenv("BE_WORKER") != "":
		beWorker()
	}
	os.Exit(m.Run())
}

// A caller under flock(1) has its lock back when morgana ends, not when the server
// does.
func TestServerHoldsNothingOfItsStarter(t *testing.T) {
	hostWith(t, "exit 9")
	home := os.Getenv("HOME")
	// The error is the last line of the log.
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
