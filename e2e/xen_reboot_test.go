package e2e

import (
	"os/exec"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/xenlab"
)

// reboots resets the host. The domain that is to be restarted runs again, and its console
// begins anew; the other one has ended with its host.
func (x *onXen) reboots() {
	c := x.client()
	kept := x.on("kept-up", xenDev("args: stay, expect: staying, restart: always"))
	left := x.on("left-down", xenDev("args: stay, expect: staying"))
	x.done(x.begin(kept, "deploy"), x.begin(left, "deploy"))

	x.dom0("sync")
	_ = exec.Command("ssh", "-F", x.host.Config, "-o", "ControlPath="+x.socket, "-O", "exit", xenlab.Alias).Run() // the host forgets the connection
	began := time.Now()
	if err := x.host.Reboot(x.t.Context()); err != nil {
		x.t.Fatal(err)
	}
	up := time.Since(began)
	x.eventually("the domain is restarted", func() bool { return x.deployment(c, "kept-up").Restarts == 1 })
	x.t.Logf("the host is up after %s, the domain after %s", up.Round(time.Second), time.Since(began).Round(time.Second))

	if how := x.deployment(c, "kept-up").Watch.Ended.How; how != "ended with its host" {
		x.t.Errorf("the restart is because the domain %q", how)
	}
	if r := x.morgana(kept, "console"); strings.Count(r.out, "hello from a unikernel") != 1 || !strings.Contains(r.out, "staying") {
		x.t.Errorf("console:\n%s%s", r.out, r.errOut)
	}
	x.one("kept-up")
	if names := x.domains(); len(names) != 1 {
		x.t.Errorf("domains %q", names)
	}
	x.eventually("status says that one is up and one has ended", func() bool {
		status := x.morgana(kept, "status").out
		return strings.Contains(lineWith(status, "kept-up "), " up ") && strings.Contains(lineWith(status, "left-down "), " ended ")
	})
	x.done(x.begin(kept, "destroy"), x.begin(left, "destroy"))
}
