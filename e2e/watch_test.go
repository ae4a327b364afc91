package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// restartWorker stops the worker and starts another, with more variables in its
// environment. Unlike one that is killed, a worker that stops takes its polls back:
// no task goes to it, to be found lost ten seconds later.
func (l *lab) restartWorker(env []string, args ...string) {
	l.t.Helper()
	_, _ = l.worker.Process.Signal(syscall.SIGTERM), l.worker.Wait() // errors: it has ended, or had no time to handle the signal
	l.env = append(l.env, env...)
	l.startWorker(args...)
}

// running is a command of the starter that has not ended.
type running struct {
	cmd         *exec.Cmd
	out, errOut *safeBuffer
	done        chan error
}

// safeBuffer may be read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// begin runs the starter in the background.
func (l *lab) begin(folder string, args ...string) *running {
	l.t.Helper()
	r := &running{cmd: exec.Command(binary("morgana"), args...), out: &safeBuffer{}, errOut: &safeBuffer{}, done: make(chan error, 1)}
	r.cmd.Dir, r.cmd.Env, r.cmd.Stdout, r.cmd.Stderr = folder, l.env, r.out, r.errOut
	if err := r.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = r.cmd.Process.Kill() }) // ended long ago, unless the test failed
	go func() { r.done <- r.cmd.Wait() }()
	return r
}

// end waits for the command's end.
func (l *lab) end(r *running) result {
	l.t.Helper()
	select {
	case <-r.done: //nolint:errcheck // how it ended is in ProcessState
	case <-time.After(2 * waits):
		l.t.Fatalf("%v has not ended:\n%s%s", r.cmd.Args[1:], r.out, r.errOut)
	}
	return result{r.cmd.ProcessState.ExitCode(), r.out.String(), r.errOut.String()}
}

// ends waits for the command's end with exit status want.
func (l *lab) ends(r *running, want int) result {
	l.t.Helper()
	got := l.end(r)
	if got.code != want {
		l.t.Fatalf("%v ended with %d, want %d:\n%s%s", r.cmd.Args[1:], got.code, want, got.out, got.errOut)
	}
	return got
}

// processes lists the processes that deploys run in the lab: their working folder
// or a variable is in the lab's folder. The server, workers and starters are left out.
func (l *lab) processes() (found []string) {
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range all {
		comm, err := os.ReadFile(proc + "/comm")
		if err != nil || strings.HasPrefix(string(comm), "morgana") {
			continue
		}
		cwd, _ := os.Readlink(proc + "/cwd") // it may have ended, here and below
		env, _ := os.ReadFile(proc + "/environ")
		if strings.HasPrefix(cwd, l.folder) || bytes.Contains(env, []byte("="+l.folder)) {
			line, _ := os.ReadFile(proc + "/cmdline")
			found = append(found, filepath.Base(proc)+" "+string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
		}
	}
	return found
}

// runs reports whether a process of the lab has what in its command line.
func (l *lab) runs(what string) bool {
	return slices.ContainsFunc(l.processes(), func(p string) bool { return strings.Contains(p, what) })
}

// gone fails the test if a deploy left anything, a process included.
func (l *lab) gone() {
	l.t.Helper()
	l.clean()
	if p := l.processes(); len(p) > 0 {
		l.t.Errorf("processes still run: %q", p)
	}
}

// registrations lists the machines' folders, half-made ones as well.
func (l *lab) registrations() (names []string) {
	entries, _ := os.ReadDir(l.state("qemu")) // not there: none
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// one fails the test unless app has one machine and one registration.
func (l *lab) one(app string) (pid int) {
	l.t.Helper()
	var folders []string
	for _, name := range l.registrations() {
		if strings.HasPrefix(strings.TrimPrefix(name, "."), app+".") {
			folders = append(folders, name)
		}
	}
	if len(folders) != 1 || folders[0][0] == '.' {
		l.t.Fatalf("registrations of %s: %q, want one", app, folders)
	}
	var pids []int
	for _, p := range l.machines() {
		if cwd, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", p)); strings.HasPrefix(cwd, l.state("qemu", app+".")) {
			pids = append(pids, p)
		}
	}
	if len(pids) != 1 {
		l.t.Fatalf("machines of %s: %v, want one", app, pids)
	}
	return pids[0]
}

// waits is a limit for steps that take seconds on a quiet machine.
const waits = 5 * time.Minute

// started waits until a worker has taken up a stage's activity.
func (l *lab) started(c client.Client, rollout, activity string) {
	l.t.Helper()
	l.eventually(rollout+" is in "+activity, func() bool {
		about, err := c.DescribeWorkflowExecution(l.t.Context(), rollout, "")
		if err != nil {
			return false
		}
		for _, p := range about.GetPendingActivities() {
			if p.GetActivityType().GetName() == activity && p.GetState() == enums.PENDING_ACTIVITY_STATE_STARTED {
				return true
			}
		}
		return false
	})
}

// history gives the events of a workflow's latest run.
func (l *lab) history(c client.Client, id, run string) *history.History {
	l.t.Helper()
	events := &history.History{}
	it := c.GetWorkflowHistory(l.t.Context(), id, run, false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for it.HasNext() {
		e, err := it.Next()
		if err != nil {
			l.t.Fatal(err)
		}
		events.Events = append(events.Events, e)
	}
	return events
}

// attempts is how often an activity of a workflow was started.
func (l *lab) attempts(c client.Client, id, activity string) int32 {
	l.t.Helper()
	scheduled := int64(-1)
	var last int32
	for _, e := range l.history(c, id, "").Events {
		if a := e.GetActivityTaskScheduledEventAttributes(); a.GetActivityType().GetName() == activity {
			scheduled = e.GetEventId()
		}
		if a := e.GetActivityTaskStartedEventAttributes(); a != nil && a.GetScheduledEventId() == scheduled {
			last = a.GetAttempt()
		}
	}
	return last
}

func (l *lab) deployment(c client.Client, app string) (s workflows.DeploymentStatus) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), waits)
	defer cancel()
	answer, err := c.QueryWorkflow(ctx, workflows.DeploymentID(app, "dev"), "", workflows.QueryStatus)
	if err == nil {
		err = answer.Get(&s)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return s
}

// rollout is the workflow id of an app's rollout on target dev.
func rollout(app string, generation int) string {
	return workflows.RolloutID(step.Tags{App: app, Target: "dev", Generation: generation})
}

// kernel builds hello and gives its bytes.
func (l *lab) kernel() []byte {
	l.t.Helper()
	folder := l.hello()
	build := exec.Command("make")
	build.Dir = folder
	if out, err := build.CombinedOutput(); err != nil {
		l.t.Fatalf("make: %v\n%s", err, out)
	}
	kernel, err := os.ReadFile(filepath.Join(folder, "hello"))
	if err != nil {
		l.t.Fatal(err)
	}
	return kernel
}

// built is a project with a ready-made kernel, whose bytes are the app's own.
func (l *lab) built(kernel []byte, app, options string) (folder string, bytes []byte) {
	l.t.Helper()
	bytes = append(slices.Clone(kernel), app...) // what follows an ELF file's end is not loaded
	folder = l.project("app: " + app + "\ntoolchain: {kind: prebuilt, kernel: kernel}\ntargets: {dev: {kind: qemu, memory: 64, " + options + "}}\n")
	l.write(filepath.Join(folder, "kernel"), string(bytes))
	return folder, bytes
}

// source is hello under another name, built by a shell script.
func (l *lab) source(app, script, options string) string {
	l.t.Helper()
	folder := l.hello()
	l.write(filepath.Join(folder, "build.sh"), script)
	l.write(filepath.Join(folder, "morgana.yaml"), "app: "+app+
		"\ntoolchain: {kind: command, build: [[sh, ./build.sh]], kernel: hello}\ntargets: {dev: {kind: qemu, memory: 64, "+options+"}}\n")
	return folder
}

// stays are options with which hello is ready and runs on.
const stays = "args: stay, expect: hello from a unikernel"

// slowQEMU is a program that waits for letGo before it becomes QEMU, if it is
// called with an option: -pidfile starts a machine, -machine is a query of check.
func (l *lab) slowQEMU(option string) (path string, letGo func()) {
	l.t.Helper()
	path = filepath.Join(l.t.TempDir(), "slow-qemu")
	script := "#!/bin/sh\ncase \"$*\" in *" + option + "*) until test -e $0.go; do sleep 0.1; done;; esac\nexec qemu-system-x86_64 \"$@\"\n"
	// A child forked while the file is open for writing would make it busy: it
	// could not be run.
	syscall.ForkLock.RLock()
	err := os.WriteFile(path, []byte(script), 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		l.t.Fatal(err)
	}
	letGo = func() { l.write(path+".go", "") }
	l.t.Cleanup(func() {
		if l.t.Failed() {
			l.kill(l.worker)
			letGo() // the lab's clean-up ends the QEMU
			l.eventually("no slow QEMU is left", func() bool { return !l.runs(path) })
		}
	})
	return path, letGo
}

// gated is a build that waits for letGo.
func (l *lab) gated() (script string, letGo func()) {
	gate := filepath.Join(l.t.TempDir(), "gate")
	return "until test -e " + gate + "; do sleep 0.1; done\nmake\n", func() { l.write(gate, "") }
}

// once is a shell command that sleeps the first time it is run.
func (l *lab) once() string {
	mark := filepath.Join(l.t.TempDir(), "once")
	return fmt.Sprintf("test -e %[1]s || { touch %[1]s; sleep 1000; }\n", mark)
}

// listener is the process that listens on a TCP port of the loopback, 0 if
// none of ours does.
func listener(port int) int {
	table, _ := os.ReadFile("/proc/net/tcp")
	inode := ""
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 9 && f[1] == fmt.Sprintf("0100007F:%04X", port) && f[3] == "0A" {
			inode = f[9]
		}
	}
	if inode == "" {
		return 0
	}
	all, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range all {
		if to, _ := os.Readlink(fd); to == "socket:["+inode+"]" {
			pid, _ := strconv.Atoi(strings.Split(fd, "/")[2])
			return pid
		}
	}
	return 0
}
