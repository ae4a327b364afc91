package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// console follows a console from its start, and sees domains end.
func (x *onXen) console() {
	talker := x.on("talker", xenDev("args: stay, expect: staying"))
	ends := x.on("ends", xenDev("type: pv, args: quick, expect: 'shutting down'"))
	crashes := x.on("crashes", xenDev("args: crash, expect: crashing"))
	kept := x.on("kept", xenDev("args: crash, expect: crashing, on_crash: preserve"))
	early := x.on("early", xenDev("args: crash, expect: never said"))
	failing := x.begin(early, "deploy")
	x.done(x.begin(talker, "deploy"), x.begin(ends, "deploy"), x.begin(crashes, "deploy"), x.begin(kept, "deploy"))

	follow := x.begin(talker, "console", "--follow")
	x.eventually("the console is shown", func() bool { return strings.Contains(follow.out.String(), "staying") })
	ended := x.begin(ends, "console", "--follow")

	if r := x.over(failing); r.code != 1 || !strings.Contains(r.errOut, "crashing") ||
		!strings.Contains(r.errOut, `its console did not match "never said"`) || strings.Contains(r.errOut, "within") {
		x.t.Errorf("a crash: exit status %d\n%s%s", r.code, r.out, r.errOut)
	}
	if names := strings.Join(x.domains(), " "); strings.Count(names, ".") != 4 || !strings.Contains(names, "talker.") || !strings.Contains(names, "kept.") {
		x.t.Errorf("domains %q, want talker and the one that is kept for its crash", names)
	}
	if state := x.dom0("xl list | grep kept"); !strings.Contains(state, "c-") {
		x.t.Errorf("kept is not crashed: %s", state)
	}
	status := x.morgana(talker, "status")
	for _, app := range []string{"ends", "crashes"} {
		if line := lineWith(status.out, app+" "); !strings.Contains(line, " ended ") && !strings.Contains(line, " gone ") {
			x.t.Errorf("%s has not ended:\n%s", app, status.out)
		}
	}
	// A machine that has ended is deployed again.
	if r := x.over(x.begin(ends, "deploy")); r.code != 0 || !strings.Contains(r.out, "ends/dev generation 2") {
		x.t.Errorf("exit status %d\n%s%s", r.code, r.out, r.errOut)
	}

	x.dom0(`xl destroy "$(cd /var/lib/morgana/domains && ls -d talker.*)"`)
	x.eventually("status says that the domain is gone", func() bool {
		line := lineWith(x.morgana(talker, "status").out, "talker ")
		return strings.Contains(line, " gone ") || strings.Contains(line, " ended ")
	})
	x.done(ended, follow)
	for what, r := range map[string]*running{"shutting down": ended, "staying": follow} {
		if text := strings.ReplaceAll(r.out.String(), "\r", ""); strings.Count(text, "hello from a unikernel\n") != 1 || !strings.Contains(text, what+"\n") || r.errOut.String() != "" {
			x.t.Errorf("followed to %q:\n%s%s", what, r.out, r.errOut)
		}
	}
	x.sweeps("kept")
	x.done(x.begin(talker, "destroy"), x.begin(crashes, "destroy"), x.begin(ends, "destroy"))
}

func lineWith(text, what string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, what) {
			return line
		}
	}
	return ""
}

// crowd deploys one app twice at once, and then four apps at once.
func (x *onXen) crowd() {
	counted := x.count()
	options := "args: stay, expect: staying, keep: 1, vif: [{}]"
	folder := x.on("twice", xenDev(options))
	x.done(x.begin(folder, "deploy"), x.begin(folder, "deploy"))
	x.one("twice")
	if most := counted(); most != 1 {
		x.t.Errorf("%d domains of one app at once", most)
	}
	if r := x.over(x.begin(folder, "deploy")); !strings.Contains(r.out, "unchanged, generation 1 is kept") {
		x.t.Errorf("deployed anew:\n%s%s", r.out, r.errOut)
	}
	x.done(x.begin(folder, "deploy", "--set", "dev.memory=40"))
	x.one("twice")
	x.done(x.begin(folder, "destroy"))

	// One kernel and one image for all: it is sent by four at once.
	folder = x.on("any", xenDev(options))
	each := func(verb string) {
		var all []*running
		for i := range 4 {
			all = append(all, x.begin(folder, verb, "--app", fmt.Sprintf("app-%d", i)))
		}
		x.done(all...)
	}
	each("deploy")
	var apps []string
	nets := map[string]int{}
	for i := range 4 {
		app := fmt.Sprintf("app-%d", i)
		apps, nets[app+"."] = append(apps, app), 1
	}
	x.one(apps...)
	x.nets(nets)
	each("destroy")
}

// count counts the domains of apps, again and again. The returned function ends
// that and gives the largest number.
func (x *onXen) count() func() int {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	x.t.Cleanup(cancel)
	x.dom0("rm -f /run/stop; mkdir -p /run/counts")
	most := make(chan string, 1)
	go func() {
		out, err := x.try(ctx, `most=0
until [ -e /run/stop ]; do
	ids=$(xenstore-list /local/domain | wc -l)
	[ $((ids - 1)) -le $most ] || most=$((ids - 1))
	sleep 0.1
done
echo $most`)
		if err != nil {
			out = err.Error()
		}
		most <- out
	}()
	return func() int {
		x.t.Helper()
		x.dom0("touch /run/stop")
		var n int
		text := <-most
		if _, err := fmt.Sscan(text, &n); err != nil {
			x.t.Errorf("counted %q", text)
		}
		return n
	}
}
