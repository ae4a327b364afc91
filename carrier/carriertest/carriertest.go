// Package carriertest has the parts of a carrier for tests of targets.
package carriertest

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/morgana-deploy/morgana/carrier"
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
}

// Make builds the parts, and puts the init and the tender into PATH.
func Make(t testing.TB) Parts {
	t.Helper()
	need.Tools(t, "go", "gcc", "apt-get")
	folder := t.TempDir()
	t.Setenv("PATH", folder+":"+os.Getenv("PATH"))
	_, self, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(self), "..", "..")
	p := Parts{Web: filepath.Join(folder, "web"), SPT: filepath.Join(folder, "kernel.spt")}
	for program, from := range map[string]string{"morgana-carrier": "init", "solo5-spt": "testdata/tender", "web": "testdata/web"} {
		build(t, root, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(folder, program), "./carrier/"+from)
	}
	build(t, root, "gcc", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-DTARGET=2", "-DDEVICES=2", "-o", p.SPT, "activities/local/testdata/kernel.S")
	o := carrier.Carriage{Carrier: "linux"}
	need.Nil(t, o.Complete(t.Context(), nil))
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if p.Linux, err = carrier.Fetch(t.Context(), filepath.Join(cache, "morgana-carrier"), o.Linux); err != nil {
		t.Fatal(err)
	}
	return p
}

func build(t testing.TB, root, program string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
}
