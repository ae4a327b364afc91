package treetest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

// workerVar is the variable that makes a test binary a worker, which [Bench.KillWorker]
// then kills. Its value is the file with the stage to run.
const workerVar = "MORGANA_BUILDTEST_WORKER"

type workerInput struct {
	State, Store string
	Stage        step.Stage
	Source       step.Source
}

// Main is the body of TestMain for tests that use [Bench.KillWorker].
func Main(m *testing.M, toolchain func(step.Site) step.Toolchain) {
	path := os.Getenv(workerVar)
	if path == "" {
		os.Exit(m.Run())
	}
	text, err := os.ReadFile(path)
	var in workerInput
	if err == nil {
		err = json.Unmarshal(text, &in)
	}
	if err == nil {
		tc := toolchain(step.Site{Host: "here", State: in.State, Store: Store(in.Store)})
		if in.Stage == step.Configure {
			_, err = tc.Configure(context.Background(), in.Source.Spec)
		} else {
			_, err = tc.Build(context.Background(), in.Source)
		}
	}
	fmt.Println("worker:", err)
	os.Exit(1)
}

// KillWorker has another process do stage configure or build until its commands
// have written the pid of a grandchild to the tree's file pid, and kills that
// process. It gives the pid of the grandchild, which lives on.
func (b *Bench) KillWorker(stage step.Stage, src step.Source) int {
	b.Helper()
	text, err := json.Marshal(workerInput{b.Site.State, string(b.Site.Store.(Store)), stage, src})
	if err != nil {
		b.Fatal(err)
	}
	input := filepath.Join(b.TempDir(), "input.json")
	if err := os.WriteFile(input, text, 0o600); err != nil {
		b.Fatal(err)
	}
	worker := exec.CommandContext(b.Context(), os.Args[0])
	worker.Env = append(os.Environ(), workerVar+"="+input)
	worker.Stdout, worker.Stderr = os.Stderr, os.Stderr
	if err := worker.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = worker.Process.Kill() }) // it is over by then, unless we failed
	folder, err := src.Spec.Folder()
	if err != nil {
		b.Fatal(err)
	}
	var g struct{ ID int }
	record := filepath.Join(b.Site.State, b.kind, folder, "group.json")
	pid := 0
	Await(b.T, "the grandchild", func() bool {
		pid = PIDIn(b.InPlace("pid"))
		text, err := os.ReadFile(record)
		return pid != 0 && err == nil && json.Unmarshal(text, &g) == nil && g.ID > 1
	})
	b.Cleanup(func() {
		// If the test fails, nobody else would; the group lasts as long as this.
		if group, err := syscall.Getpgid(pid); err == nil && group == g.ID {
			_ = syscall.Kill(-g.ID, syscall.SIGKILL)
		}
	})
	if err := worker.Process.Kill(); err != nil {
		b.Fatal(err)
	}
	_ = worker.Wait() // killed
	Await(b.T, "the end of the group's leader", func() bool { return !Running(g.ID) })
	if !Running(pid) {
		b.Fatal("the grandchild died with the worker: this test proves nothing")
	}
	return pid
}

// Running reports whether a process runs, which a zombie does not.
func Running(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	state := strings.TrimSpace(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	return state != "" && state[0] != 'Z' && state[0] != 'X'
}

// PIDIn reads a pid from a file, 0 if it is not there yet.
func PIDIn(path string) int {
	text, _ := os.ReadFile(path)
	if !strings.HasSuffix(string(text), "\n") {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}
