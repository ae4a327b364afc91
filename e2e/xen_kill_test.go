package e2e

import (
	"bytes"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// heldXL installs a wrapper of xl that waits as long as /run/hold/VERB.APP exists.
// VERB is xl's subcommand, APP an app or "any".
const heldXL = `mkdir -p /run/hold /run/held /usr/local/sbin
cat >/usr/local/sbin/xl <<'END'
#!/bin/sh
for f in /run/hold/*; do
	name=${f##*/}
	app=${name#*.}
	[ "$1" = "${name%%.*}" ] || continue
	case "$app $*" in any\ *|*[\ /]"$app".*) ;; *) continue ;; esac
	touch "/run/held/$name"
	while [ -e "$f" ]; do sleep 0.2; done
done
exec /usr/sbin/xl "$@"
END
chmod +x /usr/local/sbin/xl`

// hold makes subcommands of xl wait, as "create.myapp", until letGo.
func (x *onXen) hold(names ...string) (letGo func()) {
	x.t.Helper()
	x.dom0(heldXL)
	for _, name := range names {
		x.dom0("touch /run/hold/" + name)
	}
	letGo = func() {
		x.t.Helper()
		x.dom0("rm -f /run/hold/" + strings.Join(names, " /run/hold/") + " && rm -f /run/held/*")
	}
	x.t.Cleanup(letGo)
	return letGo
}

// isHeld waits until these subcommands of xl have begun to wait.
func (x *onXen) isHeld(names ...string) {
	x.t.Helper()
	x.await("test -e /run/held/" + strings.Join(names, " && test -e /run/held/"))
}

// await waits on the host until a command succeeds.
func (x *onXen) await(command string) {
	x.t.Helper()
	x.dom0("n=0\nuntil " + command + "; do\n\tn=$((n + 1))\n\t[ $n -lt 3000 ] || exit 1\n\tsleep 0.2\ndone")
}

// large is a project whose kernel takes seconds to send.
func (x *onXen) large(app, options string) (folder string) {
	x.t.Helper()
	folder = x.on(app, xenDev(options))
	f, err := os.OpenFile(filepath.Join(folder, "kernel"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		x.t.Fatal(err)
	}
	if _, err := f.Write(bytes.Repeat([]byte(app), 30<<20/len(app))); err != nil {
		x.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		x.t.Fatal(err)
	}
	return folder
}

// midway waits for the middle of a transfer and stops the receiver there. It gives
// the inode of the file, and a function that continues the receiver.
func (x *onXen) midway() (inode string, goOn func()) {
	x.t.Helper()
	x.await(`test -n "$(find /var/lib/morgana/.*.part -size +2M 2>/dev/null)"`)
	out := strings.Fields(x.dom0(`set -e
for p in $(pgrep -x sh); do
	case $(readlink /proc/$p/cwd) in /var/lib/morgana/.*.part) kill -STOP $p; pid=$p ;; esac
done
cd /proc/$pid/cwd && echo $pid $(stat -c '%i %s' kernel)`))
	if len(out) != 3 {
		x.t.Fatalf("no transfer is stopped: %q", out)
	}
	if size, err := strconv.Atoi(out[2]); err != nil || size > 30<<20 {
		x.t.Fatalf("the transfer is not in its middle: %q", out)
	}
	return out[1], func() { x.t.Helper(); x.dom0("kill -CONT " + out[0]) }
}

// sameFile fails the test unless an app's kernel on the host has the inode of the
// transfer that was stopped.
func (x *onXen) sameFile(app, inode string) {
	x.t.Helper()
	out := x.dom0("cd /var/lib/morgana && stat -c '%i %s' $(cat domains/" + app + ".*/digest)/kernel")
	if got := strings.Fields(out); len(got) != 2 || got[0] != inode || len(got[1]) != 8 {
		x.t.Errorf("%s: inode and size %q, want inode %s: it was sent anew", app, got, inode)
	}
}

// killed kills the worker while there is an app in each stage. Then it kills ssh
// during a transfer and during xl create.
func (x *onXen) killed() {
	const options = "args: stay, expect: staying"
	store := x.withBucket("secret", "--builds", "4")
	// The bucket ends with this part. Later parts use the folder again.
	defer x.restartWorker([]string{"MORGANA_STORE=file://" + x.state("store")}, "--builds", "4")
	c := x.client()
	built := x.source("k-build", x.once()+"make\n", "")
	x.write(filepath.Join(built, "morgana.yaml"), "app: k-build\ntoolchain: {kind: command, build: [[sh, ./build.sh]], kernel: hello}\ntargets:\n"+xenDev(options))
	configured := x.source("k-configure", x.once()+"make\n", "")
	x.write(filepath.Join(configured, "morgana.yaml"), "app: k-configure\ntoolchain: {kind: command, configure: [[sh, ./build.sh]], build: [[make]], kernel: hello}\ntargets:\n"+xenDev(options))
	packaged := x.on("k-package", xenDev("args: stay packaged-here, expect: staying"))
	inPackage := store.hold(func(r *http.Request, body []byte) bool {
		return r.Method == http.MethodPut && bytes.HasPrefix(body, []byte("{")) && bytes.Contains(body, []byte("packaged-here"))
	})
	registered := x.large("k-register", options)
	created := x.on("k-create", xenDev(options))
	unpaused := x.on("k-unpause", xenDev(options))
	checked := x.on("k-check", xenDev(options))
	destroyed := x.on("k-destroy", xenDev(options))
	x.done(x.begin(destroyed, "deploy"))

	letGo := x.hold("create.k-create", "unpause.k-unpause", "destroy.any", "info.k-check")
	deploys := map[string]*running{}
	for app, folder := range map[string]string{"k-configure": configured, "k-build": built, "k-package": packaged, "k-unpause": unpaused} {
		deploys[app] = x.begin(folder, "deploy")
	}
	x.kept(inPackage, "package")
	x.eventually("a build runs", func() bool { return x.runs("sleep 1000") })
	// Domains are made one at a time.
	x.isHeld("unpause.k-unpause")
	destroy := x.begin(destroyed, "destroy")
	x.isHeld("destroy.any")
	deploys["k-register"] = x.begin(registered, "deploy")
	inode, goOn := x.midway()
	deploys["k-create"] = x.begin(created, "deploy")
	x.started(c, rollout("k-create", 1), "xen.Boot")
	x.dom0("mv /run/hold/info.k-check /run/hold/info.any")
	deploys["k-check"] = x.begin(checked, "deploy")
	x.isHeld("info.any")
	activities := map[string]string{"k-check": "xen.Check", "k-configure": "command.Configure", "k-build": "command.Build", "k-package": "xen.Package",
		"k-register": "xen.Register", "k-create": "xen.Boot", "k-unpause": "xen.Boot"}
	for app, activity := range activities {
		x.started(c, rollout(app, 1), activity)
	}

	x.kill(x.worker)
	x.startWorker("--builds", "4")
	x.dom0("rm /run/hold/info.any")
	letGo()
	goOn()
	x.done(destroy)
	for app, activity := range activities {
		x.done(deploys[app])
		if n := x.attempts(c, rollout(app, 1), activity); n < 2 {
			x.t.Errorf("%s of %s was started %d times, want 2", activity, app, n)
		}
	}
	x.one(slices.Collect(maps.Keys(activities))...)
	x.sameFile("k-register", inode)
	store.whole(x.lab)

	x.killedSSH()
	var destroys []*running
	for _, folder := range []string{configured, built, packaged, registered, created, unpaused, checked} {
		destroys = append(destroys, x.begin(folder, "destroy"))
	}
	x.done(destroys...)
}

// killedSSH kills every ssh of the worker during a transfer and during xl create.
// Then it kills xl between create and unpause.
func (x *onXen) killedSSH() {
	x.t.Helper()
	c := x.client()
	folder := x.large("cut", "args: stay, expect: staying, vif: [{}]")
	letGo := x.hold("create.cut", "unpause.cut")
	deploy := x.begin(folder, "deploy")
	inode, goOn := x.midway()
	x.killSSH()
	goOn()
	x.isHeld("create.cut")
	x.killSSH()
	x.dom0("rm /run/hold/create.cut")
	x.isHeld("unpause.cut")
	half := x.dom0(`xl domid $(cd /var/lib/morgana/domains && ls -d cut.*)`)
	// The next call waits for the lock of the first, which was cut off.
	x.dom0(`name=$(cd /var/lib/morgana/domains && ls -d cut.*)
for verb in create unpause; do
	for f in $(grep -lzxF "$name" /proc/[0-9]*/cmdline); do
		! grep -qzxF $verb "$f" || { p=${f#/proc/}; kill -9 ${p%/cmdline}; }
	done
done`)
	letGo()
	x.done(deploy)
	x.one("cut")
	x.sameFile("cut", inode)
	x.nets(map[string]int{"cut.": 1})
	if now := x.dom0(`xl domid $(cd /var/lib/morgana/domains && ls -d cut.*)`); now == half {
		x.t.Errorf("domain %s is the one whose making was cut off", now)
	}
	if n := x.attempts(c, rollout("cut", 1), "xen.Register"); n < 2 {
		x.t.Errorf("register was started %d times", n)
	}
	if n := x.attempts(c, rollout("cut", 1), "xen.Boot"); n < 2 {
		x.t.Errorf("boot was started %d times", n)
	}
	x.done(x.begin(folder, "destroy"))
}

// killSSH is kill -9 of every ssh that the worker has started.
func (x *onXen) killSSH() {
	x.t.Helper()
	n := 0
	for _, p := range x.processes() {
		pid, line, _ := strings.Cut(p, " ")
		if strings.HasPrefix(line, "ssh -T ") {
			n++
			x.signal(pid, syscall.SIGKILL)
		}
	}
	if n == 0 {
		x.t.Fatal("the worker runs no ssh")
	}
}
