package qemu

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/need"
)

// flooding is multiboot 1, and its entry: mov dx, 3f8h; mov al, 'x'; 1: out dx, al; jmp 1b
func flooding() []byte {
	kernel := append([]byte(silentKernel[:32]), "\x66\xba\xf8\x03\xb0\x78\xee\xeb\xfd"...)
	for _, at := range []int{20, 24} { // load_end_addr, bss_end_addr
		binary.LittleEndian.PutUint32(kernel[at:], 0x100000+uint32(len(kernel)))
	}
	return kernel
}

// A kernel that prints for ever runs on, and its console ends.
func TestConsoleHasAnEnd(t *testing.T) {
	need.Tools(t, defaultQEMU)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "kernel"), flooding(), 0o600); err != nil {
		t.Fatal(err)
	}
	const limit = 8 << 10
	cmd := limited(limit, defaultQEMU, "-accel", "tcg", "-m", "16", "-nodefaults", "-display", "none", "-serial", "file:console", "-kernel", "kernel")
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	size := func() int64 {
		info, err := os.Stat(filepath.Join(dir, "console"))
		if err != nil {
			return 0
		}
		return info.Size()
	}
	eventually(t, "the console is full", func() bool { return size() >= limit })
	select {
	case err := <-ended:
		t.Fatalf("it ended: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	if size() != limit {
		t.Errorf("%d bytes", size())
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	<-ended //nolint:errcheck // killed
}

// The console's limit is none for the machine's disks.
func TestLimitOfFiles(t *testing.T) {
	b := newBench(t)
	path, _ := dataFile(t)
	if err := os.Truncate(path, 3<<30); err != nil {
		t.Fatal(err)
	}
	for i, test := range []struct {
		disks string
		most  int64
	}{
		{`[]`, consoleLimit},
		{`[{"size":"1MiB"},{"size":"2GiB"}]`, 2 << 30},
		{fmt.Sprintf(`[{"path":%q},{"size":"2GiB"}]`, path), 3 << 30},
	} {
		r := b.register(b.spec("limits", i+1, `{"args":"stay","expect":"staying","disks":%s}`, test.disks))
		b.boot(r)
		limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", b.pid(r)))
		if err != nil {
			t.Fatal(err)
		}
		_, line, _ := strings.Cut(string(limits), "Max file size")
		if words := strings.Fields(line); words[0] != fmt.Sprint(test.most) {
			t.Errorf("%s: files may have %s bytes", test.disks, words[0])
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.pid(r)))
		if err != nil {
			t.Fatal(err)
		}
		_, line, _ = strings.Cut(string(status), "SigIgn:")
		if ignored, err := strconv.ParseUint(strings.Fields(line)[0], 16, 64); err != nil || ignored&(1<<(syscall.SIGXFSZ-1)) == 0 {
			t.Errorf("a file that is full would end the machine: ignored are %#x (%v)", ignored, err)
		}
		b.destroy(r.Spec)
	}
}
