package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/config"
)

// Who says which ssh configuration to use while a worker runs gets another worker.
func TestWorkerKnowsSSHConfig(t *testing.T) {
	sick(t, "exec sleep 60")
	d := dev{folder: t.TempDir(), settings: config.Settings{Store: "file:///x"}}
	start := func() {
		t.Helper()
		if err := d.startWorker(serverInfo{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.stopWorker(t.Context()) })
		if !d.workerRuns() {
			t.Fatal("it does not run, or would be started again")
		}
	}
	start()
	t.Chdir(t.TempDir())
	t.Setenv("MORGANA_SSH_CONFIG", "lab/ssh_config")
	if d.workerRuns() {
		t.Error("a worker without MORGANA_SSH_CONFIG is kept")
	}
	d.stopWorker(t.Context())
	start()
	folder, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	// The worker works in /.
	worker, _ := d.worker()
	environ, err := os.ReadFile("/proc/" + strconv.Itoa(worker.PID) + "/environ")
	if want := "MORGANA_SSH_CONFIG=" + filepath.Join(folder, "lab/ssh_config") + "\x00"; err != nil || !strings.Contains(string(environ), "\x00"+want) {
		t.Errorf("it has not %q: %v", want, err)
	}
	t.Setenv("MORGANA_SSH_CONFIG", "")
	if !d.workerRuns() {
		t.Error("who says nothing of ssh takes away what somebody else has said")
	}
	t.Setenv("MORGANA_SSH_CONFIG", "/another")
	if d.workerRuns() {
		t.Error("a worker with another MORGANA_SSH_CONFIG is kept")
	}
}
