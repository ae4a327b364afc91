package qemu

import (
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/machine/machinetest"
	"github.com/morgana-deploy/morgana/step"
)

// TestWorker is the other process of TestWorkerKilled.
func TestWorker(t *testing.T) {
	machinetest.Worker(t, func(site step.Site) step.Target { return New(site) })
}

// The worker dies by SIGKILL at some moment of boot, most of them around QEMU's
// start and before it has locked its pid file. The next one that boots ends with
// one machine, the first if it got that far; destroy leaves nothing.
func TestWorkerKilled(t *testing.T) {
	b := newBench(t)
	adopted, generation := 0, 0
	for ; generation < 9; generation++ {
		moment := time.Duration(generation*generation) * time.Millisecond / 2
		r := b.register(b.spec("killed", generation+1, `{"args":"stay","expect":"stay"}`))
		worker := machinetest.Start(t, "TestWorker", b.site, r)
		if time.Sleep(moment); generation == 8 {
			worker.Booted()
		}
		worker.Kill()
		before := b.pid(r)
		m := b.boot(r)
		if n := b.count("process"); n != 1 {
			t.Errorf("%s: %d machines", moment, n)
		}
		if m.Adopted {
			adopted++
			if before != 0 && before != b.pid(r) { // 0: forked, not yet in its folder
				t.Errorf("%s: process %d became %d", moment, before, b.pid(r))
			}
		} else if before != 0 {
			t.Errorf("%s: a machine ran and was not adopted", moment)
		}
		if group, err := syscall.Getpgid(b.pid(r)); err != nil || group != b.pid(r) {
			t.Errorf("%s: process %d is in group %d (%v): Ctrl-C at the worker would end it", moment, b.pid(r), group, err)
		}
		b.destroy(r.Spec)
		if left := b.count(""); left != 0 {
			t.Errorf("%s: destroy left %q", moment, resources(t, b.site))
		}
	}
	if adopted == 0 {
		t.Error("no machine outlived its worker")
	}
	t.Logf("%d of %d machines outlived their worker", adopted, generation)
}
