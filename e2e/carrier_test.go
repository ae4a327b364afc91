package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/carrier/carriertest"
	"github.com/morgana-deploy/morgana/need"
)

// A Linux program is deployed in a carrier and reached by TCP. A second deploy sends nothing
// and leaves the machine alone, and destroy leaves nothing.
func TestCarrier(t *testing.T) {
	need.Tools(t, binary("morgana-carrier"))
	parts := carriertest.Make(t)
	l := newLab(t)
	port := need.Port(t)
	folder := l.project(fmt.Sprintf(`app: carried
toolchain: {kind: prebuilt, kernel: web}
targets: {dev: {kind: qemu, carrier: linux, linux: %s, accel: tcg, ports: ["%d:80"], expect: listening, timeout: 5m}}
`, parts.Linux, port))
	program, err := os.ReadFile(parts.Web)
	if err != nil {
		t.Fatal(err)
	}
	l.write(folder+"/web", string(program))
	l.deployed(folder)
	answer, err := (&http.Client{Timeout: time.Minute}).Get(fmt.Sprintf("http://127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	if _ = answer.Body.Close(); err != nil || string(body) != "hello from a Linux program\n" {
		t.Errorf("it answers %q, %v", body, err)
	}
	machines, artifacts := fmt.Sprint(l.machines()), len(l.artifacts())
	if r := l.deployed(folder); !strings.Contains(r.out, "unchanged") {
		t.Errorf("the second deploy says\n%s", r.out)
	}
	if now := fmt.Sprint(l.machines()); now != machines || len(l.artifacts()) != artifacts {
		t.Errorf("after an unchanged deploy there are machines %s and %d artifacts, before %s and %d", now, len(l.artifacts()), machines, artifacts)
	}
	if r := l.morgana(folder, "destroy"); r.code != 0 {
		t.Errorf("destroy: %s%s", r.out, r.errOut)
	}
	l.clean()
}
