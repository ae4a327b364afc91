package qemu

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/carrier/carriertest"
	"github.com/morgana-deploy/morgana/need"
)

// carrierBench is a site with a kernel that a carrier runs, and the options for that.
func carrierBench(t *testing.T, kernel func(carriertest.Parts) string) (b *bench, options string) {
	parts := carriertest.Make(t)
	b = newBench(t)
	f, err := os.Open(kernel(parts))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	if b.kernel, err = b.site.Store.Put(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	return b, fmt.Sprintf(`"carrier":"linux","linux":%q`, parts.Linux)
}

const solo5Devices = `"networks":[{"name":"service","kind":"user"}],"disks":[{"name":"storage","size":"1MiB"}]`

// A Solo5 spt kernel serves through the host's port.
func TestCarrierOfSolo5(t *testing.T) {
	b, options := carrierBench(t, func(p carriertest.Parts) string { return p.SPT })
	port := need.Port(t)
	m := b.boot(b.register(b.spec("carried", 1, `{%s,%s,"args":"--ipv4={address}","ports":["%d:80"],"expect":"listening"}`, options, solo5Devices, port)))
	if got := get(t, port); got != "\x00\x00\x00\x00\x00" { // of the new disk
		t.Errorf("it answers %q", got)
	}
	eventually(t, "the machine is powered off", func() bool { return b.pid(m.Registration) == 0 })
	if console := b.console(m); !strings.HasSuffix(console, "carrier: exit status 7\r\n") {
		t.Error(console)
	}
}

// A Linux program serves from a UEFI disk.
func TestCarrierOfLinuxProgram(t *testing.T) {
	needDisk(t, viaUEFI)
	b, options := carrierBench(t, func(p carriertest.Parts) string { return p.Web })
	port := need.Port(t)
	b.boot(b.register(b.spec("carried", 1, `{%s,"via":"uefi","memory":256,"ports":["%d:80"],"expectPort":80}`, options, port)))
	if got := get(t, port); got != "hello from a Linux program\n" {
		t.Errorf("it answers %q", got)
	}
}

func get(t *testing.T, port int) string {
	t.Helper()
	answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close() //nolint:errcheck // only read
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Error(err)
	}
	return string(body)
}
