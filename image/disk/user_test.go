package disk

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

const asUser = "MORGANA_TEST_WRITE"

// TestMain runs the tests, or makes or unpacks a disk if a test started this process:
// as another user, or to kill it.
func TestMain(m *testing.M) {
	if os.Getenv(asUser) == "" {
		os.Exit(m.Run())
	}
	if os.Getenv(asUser) == unpacks {
		_ = Unpack(context.Background(), os.Stdin, "disk.raw") // killed meanwhile
		os.Exit(1)
	}
	l := Layout(os.Getenv(asUser))
	if err := Write(context.Background(), "disk", l, Boot{Kernel: "kernel", ABI: abiFor(l)}, 0); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// A user who is not root makes the same bytes.
func TestWriteWithoutRoot(t *testing.T) {
	makes(t, both...)
	if os.Getuid() != 0 {
		t.Skip("not root: every test is one without root")
	}
	// Other users may not enter t.TempDir.
	dir, err := os.MkdirTemp("", "disk-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}()
	const nobody = 65534
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	kernel, program := file(t, 100_000), filepath.Join(dir, "test")
	for from, to := range map[string]string{self: program, kernel: filepath.Join(dir, "kernel")} {
		raw, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, raw, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range both {
		cmd := exec.CommandContext(t.Context(), program)
		cmd.Dir = dir
		cmd.Env = []string{asUser + "=" + string(l), "PATH=/usr/bin:/bin"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", l, err, out)
		}
		if got, want := digest(t, filepath.Join(dir, "disk")), digest(t, write(t, l, Boot{Kernel: kernel, ABI: abiFor(l)}, 0)); got != want {
			t.Errorf("%s: nobody makes another image than root", l)
		}
	}
}
