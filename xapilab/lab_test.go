package xapilab

import (
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/xenlab"
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

// The official client takes a VM through its whole life. The judge finds what it does wrong on
// purpose.
func TestOfficialClient(t *testing.T) {
	c := Config{Judge: FindJudge(t), Hypervisor: StandIn{Text: func(g Guest) string { return "hello from " + g.Type + "[" + g.Args + "]" }}}
	l := start(t, c)
	live(t, l, "pvh", hello(t, disk.Whole, image.XenPV), "hello from pvh[  stay a=b]")
	once := len(l.Judged())
	live(t, l, "hvm", hello(t, disk.BIOS, image.Multiboot2), "")
	want := []string{
		"VM.create: args: class VM has no field unknown", "VDI.create: args: field SR is missing",
		"VM.destroy: 1 parameters, not 2", "VM.fly: class VM has no message fly",
	}
	if got := l.Judged(); c.Judge != nil && (!slices.Equal(got[:once], want) || !slices.Equal(got[once:], want)) {
		t.Errorf("judged %q", got)
	}
}

// live runs the program of the official client.
func live(t *testing.T, l *Lab, domainType, boot, expect string) {
	t.Helper()
	t.Setenv("SSL_CERT_FILE", l.CA)
	need.RunPython(t, requirements, life, "", l.URL, l.Member, l.User, l.Password, l.CA, boot, domainType, expect)
	if left := l.Resources(); len(left) > 0 || l.Sessions() > 0 {
		t.Errorf("left: %v, %d sessions", left, l.Sessions())
	}
}

// client is an HTTP client that trusts the lab's hosts.
func (l *Lab) client(t *testing.T) *http.Client {
	t.Helper()
	ca, err := os.ReadFile(l.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// The bytes of the VDIs boot in a real Xen.
func TestXen(t *testing.T) {
	need.Lab(t, xenlab.Missing(t.Context()))
	m := NewMachines(t.TempDir())
	t.Cleanup(func() { // after the lab's end
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	l := start(t, Config{Hypervisor: m})
	for domainType, mode := range map[string]string{"pv": "xen-pv", "pvh": "xen-pvh"} {
		begin := time.Now()
		live(t, l, domainType, hello(t, disk.Whole, image.XenPV), "boot mode: "+mode+"\ncommand line: [stay a=b]")
		t.Logf("%s took %v", domainType, time.Since(begin))
	}
}
