// Package carriertest has the parts of a carrier for tests of targets.
package carriertest

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/morgana-deploy/morgana/carrier"
	"github.com/morgana-deploy/morgana/carrier/debian"
	"github.com/morgana-deploy/morgana/need"
)

// Parts are the parts on this host.
type Parts struct {
	// Linux is Carriage.Linux: Debian's newest cloud kernel, kept in the user's cache folder.
	Linux string
	// Web is a Linux program that prints "listening", answers HTTP on port 80, and ends with
	// status N on /N.
	Web string
	// SPT is a kernel with a network device "service" and a block device "storage". Its
	// stand-in for a tender prints "listening", answers one HTTP request at --ipv4=ADDRESS/N
	// with the disk's first five bytes, and ends with status 7.
	SPT string
	// NetSPT is the same without the block device.
	NetSPT string
}

// Make builds the parts, and puts the init and the tender into PATH.
func Make(t testing.TB) Parts {
	t.Helper()
	need.Tools(t, "go", "gcc", "apt-get")
	folder := t.TempDir()
	t.Setenv("PATH", folder+":"+os.Getenv("PATH"))
	_, self, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(self), "..", "..")
	// The cache of go test has to know the files that it does not compile.
	err := fs.WalkDir(os.DirFS(filepath.Join(root, "carrier")), ".", func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			_, err = os.Stat(filepath.Join(root, "carrier", path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	p := Parts{Web: filepath.Join(folder, "web"), SPT: filepath.Join(folder, "kernel.spt"), NetSPT: filepath.Join(folder, "net.spt")}
	for program, from := range map[string]string{"morgana-carrier": "init", "solo5-spt": "testdata/tender", "web": "testdata/web"} {
		build(t, root, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(folder, program), "./carrier/"+from)
	}
	for devices, kernel := range map[string]string{"-DDEVICES=1": p.NetSPT, "-DDEVICES=2": p.SPT} {
		build(t, root, "gcc", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-DTARGET=2", devices, "-o", kernel, "activities/local/testdata/kernel.S")
	}
	p.Linux = Linux(t)
	return p
}

// Linux returns [Parts.Linux].
func Linux(t testing.TB) string {
	t.Helper()
	need.Tools(t, "apt-get")
	newest, err := carrier.Newest(t.Context())
	need.Nil(t, err)
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	path, err := debian.Fetch(t.Context(), filepath.Join(cache, "morgana-carrier"), newest)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func build(t testing.TB, root, program string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
}
