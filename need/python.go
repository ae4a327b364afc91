package need

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Python returns the Python of a virtual environment with the packages of a
// requirements.txt. It is made once for each text and kept in the user's cache folder, as
// Go keeps what it has built. The test is skipped if it cannot be made.
func Python(t testing.TB, requirements string) (python string) {
	t.Helper()
	Tools(t, "python3")
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(cache, "morgana-e2e", fmt.Sprintf("python-%x", sha256.Sum256([]byte(requirements)))[:len("python-")+12])
	python = filepath.Join(folder, "bin", "python")
	if err := os.MkdirAll(filepath.Dir(folder), 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(folder+".lock", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Close() }() // nothing was written
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	whole := filepath.Join(folder, "whole")
	if _, err := os.Stat(whole); err == nil {
		return python
	}
	if err := os.RemoveAll(folder); err != nil { // what an interrupted test left
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"python3", "-m", "venv", folder}, // Debian: package python3-venv
		{python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", "/dev/stdin"},
	} {
		c := exec.CommandContext(t.Context(), args[0], args[1:]...)
		c.Stdin = strings.NewReader(requirements)
		if out, err := c.CombinedOutput(); err != nil {
			Nil(t, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out))
		}
	}
	if err := os.WriteFile(whole, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return python
}

// RunPython runs a program that prints what is wrong, in the environment of [Python].
func RunPython(t testing.TB, requirements, program, in string, args ...string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), Python(t, requirements), append([]string{"-c", program}, args...)...)
	c.Stdin = strings.NewReader(in)
	if out, err := c.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%s%v", out, err)
	}
}
