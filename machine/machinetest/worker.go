// Package machinetest kills workers that boot a machine, for the tests of targets.
package machinetest

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"testing"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
)

// input is the variable that makes a test a worker. It holds an order as JSON.
const input = "MORGANA_TEST_MACHINE_WORKER"

// The lines that the worker prints.
const (
	begins = "begin"
	booted = "booted"
)

type order struct {
	Host         string            `json:"host"`
	State        string            `json:"state"`
	Registration step.Registration `json:"registration"`
}

// Worker is the body of the test that [Start] names. In the process that Start runs, it
// boots the machine of the registration that Start was given. In an ordinary test run it
// is skipped.
func Worker(t *testing.T, target func(step.Site) step.Target) {
	text, ok := os.LookupEnv(input)
	if !ok {
		t.Skip("run by another test")
	}
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	say(t, begins)
	if _, err := target(step.Site{Host: o.Host, State: o.State, Store: steptest.NewStore(t)}).Boot(t.Context(), o.Registration); err != nil {
		t.Fatal(err)
	}
	say(t, booted)
	<-t.Context().Done() // to be killed
}

func say(t *testing.T, line string) {
	if _, err := os.Stdout.WriteString(line + "\n"); err != nil {
		t.Fatal(err)
	}
}

// Running is a worker that boots a machine.
type Running struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

// Start runs this test program in another process, as a worker. The process runs only the
// test named test, which calls [Worker]. When Start returns, the worker is about to boot.
func Start(t *testing.T, test string, site step.Site, r step.Registration) *Running {
	t.Helper()
	text, err := json.Marshal(order{site.Host, site.State, r})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+test+"$")   //nolint:gosec // this test itself
	cmd.Env = append(os.Environ(), input+"="+string(text), "TMPDIR="+t.TempDir()) // it will not clean up
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w := &Running{t, cmd, bufio.NewScanner(out)}
	w.await(begins)
	return w
}

// Booted waits until the worker has booted the machine.
func (w *Running) Booted() {
	w.t.Helper()
	w.await(booted)
}

func (w *Running) await(line string) {
	w.t.Helper()
	for w.lines.Scan() {
		if w.lines.Text() == line {
			return
		}
	}
	w.t.Errorf("the worker ended before %q", line)
}

// Kill kills the worker (SIGKILL), and returns when it is gone.
func (w *Running) Kill() {
	w.t.Helper()
	if err := w.cmd.Process.Kill(); err != nil {
		w.t.Error(err)
	}
	_ = w.cmd.Wait() // it was killed
}
