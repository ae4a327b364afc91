package local

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/machine/machinetest"
	"github.com/morgana-deploy/morgana/step"
)

// TestWorker is the other process of TestWorkerKilled.
func TestWorker(t *testing.T) {
	machinetest.Worker(t, func(site step.Site) step.Target { return New(site) })
}

// The worker dies by SIGKILL at some moment of boot, or after it. The next one
// that boots ends with one machine, the first if it got that far; destroy
// leaves nothing, even if no other boot came.
func TestWorkerKilled(t *testing.T) {
	needTaps(t)
	b := newBench(t)
	adopted, tries := 0, 0
	try := func(moment string, again bool, wait func(*machinetest.Running)) {
		tries++
		spec := b.spec(`{"args":["hello","stay"],"expect":"hello","networks":[{"name":"service","by":"fd"},{"name":"other"}],"blocks":[{"name":"data","size":1}]}`)
		spec.Generation = tries
		r := b.register(linux, spec)
		worker := machinetest.Start(t, "TestWorker", b.site, r)
		wait(worker)
		worker.Kill()
		if again {
			before, _ := b.pids(r)
			m := b.boot(r)
			after, program := b.pids(r)
			if all := processes(t, b.site); len(all) != 2 || program == 0 {
				t.Errorf("%s: processes %d, supervisor %d", moment, all, after)
			}
			if m.Adopted {
				adopted++
				if before != 0 && before != after { // 0: forked, not yet in its folder
					t.Errorf("%s: supervisor %d became %d", moment, before, after)
				}
			} else if before != 0 {
				t.Errorf("%s: a machine ran and was not adopted", moment)
			}
		}
		b.destroy(r.Spec)
		if left := resources(t, b.site); len(left) != 0 {
			t.Errorf("%s: destroy left %q", moment, left)
		}
	}
	for i := range time.Duration(16) { // densest at the start, where the supervisor is started
		at := i * i * time.Millisecond / 5
		try(at.String(), i%3 != 2, func(*machinetest.Running) { time.Sleep(at) })
	}
	try("booted", true, (*machinetest.Running).Booted)
	if adopted == 0 {
		t.Error("no machine outlived its worker")
	}
	t.Logf("%d of %d machines outlived their worker", adopted, tries)
}

// Boot died after it made a tap that stays, and before it started anything.
func TestTapOfAnUnfinishedBoot(t *testing.T) {
	needTaps(t)
	b := newBench(t)
	r := b.register(linux, b.spec(`{"networks":[{"name":"service"}]}`))
	if err := machine.MakeTap(t.Context(), machine.TapConfig{Tags: r.Spec.Tags}); err != nil {
		t.Fatal(err)
	}
	done, err := b.target().Destroy(t.Context(), step.Removal{Spec: r.Spec})
	if err != nil || len(done.Removed) != 2 {
		t.Errorf("removed %q (%v)", done.Removed, err)
	}
}

// Taps go whatever else cannot be removed.
func TestTapsGoWhateverFails(t *testing.T) {
	needTaps(t)
	b := newBench(t)
	r := b.register(linux, b.spec(`{"networks":[{"name":"service"}]}`))
	if err := machine.MakeTap(t.Context(), machine.TapConfig{Tags: r.Spec.Tags}); err != nil {
		t.Fatal(err)
	}
	lock, err := b.machine(r).Lock()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	done, err := b.target().Destroy(ctx, step.Removal{Spec: r.Spec})
	var e *step.Error
	if !errors.As(err, &e) || !errors.Is(err, context.DeadlineExceeded) || len(e.Left) != 1 {
		t.Errorf("got %v", err)
	}
	if len(done.Removed) != 1 || !strings.HasPrefix(done.Removed[0], "tap ") {
		t.Errorf("removed %q", done.Removed)
	}
	if err := lock.Close(); err != nil {
		t.Error(err)
	}
}

// asNobody, when set, makes tests those of a worker of another user.
const asNobody = "MORGANA_TEST_LOCAL_NOBODY"

// nobody runs a test as a user who may open the tun device, with capabilities
// for setpriv, as "--ambient-caps=+net_admin".
func nobody(t *testing.T, test string, capabilities ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("becomes another user")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	copied := file(t, "test") // where others may look
	run := exec.CommandContext(t.Context(), "unshare", append([]string{"-m", "sh", "-c", `set -e
		exe=$1 copied=$2 test=$3; shift 3
		install -m 755 "$exe" "$copied"; mkdir -p -m 1777 "$copied.tmp"; cd "$copied.tmp"
		rm -f "$copied.tun"; mknod -m 666 "$copied.tun" c 10 200; mount --bind "$copied.tun" /dev/net/tun
		TMPDIR=$copied.tmp MORGANA_TEST_LOCAL_BUILT=${copied%/*} \
		exec setpriv --reuid 54321 --regid 54321 --clear-groups "$@" "$copied" -test.v -test.run "$test"`, "sh", exe, copied, test}, capabilities...)...)
	run.Env = append(os.Environ(), asNobody+"=1")
	if out, err := run.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS")) {
		t.Errorf("%v\n%s", err, out)
	}
}

// A worker without CAP_NET_ADMIN: taps are refused in one line, the rest works.
func TestWithoutRights(t *testing.T) {
	if os.Getenv(asNobody) == "" {
		nobody(t, "^TestWithoutRights$")
		return
	}
	b := newBench(t)
	_, err := b.target().Check(t.Context(), b.spec(`{"networks":[{"name":"service"}]}`))
	wantError(t, err, step.Unauthorized, "networks[0].tap", "the worker may not make or open tap devices", "setcap cap_net_admin+ep")
	for _, by := range []string{byFD, byName} {
		r := b.register(linux, b.spec(`{"networks":[{"name":"service","by":"`+by+`"}]}`))
		b.refused(r, step.Unauthorized, "the worker may not make or open tap devices", "setcap cap_net_admin+ep")
		b.destroy(r.Spec)
	}
	r := b.register(linux, b.spec(`{"args":["hello","stay"],"expect":"hello"}`))
	b.boot(r)
	b.destroy(r.Spec)
}

// A worker with CAP_NET_ADMIN and no other right makes taps that its programs
// can open; they do not have that right.
func TestWithOneRight(t *testing.T) {
	if os.Getenv(asNobody) == "" {
		nobody(t, "^(TestWithOneRight|TestSolo5Devices|TestLinuxProgramWithTaps)$", "--inh-caps=+net_admin", "--ambient-caps=+net_admin")
		return
	}
	b := newBench(t)
	m, err := b.ends(b.register(linux, b.spec(`{"args":["rights"]}`)))
	if err != nil {
		t.Fatal(told(err))
	}
	text := b.console(m)
	if strings.Count(text, "0000000000000000") != 2 || !strings.Contains(text, "54321") {
		t.Errorf("got\n%s", text)
	}
}
