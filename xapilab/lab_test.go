package xapilab

import (
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/need"
)

var (
	//go:embed testdata/requirements.txt
	requirements string
	//go:embed testdata/life.py
	life string
)

func start(t *testing.T, c Config) *Lab {
	t.Helper()
	l, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// hello makes a boot disk of examples/hello.
func hello(t *testing.T, layout disk.Layout, abi string) string {
	t.Helper()
	need.Tools(t, "make", "gcc")
	folder := filepath.Join(t.TempDir(), "hello")
	if err := os.CopyFS(folder, os.DirFS("../examples/hello")); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "make", "-s", "-C", folder).CombinedOutput(); err != nil {
		t.Fatalf("make: %v\n%s", err, out)
	}
	path := filepath.Join(folder, "disk.img")
	if err := disk.Write(t.Context(), path, layout, disk.Boot{Kernel: filepath.Join(folder, "hello"), ABI: abi, Args: "stay"}, 0); err != nil {
		t.Fatal(err)
	}
	return path
}

// The official client takes a VM through its whole life.
func TestOfficialClient(t *testing.T) {
	l := start(t, Config{Hypervisor: StandIn{Text: func(g Guest) string { return "hello from " + g.Type + "[" + g.Args + "]" }}})
	t.Setenv("SSL_CERT_FILE", l.CA)
	boot := hello(t, disk.Whole, image.XenPV)
	need.RunPython(t, requirements, life, "", l.URL, l.Member, l.User, l.Password, l.CA, boot, "pvh", "hello from pvh[  stay a=b]")
	if left := l.Resources(); len(left) > 0 || l.Sessions() > 0 {
		t.Errorf("left: %v, %d sessions", left, l.Sessions())
	}
}
