package machine

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/morgana-deploy/morgana/need"
)

// onDisk, when set, is a file system's folder: the test works there and then
// makes a copy of the file system's device, as a power cut would leave it.
const onDisk = "MORGANA_TEST_ON_DISK"

// What is registered and written is there after a power cut: on a file system of
// its own, whose device is copied at that moment and read by e2fsprogs.
func TestPowerCut(t *testing.T) {
	if folder := os.Getenv(onDisk); folder != "" {
		b := newBenchAt(t, filepath.Join(folder, "state"))
		tool(t, "cp", folder+".raw", folder+".registered")
		if err := (Machine{Path: b.reg.ID}).SetReady("it said so"); err != nil {
			t.Fatal(err)
		}
		tool(t, "cp", folder+".raw", folder+".ready")
		return
	}
	need.Tools(t, "mke2fs", "e2fsck", "debugfs", "unshare", "mount")
	if os.Getuid() != 0 {
		need.Nil(t, errors.New("needs root"))
	}
	folder := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tool(t, "mke2fs", "-q", "-t", "ext4", folder+".raw", "16M")
	// The mount is gone with its name space.
	tool(t, "unshare", "-m", "sh", "-c", `mount -o loop,commit=60 "$1.raw" "$1" && MORGANA_TEST_ON_DISK="$1" exec "$2" -test.run '^TestPowerCut$'`, "sh", folder, exe)
	for _, test := range []struct{ cut, file, has string }{
		{"registered", RecordFile, `"digest": "`},
		{"registered", "kernel", "kernel"},
		{"registered", "prepared", "by the target"},
		{"ready", readyFile, "it said so"},
	} {
		cut := folder + "." + test.cut
		_ = exec.Command("e2fsck", "-fy", cut).Run() // not 0 where it replays the journal
		if got := tool(t, "debugfs", "-R", "cat /state/test/boottest.dev.0a1b2c3d-1/"+test.file, cut); !strings.Contains(got, test.has) {
			t.Errorf("%s: %s: %q", test.cut, test.file, got)
		}
	}
}

// tool runs a program and gives its standard output.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s%s", name, err, out, said.String())
	}
	return string(out)
}
