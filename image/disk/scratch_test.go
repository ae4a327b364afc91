package disk

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// unpacks is the word for TestMain to unpack its standard input.
const unpacks = "unpack"

// The folder of a killed process is removed by the next process for the same path.
// The folder of a running one is not.
func TestKilledIsSwept(t *testing.T) {
	makes(t, Whole)
	packed := pack(t, sparse(t, mebi, map[int64]string{0: "x", mebi - 1: "y"}))
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.raw")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Dir, cmd.Env = dir, []string{asUser + "=" + unpacks}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		_, err = in.Write(packed[:len(packed)-1024]) // it waits for the rest
	}
	if err != nil {
		t.Fatal(err)
	}
	held := func() []string {
		all, err := filepath.Glob(filepath.Join(dir, ".disk-*", imageName))
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	for until := time.Now().Add(2 * time.Minute); len(held()) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("it does not begin")
		}
	}
	if err := Unpack(t.Context(), bytes.NewReader(packed), path); err != nil {
		t.Error(err)
	}
	if len(held()) != 1 {
		t.Error("what another works on was taken for left behind")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // it was killed
	if len(held()) != 1 {
		t.Error("nothing was left behind: this shows nothing")
	}
	if err := Write(t.Context(), filepath.Join(dir, "other"), Whole, Boot{Kernel: file(t, 1000), ABI: abiFor(Whole)}, 0); err != nil {
		t.Error(err)
	}
	if len(held()) != 1 {
		t.Error("what was left for another path was swept")
	}
	if err := Write(t.Context(), path, Whole, Boot{Kernel: file(t, 1000), ABI: abiFor(Whole)}, 0); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v (%v)", entries, err)
	}
}
