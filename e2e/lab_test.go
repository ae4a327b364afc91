// Package e2e runs the product's own binaries against a real Temporal server
// and real machines. $MORGANA_BIN is the folder of the binaries; make test sets
// it.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/morgana-deploy/morgana/need"
)

// lab is a namespace of a Temporal server, and a worker and a state folder of its
// own. Whatever a test leaves running is ended with it.
type lab struct {
	t      *testing.T
	folder string // holds state/ and config/
	env    []string
	server *exec.Cmd // its own, if it has one
	worker *exec.Cmd
	ready  ready
}

// ready is the server's ready file.
type ready struct {
	Address, UI, Namespace string
	PID                    int
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := emptyLab(t)
	l.namespace()
	l.startWorker()
	return l
}

// newServerLab is a lab with a server of its own, which the test may end.
func newServerLab(t *testing.T) *lab {
	t.Helper()
	l := emptyLab(t)
	l.startServer()
	l.env = append(l.env, "TEMPORAL_ADDRESS="+l.ready.Address)
	l.startWorker()
	return l
}

// emptyLab has no server and no worker, and an environment that knows of none.
func emptyLab(t *testing.T) *lab {
	t.Helper()
	need.Tools(t, "qemu-system-x86_64", "make", "gcc", binary("morgana"), binary("morgana-worker"), binary("morgana-devserver"))
	l := &lab{t: t, folder: t.TempDir()}
	l.env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "TEMPORAL_") || strings.HasPrefix(v, "MORGANA_") || strings.HasPrefix(v, "XDG_")
	})
	l.env = append(l.env, "XDG_STATE_HOME="+filepath.Join(l.folder, "state"), "XDG_CONFIG_HOME="+filepath.Join(l.folder, "config"))
	t.Cleanup(l.sweep)
	return l
}

func binary(name string) string { return filepath.Join(os.Getenv("MORGANA_BIN"), name) }

func (l *lab) state(parts ...string) string {
	return filepath.Join(append([]string{l.folder, "state", "morgana"}, parts...)...)
}

// start runs a daemon whose output goes to a log, shown if the test fails.
func (l *lab) start(name string, args ...string) *exec.Cmd {
	l.t.Helper()
	log, err := os.OpenFile(filepath.Join(l.folder, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		l.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(binary(name), args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = l.env, log, log
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	return cmd
}

// startServer starts it on the port and the database of its earlier runs.
func (l *lab) startServer() {
	l.t.Helper()
	_, port, err := net.SplitHostPort(l.ready.Address)
	if err != nil { // there was none
		port = "0"
	}
	file := filepath.Join(l.folder, "ready.json")
	_ = os.Remove(file) // there is none the first time
	l.server = l.start("morgana-devserver", "--port", port, "--ui-port", "0",
		"--db", filepath.Join(l.folder, "temporal.db"), "--ready-file", file)
	l.eventually("the server is ready", func() bool {
		data, err := os.ReadFile(file)
		return err == nil && json.Unmarshal(data, &l.ready) == nil
	})
}

// startWorker starts a worker, and waits until it works: a deploy waits only 10 s for one.
func (l *lab) startWorker(args ...string) {
	l.t.Helper()
	starts := func() int {
		log, _ := os.ReadFile(filepath.Join(l.folder, "morgana-worker.log")) // there is none the first time
		return bytes.Count(log, []byte("worker started"))
	}
	before := starts()
	l.worker = l.start("morgana-worker", append([]string{"--listen", "127.0.0.1:0"}, args...)...)
	l.eventually("the worker works", func() bool { return starts() > before })
}

// kill is kill -9.
func (l *lab) kill(cmd *exec.Cmd) {
	if cmd == nil || cmd.ProcessState != nil {
		return
	}
	_ = cmd.Process.Kill() // may have ended by itself
	_ = cmd.Wait()
}

func (l *lab) sweep() {
	l.kill(l.worker)
	l.kill(l.server)
	for _, p := range l.processes() {
		var pid int
		if _, err := fmt.Sscanf(p, "%d ", &pid); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL) // a machine, or what a failed test's build left
		}
	}
	if l.t.Failed() {
		of := map[string]string{"morgana-worker": l.folder, "morgana-devserver": l.folder}
		if l.server == nil && shared.lab != nil {
			of["morgana-devserver"] = shared.lab.folder
		}
		for name, folder := range of {
			log, _ := os.ReadFile(filepath.Join(folder, name+".log")) // may not have been started
			l.t.Logf("%s:\n%s", name, lastOf(log, 4000))
		}
	}
}

func lastOf(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

// result is a command's exit status and output.
type result struct {
	code        int
	out, errOut string
}

// morgana runs the starter in the folder of a project.
func (l *lab) morgana(folder string, args ...string) result {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*waits)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary("morgana"), args...)
	var out, errOut bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = folder, l.env, &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		l.t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

// deployed runs morgana deploy, which must succeed.
func (l *lab) deployed(folder string, args ...string) result {
	l.t.Helper()
	r := l.morgana(folder, append([]string{"deploy"}, args...)...)
	if r.code != 0 {
		l.t.Fatalf("deploy ended with %d:\n%s%s", r.code, r.out, r.errOut)
	}
	return r
}

// hello copies examples/hello into a folder of its own.
func (l *lab) hello() string {
	l.t.Helper()
	folder := filepath.Join(l.t.TempDir(), "hello")
	if err := os.CopyFS(folder, os.DirFS("../examples/hello")); err != nil {
		l.t.Fatal(err)
	}
	for _, built := range []string{"hello", "boot.o", "main.o"} {
		_ = os.Remove(filepath.Join(folder, built)) // built by hand in the work tree, if at all
	}
	return folder
}

// project writes a morgana.yaml into a folder of its own.
func (l *lab) project(yaml string) string {
	l.t.Helper()
	folder := l.t.TempDir()
	l.write(filepath.Join(folder, "morgana.yaml"), yaml)
	return folder
}

func (l *lab) write(path, text string) {
	l.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		l.t.Fatal(err)
	}
}

// machines lists the QEMU processes whose working folder is in our state folder.
func (l *lab) machines() (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range all {
		cwd, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(cwd, l.state()) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(link, "/proc/%d/cwd", &pid); err != nil {
			continue
		}
		if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); strings.HasPrefix(string(comm), "qemu-system") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// outside lists the files of the state folder outside of the store: machines'
// folders, build trees, half-written files.
func (l *lab) outside() (left []string) {
	_ = filepath.WalkDir(l.state(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // gone meanwhile
		}
		rel, _ := filepath.Rel(l.state(), path)
		switch {
		case rel == "store":
			return fs.SkipDir
		case d.IsDir() && slices.Contains([]string{".", "qemu", "local", "watch", "prebuilt", "command", "command/cache", "ec2", "ec2/uploads", "xenserver", "source"}, rel):
		case strings.HasPrefix(rel, "command/cache/"), strings.HasPrefix(rel, "source/") && strings.HasSuffix(rel, ".json"), strings.HasPrefix(rel, "qemu/.facts"), strings.HasPrefix(rel, "watch/"): // a watch ends a look later than its machine
		default:
			left = append(left, rel)
		}
		return nil
	})
	return left
}

// artifacts lists the store's files; a half-written one has no digest for a name.
func (l *lab) artifacts() (names []string) {
	_ = filepath.WalkDir(l.state("store"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, filepath.Base(path))
		}
		return nil
	})
	return names
}

// clean fails the test if a deploy left anything.
func (l *lab) clean() {
	l.t.Helper()
	if left := l.outside(); len(left) > 0 {
		l.t.Errorf("left behind: %q", left)
	}
	if pids := l.machines(); len(pids) > 0 {
		l.t.Errorf("machines still run: %v", pids)
	}
	for _, name := range l.artifacts() {
		if len(name) != 64 {
			l.t.Errorf("half-written artifact %q", name)
		}
	}
}

func (l *lab) client() client.Client {
	l.t.Helper()
	c, err := client.Dial(client.Options{HostPort: l.ready.Address, Namespace: l.ready.Namespace})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(c.Close)
	return c
}

func (l *lab) eventually(what string, ok func() bool) {
	l.t.Helper()
	deadline := time.Now().Add(waits)
	for !ok() {
		if time.Now().After(deadline) {
			l.t.Fatalf("not within %v: %s", waits, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
