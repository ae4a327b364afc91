package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var module = map[string]string{
	"go.mod":         "module m\n",
	"good/x_test.go": "package x\nimport (\"testing\"; \"time\")\nfunc TestGood(t *testing.T) { t.Log(\"good's log\"); t.Run(\"sub\", func(*testing.T) { time.Sleep(300 * time.Millisecond) }) }\n",
	"bad/x_test.go":  "package x\nimport \"testing\"\nfunc TestBad(t *testing.T) { t.Parallel(); t.Log(\"bad's log\"); t.Run(\"sub\", func(t *testing.T) { t.Error(\"one\\ntwo\") }) }\nfunc TestOther(t *testing.T) { t.Parallel(); t.Log(\"other's log\") }\n",
	"hang/x_test.go": "package x\nimport \"testing\"\nfunc TestHang(t *testing.T) { t.Log(\"before\"); select {} }\n",
	"not/x_test.go":  "package x\nvar _ = undefined\n",
}

// isGotest, when set, makes the test's program gotest.
const isGotest = "MORGANA_TEST_IS_GOTEST"

func TestMain(m *testing.M) {
	if os.Getenv(isGotest) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// What go test says of passes, failures, hangs and builds arrives, and what
// passing tests log does not.
func TestTellsAsGoTestDoes(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for name, text := range module {
		path := filepath.Join(folder, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) (int, string) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], append([]string{"times"}, args...)...)
		var out bytes.Buffer
		cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = folder, append(os.Environ(), isGotest+"=1"), &out, &out
		var exit *exec.ExitError
		if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), out.String()
	}
	if code, out := run("./good"); code != 0 || !regexp.MustCompile(`^ok  \tm/good\t[\d.]+s\n$`).MatchString(out) {
		t.Errorf("exit status %d, %q", code, out)
	}
	code, out := run("-timeout", "5s", "./...")
	if code != 1 {
		t.Errorf("exit status %d", code)
	}
	for _, want := range []string{"ok  \tm/good\t", "--- FAIL: TestBad (", "bad's log\n", "one\n        two\n", "FAIL\tm/bad\t", "before\npanic: test timed out",
		"FAIL\tm/hang\t", "undefined: undefined\n", "FAIL\tm/not [build failed]\n"} {
		if strings.Count(out, want) != 1 {
			t.Errorf("want %q once in\n%s", want, out)
		}
	}
	for _, no := range []string{"good's log", "other's log", "=== RUN"} {
		if strings.Contains(out, no) {
			t.Errorf("%q is in\n%s", no, out)
		}
	}
	times, err := os.ReadFile(filepath.Join(folder, "times"))
	var sub, own float64 // own is without sub
	if _, scans := fmt.Sscanf(string(times), "%f s m/good.TestGood/sub\n%f s m/good.TestGood\n", &sub, &own); err != nil || scans != nil || sub < 0.3 || own >= sub {
		t.Errorf("times: %v, %v\n%s", err, scans, times)
	}
}
