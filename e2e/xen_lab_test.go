package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/xenlab"
)

// TestXen deploys to a real Xen host. Its parts run one after the other, and each
// leaves the host as before.
func TestXen(t *testing.T) {
	t.Parallel()
	x := newXen(t)
	x.part("boots in every way", x.boots)
	x.part("console and crash", x.console)
	x.part("disks and devices", x.disks)
	x.part("two at once, four at once", x.crowd)
	x.part("killed in every stage", x.killed)
	x.part("failed and cancelled", x.undone)
	x.part("bad input", x.refuses)
	x.part("a pool of XenServer", x.pools)
	x.part("the host reboots", x.reboots)
}

// onXen is a lab whose worker deploys to a Xen host.
type onXen struct {
	*lab
	host   *xenlab.Lab
	socket string // of an ssh that our own commands on the host share
	kernel []byte
}

func newXen(t *testing.T) *onXen {
	t.Helper()
	need.Lab(t, xenlab.Missing(t.Context()))
	l := newLab(t)
	host, err := xenlab.Start(t.Context(), filepath.Join(l.folder, "xen"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	})
	run := filepath.Join(l.folder, "run") // for the worker's ssh
	if err := os.Mkdir(run, 0o700); err != nil {
		t.Fatal(err)
	}
	l.restartWorker([]string{"MORGANA_SSH_CONFIG=" + host.Config, "XDG_RUNTIME_DIR=" + run}, "--builds", "4")
	x := &onXen{lab: l, host: host, socket: filepath.Join(run, "test"), kernel: l.kernel()}
	x.dom0(`mkdir /run/hold`)
	return x
}

// part is a subtest that leaves the host as it was.
func (x *onXen) part(name string, test func()) {
	outer := x.t
	outer.Run(name, func(t *testing.T) {
		x.t = t
		defer func() { x.t = outer }()
		began, before := time.Now(), x.there()
		defer func() {
			if t.Failed() {
				said, err := x.try(context.Background(), `cd /var/log/xen && tail -n 20 $(ls -t xl-* qemu-dm-* | head -n 6); xl dmesg | tail -n 40; dmesg | tail -n 20`)
				t.Logf("the host's logs: %s%v", said, err)
			}
		}()
		test()
		x.asBefore(before)
		t.Logf("%.0f s", time.Since(began).Seconds())
	})
}

// try runs a script on the host.
func (x *onXen) try(ctx context.Context, script string) (out string, err error) {
	cmd := exec.CommandContext(ctx, "ssh", "-F", x.host.Config, "-o", "ControlMaster=auto", "-o", "ControlPath="+x.socket,
		"-o", "ControlPersist=300", xenlab.Alias, "sh", "-s")
	cmd.Env = x.env // by which the lab's clean-up finds the ssh in the background
	var text, errText strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(script), &text, &errText
	cmd.WaitDelay = time.Second // the one in the background keeps stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState.ExitCode() != 0 {
		return text.String(), fmt.Errorf("%w: %s%s", err, text.String(), errText.String())
	}
	return text.String(), nil
}

// dom0 runs a script on the host, which must succeed.
func (x *onXen) dom0(script string) string {
	x.t.Helper()
	out, err := x.try(x.t.Context(), script)
	if err != nil {
		x.t.Fatalf("%s\n%v", script, err)
	}
	return out
}

// there lists the domains of the host, their nodes in xenstore, network devices,
// files, disks and processes.
func (x *onXen) there() []string {
	x.t.Helper()
	out := x.dom0(`
for d in $(xenstore-list /local/domain); do echo "domain $(xenstore-read /local/domain/$d/name || echo $d)"; done 2>/dev/null
xl list -v | awk 'NR > 1 { print "xl " $1 }'
for d in $(xenstore-list /libxl); do echo "libxl $d"; done 2>/dev/null
ls /sys/class/net | sed 's/^/net /'
find /var/lib/morgana -mindepth 1 | sed 's/^/file /'
losetup -a | sed 's/^/disk /'
ps -eo args | grep -E '[/]var/lib/morgana|[d]d bs=64k count=|[q]emu-system|[x]l (create|console)|[c]onsole xl ' | sed 's/^/process /'
exit 0`)
	all := strings.Split(strings.TrimSpace(out), "\n")
	slices.Sort(all)
	return all
}

// asBefore fails the test unless the host and the worker's folders are as before.
// It waits for processes that end by themselves.
func (x *onXen) asBefore(before []string) {
	x.t.Helper()
	var now []string
	for end := time.Now().Add(waits); ; time.Sleep(300 * time.Millisecond) {
		if now = x.there(); slices.Equal(now, before) || time.Now().After(end) {
			break
		}
	}
	for _, what := range now {
		if !slices.Contains(before, what) {
			x.t.Errorf("left on the host: %s", what)
		}
	}
	for _, what := range before {
		if !slices.Contains(now, what) {
			x.t.Errorf("gone from the host: %s", what)
		}
	}
	for _, path := range x.outside() {
		if path != "xen" {
			x.t.Errorf("left behind: %s", path)
		}
	}
}

// domains lists the names of the host's domains but dom0, sorted. A name that two
// domains have is listed twice.
func (x *onXen) domains() (names []string) {
	x.t.Helper()
	for _, what := range x.there() {
		if name, ok := strings.CutPrefix(what, "domain "); ok && name != "Domain-0" {
			names = append(names, name)
		}
	}
	return names
}

// one fails the test unless each app has one domain and one folder, and the host
// has the images of all domains, once and whole.
func (x *onXen) one(apps ...string) {
	x.t.Helper()
	names, folders := x.domains(), strings.Fields(x.dom0("ls /var/lib/morgana/domains"))
	images := x.dom0("cd /var/lib/morgana && ls -A | grep -v '^domains$' | sort; echo =; cat domains/*/digest | sort -u")
	if are, want, _ := strings.Cut(images, "=\n"); are != want {
		x.t.Errorf("images:\n%swant:\n%s", are, want)
	}
	for _, app := range apps {
		of := func(all []string) []string {
			return slices.DeleteFunc(slices.Clone(all), func(name string) bool { return !strings.HasPrefix(name, app+".") })
		}
		found := of(names)
		if len(found) != 1 {
			x.t.Errorf("domains of %s: %q, want one", app, found)
		}
		if got := of(folders); !slices.Equal(got, found) {
			x.t.Errorf("folders of %s: %q, domains %q", app, got, found)
		}
	}
}

// on is a project with a ready-made kernel, the app's own, and targets.
func (x *onXen) on(app, targets string) (folder string) {
	x.t.Helper()
	folder = x.project("app: " + app + "\ntoolchain: {kind: prebuilt, kernel: kernel}\ntargets:\n" + targets)
	// What follows an ELF file's end is not loaded.
	x.write(filepath.Join(folder, "kernel"), string(x.kernel)+app)
	return folder
}

// xenDev is a target dev with options.
func xenDev(options string) string {
	return "  dev: {kind: xen, host: 'ssh://xenlab', memory: 32, timeout: 10m, " + options + "}\n"
}

// over waits for a command's end, with the patience that an emulated host needs.
func (x *onXen) over(r *running) result {
	x.t.Helper()
	select {
	case <-r.done: //nolint:errcheck // how it ended is in ProcessState
	case <-time.After(20 * time.Minute):
		x.t.Fatalf("%v has not ended:\n%s%s", r.cmd.Args[1:], r.out, r.errOut)
	}
	return result{r.cmd.ProcessState.ExitCode(), r.out.String(), r.errOut.String()}
}

// done waits for commands that must succeed.
func (x *onXen) done(all ...*running) {
	x.t.Helper()
	for _, d := range all {
		if r := x.over(d); r.code != 0 {
			x.t.Fatalf("%v ended with %d:\n%s%s", d.cmd.Args[1:], r.code, r.out, r.errOut)
		}
	}
}

// signal sends a process of ours a signal.
func (x *onXen) signal(pid string, sig syscall.Signal) {
	x.t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil {
		x.t.Fatal(err)
	}
	if err := syscall.Kill(n, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		x.t.Fatal(err)
	}
}
