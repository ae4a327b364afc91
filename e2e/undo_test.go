package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/morgana-deploy/morgana/need"
)

// A first deploy that fails in any stage reports the cause and leaves nothing.
func TestFailuresLeaveNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	kernel := l.kernel()
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }() // nothing was sent
	port := taken.Addr().(*net.TCPAddr).Port
	prebuilt := func(app, options string) string {
		folder, _ := l.built(kernel, app, options)
		return folder
	}
	withConfigure := func(app, command string) string {
		folder := l.hello()
		l.write(filepath.Join(folder, "morgana.yaml"), "app: "+app+"\ntoolchain: {kind: command, configure: [["+command+
			"]], build: [[make]], kernel: hello}\ntargets: {dev: {kind: qemu}}\n")
		return folder
	}
	for _, k := range []struct {
		stage, folder string
		code          int
		says          []string
	}{
		{"check", prebuilt("taken", fmt.Sprintf(`ports: ["127.0.0.1:%d:80"]`, port)), 2,
			[]string{"is taken by another program", "choose another host port"}},
		{"configure", withConfigure("unconfigured", "sh, -c, 'echo no compiler; exit 3'"), 1,
			[]string{"configure: sh -c", "exit status 3", "no compiler", "whole log: file://"}},
		{"build", l.source("unbuilt", "sleep 1000 & echo it breaks; exit 4\n", stays), 1,
			[]string{"build: sh ./build.sh: exit status 4", "it breaks"}},
		{"build", l.source("nothing-built", "true\n", stays), 1, []string{"hello", "whole log: file://"}},
		{"build", l.source("no-kernel", "echo text > hello\n", stays), 1, []string{"hello"}},
		{"package", l.source("for-xen", "sed -i '/PHYS32_ENTRY, start_32/d' headers.S\nmake\n", stays), 2,
			[]string{"qemu cannot boot a Xen PV kernel", "kind xen"}},
		{"boot", prebuilt("silent", `args: stay, expect: never said, timeout: 15s`), 1,
			[]string{`its console did not match "never said" within 15s`, "hello from a unikernel"}},
		{"boot", prebuilt("ends", `expect: never said`), 1,
			[]string{`the machine ended and its console did not match "never said"`, "shutting down"}},
		{"boot", prebuilt("crashes", `args: crash, expect: never said`), 1, []string{"crashing"}},
		{"check", prebuilt("bad-cpu", `cpu: pentium9, accel: tcg`), 2, []string{"pentium9"}},
	} {
		r := l.morgana(k.folder, "deploy")
		if r.code != k.code {
			t.Errorf("%s: exit status %d, want %d\n%s%s", k.stage, r.code, k.code, r.out, r.errOut)
		}
		for _, want := range k.says {
			if !strings.Contains(r.errOut, want) {
				t.Errorf("%s: %q is not in:\n%s", k.stage, want, r.errOut)
			}
		}
		if strings.Count(r.errOut, "error:") != 1 {
			t.Errorf("%s: not one error:\n%s", k.stage, r.errOut)
		}
		if !strings.Contains(r.out, k.stage+" ") || !strings.Contains(strings.ReplaceAll(r.out, " ", ""), k.stage+"failed") {
			t.Errorf("it is not %s that failed:\n%s", k.stage, r.out)
		}
		l.gone()
	}
	l.nothing("bad-cpu") // the last: its deployment ends soon after its rollout
	if s := l.morgana(t.TempDir(), "status"); s.out != "" {
		t.Errorf("deployments run:\n%s", s.out)
	}
}

// A disk that is full while a source is stored, a kernel built, or packaged, is
// told by its folder.
func TestFullDiskLeavesNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.kill(l.worker)
	if err := os.RemoveAll(l.state()); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(l.state(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", l.state(), "tmpfs", 0, "size=6m,mode=700"); err != nil {
		need.Nil(t, fmt.Errorf("mount a small file system: %w", err))
	}
	t.Cleanup(func() {
		l.kill(l.worker)
		if err := syscall.Unmount(l.state(), syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	l.restartWorker([]string{"MORGANA_STORE=file://" + t.TempDir()}, "--state", l.state())
	large := l.source("large", "make\n", stays)
	l.write(filepath.Join(large, "large"), strings.Repeat("x", 8_000_000))
	here := l.in(t, "MORGANA_STORE=file://"+l.state("store"))
	refusal{code: 2, line: "put an artifact into file://" + l.state("store") + ": no space left on device", hint: l.state()}.
		matches(t, here.morgana(large, "deploy"))
	for _, k := range []struct{ stage, folder, says, full string }{
		{"build", l.source("big-build", "make\nhead -c 20000000 /dev/zero > more\n", stays), "the disk is full", l.state("command")},
		// The disk has space for the kernel once: in the tree, and not in the machine's folder.
		{"package", l.source("big-kernel", "make\nhead -c 4000000 /dev/zero >> hello\n", stays), "no space left on device", l.state("qemu")},
	} {
		r := l.morgana(k.folder, "deploy")
		if r.code != 2 || strings.Count(r.errOut, "error:") != 1 {
			t.Errorf("%s: exit status %d\n%s%s", k.stage, r.code, r.out, r.errOut)
		}
		if first, _, _ := strings.Cut(r.errOut, "\n"); !strings.HasSuffix(first, k.says) || !strings.Contains(r.errOut, k.full) {
			t.Errorf("%s: %q at the first line's end or %s is missing:\n%s", k.stage, k.says, k.full, r.errOut)
		}
		if !strings.Contains(strings.ReplaceAll(r.out, " ", ""), k.stage+"failed") {
			t.Errorf("it is not %s that failed:\n%s", k.stage, r.out)
		}
		l.gone()
	}
}

// Each stage is cancelled twice while it runs: by cancelling the rollout, and
// by morgana destroy.
func TestCancellingLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"cancel", "destroy"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			store := l.withBucket("secret", "--builds", "8")
			c := l.client()
			kernel := l.kernel()
			slow, letGo := l.slowQEMU("-machine")
			defer letGo()
			booting, letBoot := l.slowQEMU("-pidfile")
			mark := filepath.Join(t.TempDir(), "stubborn")

			stubborn := l.source("in-build", // takes a second to end
				"trap 'sleep 1; test -e Makefile && echo ended > "+mark+"; exit 1' TERM\nsleep 1000 & wait\nwait\n", stays)
			configured := l.hello()
			l.write(filepath.Join(configured, "morgana.yaml"), "app: in-configure\ntoolchain: {kind: command, configure: "+
				"[[sleep, '2000']], build: [[make]], kernel: hello}\ntargets: {dev: {kind: qemu}}\n")
			checked, _ := l.built(kernel, "in-check", "accel: tcg, qemu: "+slow)
			packaged, _ := l.built(kernel, "in-package", "args: stay packaged-here")
			registered, bytes := l.built(kernel, "in-register", "args: stay registered-here")
			booted, _ := l.built(kernel, "in-boot", "args: stay, expect: never said, timeout: 10m")
			started, _ := l.built(kernel, "in-start", "args: stay, expect: never said, accel: tcg, qemu: "+booting)
			inPackage := store.holdPackage("packaged-here")
			inRegister := store.holdRegister("registered-here", bytes)

			cases := []struct{ app, folder, activity string }{
				{"in-check", checked, "qemu.Check"},
				{"in-configure", configured, "command.Configure"},
				{"in-build", stubborn, "command.Build"},
				{"in-package", packaged, "qemu.Package"},
				{"in-register", registered, "qemu.Register"},
				{"in-start", started, "qemu.Boot"},
				{"in-boot", booted, "qemu.Boot"},
			}
			deploys := map[string]*running{}
			for _, k := range cases {
				deploys[k.app] = l.begin(k.folder, "deploy")
			}
			l.kept(inPackage, "package")
			l.kept(inRegister, "register")
			for _, what := range []string{"sleep 1000", "sleep 2000", slow, booting, "in-boot."} {
				l.eventually(what+" runs", func() bool { return l.runs(what) })
			}
			for _, k := range cases {
				l.started(c, rollout(k.app, 1), k.activity)
			}

			var destroys []*running
			for _, k := range cases {
				if how == "destroy" {
					destroys = append(destroys, l.begin(k.folder, "destroy"))
				} else if err := c.CancelWorkflow(t.Context(), rollout(k.app, 1), ""); err != nil {
					t.Fatal(err)
				}
			}
			letBoot() // a QEMU that has started quits when its monitor answers
			for _, k := range cases {
				r := l.ends(deploys[k.app], 1)
				if !strings.Contains(r.errOut, "cancelled") || strings.Contains(r.errOut, "left:") {
					t.Errorf("%s:\n%s%s", k.app, r.out, r.errOut)
				}
			}
			for _, d := range destroys {
				l.ends(d, 0)
			}
			if _, err := os.Stat(mark); err != nil {
				t.Errorf("the build was not given the time to end, or its tree was taken away meanwhile: %v", err)
			}
			l.eventually("no deployment runs", func() bool { return l.morgana(t.TempDir(), "status").out == "" })
			l.gone()
			store.whole(l)
		})
	}
}

// A later generation that fails leaves the machine as it was, with its ports.
func TestTheMachineBeforeSurvivesAFailure(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	port := need.Port(t)
	folder, _ := l.built(l.kernel(), "lives-on", stays+fmt.Sprintf(`, ports: ["127.0.0.1:%d:80"]`, port))
	l.deployed(folder)
	pid := l.one("lives-on")
	for _, bad := range []struct {
		option string
		code   int
	}{{"dev.expect=never said", 1}, {"dev.cpu=pentium9", 2}} {
		r := l.morgana(folder, "deploy", "--set", bad.option, "--set", "dev.timeout=2s", "--set", "dev.accel=tcg")
		if r.code != bad.code {
			t.Errorf("exit status %d\n%s%s", r.code, r.out, r.errOut)
		}
		if now := l.one("lives-on"); now != pid {
			t.Errorf("process %d runs, it was %d", now, pid)
		}
		if holder := listener(port); holder != pid {
			t.Errorf("process %d listens on the port, want %d", holder, pid)
		}
		if text := l.morgana(folder, "console"); !strings.Contains(text.out, "hello from a unikernel") {
			t.Errorf("console %+v", text)
		}
		if s := l.morgana(folder, "status"); !strings.Contains(s.out, "up, last deploy failed") {
			t.Errorf("status:\n%s", s.out)
		}
	}
	l.ends(l.begin(folder, "destroy"), 0)
	l.gone()
}

// A new generation takes over the host port of the one before.
func TestPortsMoveToTheNewGeneration(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	port := need.Port(t)
	folder, _ := l.built(l.kernel(), "moves", stays+fmt.Sprintf(`, keep: 1, ports: ["127.0.0.1:%d:80"]`, port))
	l.deployed(folder)
	before := l.one("moves")
	if holder := listener(port); holder != before {
		t.Fatalf("process %d listens on the port, want %d", holder, before)
	}
	l.deployed(folder, "--set", "dev.memory=72")
	after := l.one("moves")
	if holder := listener(port); after == before || holder != after {
		t.Errorf("machine %d then %d, process %d listens on the port", before, after, holder)
	}
	l.ends(l.begin(folder, "destroy"), 0)
	if holder := listener(port); holder != 0 {
		t.Errorf("process %d still listens", holder)
	}
	l.gone()
}

// --keep leaves the pieces of a failed deploy and names them; destroy finds them.
func TestKeepLeavesThePieces(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	folder := l.source("kept", "make\n", "args: stay, expect: never said, timeout: 2s")
	r := l.morgana(folder, "deploy", "--keep")
	if r.code != 1 || strings.Count(r.errOut, "left: ") != 2 {
		t.Errorf("exit status %d, want the tree and the machine as left:\n%s", r.code, r.errOut)
	}
	l.one("kept")
	if trees, _ := filepath.Glob(l.state("command", "kept.dev.*")); len(trees) != 1 {
		t.Errorf("build trees %q", trees)
	}
	l.ends(l.begin(folder, "destroy"), 0)
	l.gone()
}

// Several targets are built once and deployed to each.
func TestSeveralTargets(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	built := filepath.Join(t.TempDir(), "built")
	folder := l.source("several", "echo built >> "+built+"\nsleep 1\nmake\n", stays)
	l.write(filepath.Join(folder, "morgana.yaml"), "app: several\ntoolchain: {kind: command, build: [[sh, ./build.sh]], kernel: hello}\n"+
		"targets:\n  one: {kind: qemu, memory: 64, "+stays+"}\n  two: {kind: qemu, memory: 72, "+stays+"}\n")
	l.deployed(folder, "--target", "one", "--target", "two")
	if times, _ := os.ReadFile(built); string(times) != "built\n" {
		t.Errorf("built %d times", strings.Count(string(times), "\n"))
	}
	if n, r := len(l.machines()), l.registrations(); n != 2 || len(r) != 2 {
		t.Errorf("%d machines, registrations %q", n, r)
	}
	l.ends(l.begin(folder, "destroy"), 0)
	l.gone()
}

// Ten apps at once.
func TestTenAppsAtOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	folder, _ := l.built(l.kernel(), "any", stays)
	each := func(verb string) {
		var all []*running
		for i := range 10 {
			all = append(all, l.begin(folder, verb, "--app", fmt.Sprintf("app-%d", i)))
		}
		for _, r := range all {
			l.ends(r, 0)
		}
	}
	each("deploy")
	c := l.client()
	for i := range 10 {
		app := fmt.Sprintf("app-%d", i)
		l.one(app)
		if s := l.deployment(c, app); s.Machine == nil || s.Generation != 1 {
			t.Errorf("%s: %+v", app, s)
		}
	}
	if n := len(l.machines()); n != 10 {
		t.Errorf("%d machines", n)
	}
	each("destroy")
	l.gone()
}
