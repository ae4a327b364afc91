package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/morgana-deploy/morgana/workflows"
	"github.com/morgana-deploy/morgana/xapilab"
)

// aged makes all files of the store old.
func (l *lab) aged() {
	l.t.Helper()
	old := time.Now().Add(-8 * 24 * time.Hour)
	for _, name := range l.artifacts() {
		if err := os.Chtimes(l.state("store", "sha256", name[:2], name), old, old); err != nil {
			l.t.Fatal(err)
		}
	}
}

// terminate ends a deployment's workflow as an operator may, and its rollout before if it
// runs: nothing is undone.
func (l *lab) terminate(c client.Client, app, target string) {
	l.t.Helper()
	_ = c.TerminateWorkflow(l.t.Context(), fmt.Sprintf("rollout/%s/%s/1", app, target), "", "test") // it may have ended
	if err := c.TerminateWorkflow(l.t.Context(), workflows.DeploymentID(app, target), "", "test"); err != nil {
		l.t.Fatal(err)
	}
}

type sweepLine struct {
	Event, Kind, Message string
	Resource             struct {
		Kind, ID string
		Tags     struct{ App string }
	}
	Artifacts int
}

// swept runs morgana sweep and returns its events, as "found qemu folder gone".
func (l *lab) swept(code int, args ...string) (events []string) {
	l.t.Helper()
	r := l.morgana(l.t.TempDir(), append([]string{"sweep", "-o", "json"}, args...)...)
	if r.code != code {
		l.t.Fatalf("sweep %v ended with %d, want %d:\n%s%s", args, r.code, code, r.out, r.errOut)
	}
	for line := range strings.Lines(r.out) {
		var e sweepLine
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			l.t.Fatal(err)
		}
		event := strings.TrimSpace(strings.Join([]string{e.Event, e.Kind, e.Resource.Kind, e.Resource.Tags.App}, " "))
		if e.Event != "removed" && !slices.Contains(events, event) {
			events = append(events, event)
		}
	}
	slices.Sort(events)
	return events
}

// What terminated workflows left is found and removed, and nothing of a live deployment
// is, while 20 deploys are in flight.
func TestSweep(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	c := l.client()
	gone, live := l.source("gone", "make\n", stays), l.source("live", "make # of live\n", stays)
	l.deployed(gone)
	mine := l.artifacts()
	l.deployed(live)
	mine = slices.DeleteFunc(l.artifacts(), func(a string) bool { return slices.Contains(mine, a) })
	// The build of hello is the same; its kernel is that of both.

	crowd := l.project("app: crowd\ntoolchain: {kind: prebuilt, kernel: prog}\ntargets:\n")
	yaml, err := os.OpenFile(crowd+"/morgana.yaml", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		_, _ = fmt.Fprintf(yaml, "  t%d: {kind: local, expect: hello}\n", i) // Close returns the error
	}
	if err := yaml.Close(); err != nil {
		t.Fatal(err)
	}
	l.write(crowd+"/prog.c", strings.Replace(program, "printf(", "sleep(1); printf(", 1))
	if out, err := exec.Command("cc", "-o", crowd+"/prog", crowd+"/prog.c").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	l.deployed(crowd, "-t", "t0", "--app", "dead")

	tree := l.source("tree", "touch building; sleep 300\n", stays)
	l.deployed(tree, "--detach")
	l.eventually("the tree is being built", func() bool {
		at, _ := filepath.Glob(l.state("command", "at-tree-*", "tree", "building"))
		return len(at) == 1
	})
	for app, target := range map[string]string{"gone": "dev", "dead": "t0", "tree": "dev"} {
		l.terminate(c, app, target)
	}
	l.eventually("the worker has noticed that the rollout is gone", func() bool {
		at, _ := filepath.Glob(l.state("command", "at-tree-*"))
		return len(at) == 0
	})
	other := l.state("local", "other.dev.deadbeef-1") // of another server's deployment
	if err := os.MkdirAll(other, 0o700); err != nil {
		t.Fatal(err)
	}
	l.aged()

	want := []string{"found command build tree tree", "found local folder dead", "found qemu folder gone", "found store", "unknown local folder other"}
	before := [][]string{l.outside(), l.artifacts()}
	if got := l.swept(3, "--dry-run"); !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	if got := l.swept(3, "--dry-run", "qemu"); !slices.Equal(got, want[2:3]) {
		t.Errorf("of qemu: %q", got)
	}
	refused := []string{"", "--yes --older-than 1h", "--yes quemu"}
	for _, args := range refused {
		if r := l.morgana(t.TempDir(), append([]string{"sweep"}, strings.Fields(args)...)...); r.code != 2 {
			t.Errorf("sweep %s ended with %d:\n%s%s", args, r.code, r.out, r.errOut)
		}
	}
	if after := [][]string{l.outside(), l.artifacts()}; !slices.EqualFunc(before, after, slices.Equal[[]string]) {
		t.Errorf("the dry runs changed something: %q, then %q", before, after)
	}

	deploy := l.begin(crowd, "deploy", "--all")
	sweeps := 0
	for ended := false; !ended; sweeps++ {
		select {
		case err := <-deploy.done:
			deploy.done <- err
			ended = true
		default:
		}
		l.swept(0, "--yes")
	}
	l.ends(deploy, 0)
	t.Logf("%d sweeps while 20 deploys were in flight", sweeps)
	if n := len(l.programs()); n != 20 {
		t.Errorf("%d programs run, want the 20 of crowd", n)
	}
	if n := len(l.machines()); n != 1 {
		t.Errorf("%d machines run, want that of live", n)
	}
	for _, a := range mine {
		if !slices.Contains(l.artifacts(), a) {
			t.Errorf("artifact %s of live was removed", a)
		}
	}
	if n := len(l.artifacts()); n >= len(before[1]) {
		t.Errorf("%d artifacts, were %d", n, len(before[1]))
	}
	if got := l.swept(0, "--dry-run"); !slices.Equal(got, want[4:]) {
		t.Errorf("left %q", got)
	}
	if r := l.deployed(live); !strings.Contains(r.out, "from an earlier build") || !strings.Contains(r.out, "unchanged") {
		t.Errorf("live was touched:\n%s", r.out)
	}
	l.swept(0, "--yes", "--unknown")
	if _, err := os.Stat(other); !os.IsNotExist(err) {
		t.Errorf("--unknown left %s: %v", other, err)
	}
}

// A terminated deployment at EC2 leaves an instance, an AMI and a snapshot.
func TestSweepAtEC2(t *testing.T) {
	t.Parallel()
	e := newEC2(t, nil)
	kernel := e.kernel()
	live, gone := e.atEC2(kernel, "live", "keep: 1"), e.atEC2(kernel, "gone", "keep: 1")
	deploys := []*running{e.begin(live, "deploy"), e.begin(gone, "deploy")}
	for _, d := range deploys {
		e.ends(d, 0)
	}
	e.terminate(e.client(), "gone", "dev")
	want := []string{"found ec2 AMI gone", "found ec2 instance gone", "found ec2 network interface gone", "found ec2 snapshot gone", "found ec2 volume gone"}
	if got := e.swept(3, "--dry-run", "ec2"); !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	e.swept(0, "--yes", "ec2")
	e.holds(1)
	e.deployed(live) // unchanged
	e.holds(1)
	e.ends(e.begin(live, "destroy"), 0)
	e.asBefore()
}

// A terminated deployment in a pool of XenServer leaves a VM and its disk.
func TestSweepAtXenServer(t *testing.T) {
	t.Parallel()
	pool, err := xapilab.Start(t.Context(), xapilab.Config{Hypervisor: xapilab.StandIn{Text: func(xapilab.Guest) string { return "hello from a unikernel\n" }}})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close() //nolint:errcheck // it ends with the process at the latest
	l := newLab(t)
	l.restartWorker([]string{"XENSERVER_HOST=" + pool.URL, "XENSERVER_USERNAME=" + pool.User, "XENSERVER_PASSWORD=" + pool.Password})
	kernel := l.kernel()
	deploy := func(app string) (folder string) {
		folder, _ = l.built(kernel, app, "")
		l.write(folder+"/morgana.yaml", fmt.Sprintf("app: %s\ntoolchain: {kind: prebuilt, kernel: kernel}\n"+
			"targets: {dev: {kind: xenserver, fingerprint: %q, args: stay, expect: hello from a unikernel}}\n", app, pool.Fingerprint+" "+pool.MemberFingerprint))
		l.deployed(folder)
		return folder
	}
	live := deploy("live")
	there := pool.Resources()
	deploy("gone")
	l.terminate(l.client(), "gone", "dev")
	want := []string{"found xenserver VDI gone", "found xenserver VM gone"}
	if got := l.swept(3, "--dry-run", "xenserver"); !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	l.swept(0, "--yes", "xenserver")
	if now := pool.Resources(); !slices.Equal(now, there) {
		t.Errorf("in the pool: %q, before: %q", now, there)
	}
	l.ends(l.begin(live, "destroy"), 0)
	if left := pool.Resources(); len(left) > 0 {
		t.Errorf("left in the pool: %q", left)
	}
}

// sweeps removes what a terminated deployment left on a Xen host.
func (x *onXen) sweeps(app string) {
	x.t.Helper()
	x.terminate(x.client(), app, "dev")
	want := []string{"found xen domain " + app, "found xen folder " + app, "found xen image " + app}
	if got := x.swept(3, "--dry-run", "xen"); !slices.Equal(got, want) {
		x.t.Errorf("found %q, want %q", got, want)
	}
	x.swept(0, "--yes", "xen")
}
