package qemu

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
)

// workerInput, when set, makes TestWorker a worker to be killed.
const workerInput = "MORGANA_TEST_QEMU_WORKER"

type workerOrder struct {
	State        string            `json:"state"`
	Registration step.Registration `json:"registration"`
}

// TestWorker is the other process of TestWorkerKilled.
func TestWorker(t *testing.T) {
	input, ok := os.LookupEnv(workerInput)
	if !ok {
		t.Skip("run by TestWorkerKilled")
	}
	var order workerOrder
	if err := json.Unmarshal([]byte(input), &order); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stdout.WriteString("begin\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := New(step.Site{Host: "testhost", State: order.State, Store: steptest.NewStore(t)}).Boot(t.Context(), order.Registration); err != nil {
		t.Fatal(err)
	}
	<-t.Context().Done() // to be killed
}

// The worker dies by SIGKILL at some moment of boot, most of them around QEMU's
// start and before it has locked its pid file. The next one that boots ends with
// one machine, the first if it got that far; destroy leaves nothing.
func TestWorkerKilled(t *testing.T) {
	b := newBench(t)
	adopted, generation := 0, 0
	for ; generation < 8; generation++ {
		moment := time.Duration(generation*generation) * time.Millisecond / 2
		r := b.register(b.spec("killed", generation+1, `{"args":"stay","expect":"stay"}`))
		order, err := json.Marshal(workerOrder{b.site.State, r})
		if err != nil {
			t.Fatal(err)
		}
		worker := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWorker$")        //nolint:gosec // this test itself
		worker.Env = append(os.Environ(), workerInput+"="+string(order), "TMPDIR="+t.TempDir()) // it will not clean up
		out, err := worker.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := worker.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil { // it begins
			t.Fatal(err)
		}
		time.Sleep(moment)
		if err := worker.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = worker.Wait() // it was killed
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
