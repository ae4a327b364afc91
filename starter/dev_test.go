package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/own"
)

// worksUntilStopped is a worker that takes work until SIGTERM, and then a second to end.
const worksUntilStopped = `for a; do [ "$p" = --ready-file ] && ready=$a; p=$a; done
echo $$ >"$ready"
trap 'rm "$ready"; sleep 1; exit' TERM
while :; do sleep 0.1; done`

// A user who names an ssh configuration while a worker runs gets another worker.
func TestWorkerKnowsSSHConfig(t *testing.T) {
	hostWith(t, worksUntilStopped)
	d := dev{folder: t.TempDir(), settings: config.Settings{Store: "file:///x"}}
	start := func() {
		t.Helper()
		if err := d.startWorker(t.Context(), serverInfo{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.stopWorker(context.Background()) })
		if !d.workerFits() {
			t.Fatal("it does not run, or would be started again")
		}
	}
	start()
	t.Chdir(t.TempDir())
	t.Setenv("MORGANA_SSH_CONFIG", "lab/ssh_config")
	if d.workerFits() {
		t.Error("a worker without MORGANA_SSH_CONFIG is kept")
	}
	d.stopWorker(t.Context())
	start()
	folder, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	// The worker works in /.
	worker, _, _ := d.worker()
	environ, err := os.ReadFile("/proc/" + strconv.Itoa(worker.PID) + "/environ")
	if want := "MORGANA_SSH_CONFIG=" + filepath.Join(folder, "lab/ssh_config") + "\x00"; err != nil || !strings.Contains(string(environ), "\x00"+want) {
		t.Errorf("it has not %q: %v", want, err)
	}
	t.Setenv("MORGANA_SSH_CONFIG", "")
	if !d.workerFits() {
		t.Error("a user who names no ssh configuration takes away another's")
	}
	t.Setenv("MORGANA_SSH_CONFIG", "/another")
	if d.workerFits() {
		t.Error("a worker with another MORGANA_SSH_CONFIG is kept")
	}
}

// A worker that was told to stop, or killed, is no worker, though its process is
// still there.
func TestDyingWorkerIsReplaced(t *testing.T) {
	hostWith(t, worksUntilStopped)
	d := dev{folder: t.TempDir()}
	t.Cleanup(func() { d.stopWorker(context.Background()) })
	if err := d.startWorker(t.Context(), serverInfo{}); err != nil {
		t.Fatal(err)
	}
	w, _, works := d.worker()
	if !works {
		t.Fatal("it is ready, and is said not to work")
	}
	if err := syscall.Kill(w.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for lives := true; works; _, lives, works = d.worker() {
		if !lives {
			t.Fatal("its process ended before it was seen to stop")
		}
	}
	d.stopWorker(t.Context())

	// A process of several threads takes a while to die.
	for range 10 {
		cmd := self(t)
		cmd.Env = append(os.Environ(), "BE_SERVER=1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		started := own.StartTime(cmd.Process.Pid)
		time.Sleep(20 * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if now := own.StartTime(cmd.Process.Pid); started == "" || now != "" {
			t.Errorf("start time %q, and when it was killed %q", started, now)
		}
		_ = cmd.Wait() // it was killed
	}
}

// The error of a program that ends at its start is the program's own.
func TestProgramThatEndsAtItsStart(t *testing.T) {
	for name, test := range map[string]struct{ script, want, hint string }{
		"error and hint": {`echo 'level=INFO msg=hello'; echo 'error: open store /x: read-only file system'; echo 'hint: set MORGANA_STORE'; exit 2`,
			"open store /x: read-only file system", "set MORGANA_STORE\nits log: "},
		"much log": {`printf '{"level":"error","msg":"%09000d"}\n' 1 2; echo 'error: start temporal: no user'; exit 1`,
			"start temporal: no user", "its log: "},
		"panic":      {`echo 'panic: nil map'; echo; echo 'goroutine 1 [running]:'; exit 2`, "nil map", "its log: "},
		"other line": {`printf '%09000d\n' 7; exit 1`, strings.Repeat("0", 300) + "...", "its log: "},
		"silence":    {`exit 9`, "it ended: exit status 9", "its log: "},
	} {
		hostWith(t, test.script)
		d := dev{folder: t.TempDir()}
		if err := os.WriteFile(d.path("worker.log"), []byte("error: of an earlier worker\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		c := &cli{err: &out, output: "text"}
		status := c.tell(d.startWorker(t.Context(), serverInfo{}))
		want := "error: start morgana-worker: " + test.want + "\nhint: " + strings.ReplaceAll(test.hint, "\n", "\n      ") + d.path("worker.log") + "\n"
		if status != 2 || out.String() != want {
			t.Errorf("%s: exit %d, %s\nwant %s", name, status, out.String(), want)
		}
	}
}

// beServer is a stand-in for morgana-devserver that only listens, or sleeps if it
// is not told where.
func beServer(args []string) {
	f := flag.NewFlagSet("", flag.ExitOnError)
	port, db, ready := f.String("port", "", ""), f.String("db", "", ""), f.String("ready-file", "", "")
	f.String("ui-port", "", "")
	_ = f.Parse(args) // or it exits
	if *db == "" {
		time.Sleep(10 * time.Minute)
	}
	l, err := net.Listen("tcp", "127.0.0.1:"+*port)
	if err == nil {
		err = writeJSON(*ready, serverInfo{Address: l.Addr().String(), UI: "http://" + l.Addr().String(), PID: os.Getpid()})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	<-ctx.Done()
	_ = os.Remove(*ready) // as the server does
	os.Exit(0)
}

// programs puts programs into PATH, for findProgram; each is a shell script.
func programs(t *testing.T, scripts map[string]string) {
	t.Helper()
	hostWith(t, "")
	for name, script := range scripts {
		if err := os.WriteFile(filepath.Join(os.Getenv("HOME"), name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, usual := range []string{"7233", "8233"} {
		if l, err := net.Listen("tcp4", "127.0.0.1:"+usual); err == nil { // else another has it
			t.Cleanup(func() { _ = l.Close() })
		}
	}
}

// The server comes back on the ports that it had, for clients look for it there.
func TestServerKeepsItsPorts(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	programs(t, map[string]string{"morgana-devserver": "BE_SERVER=1 exec " + self + ` "$@"`})
	d := dev{folder: t.TempDir()}
	t.Cleanup(func() { d.down(context.Background()) })
	if err := writeJSON(d.path(lastFile), serverInfo{Address: fmt.Sprintf("127.0.0.1:%d", need.Port(t))}); err != nil {
		t.Fatal(err)
	}
	first, err := d.startServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again := func(what string) serverInfo {
		t.Helper()
		s, err := d.startServer(t.Context())
		if err != nil || s.Address != first.Address || s.PID == first.PID {
			t.Errorf("%s: the server was %+v and is %+v, %v", what, first, s, err)
		}
		return s
	}
	if stopped := d.down(t.Context()); len(stopped) != 1 {
		t.Errorf("down stopped %q", stopped)
	}
	second := again("after dev down")

	if err := syscall.Kill(second.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for own.StartTime(second.PID) != "" || !free(strings.TrimPrefix(first.Address, "127.0.0.1:")) {
		time.Sleep(10 * time.Millisecond)
	}
	// A process that dies slowly holds the database's lock, then the port.
	held, err := os.Create(d.path(databaseFile + ".lock"))
	if err == nil {
		err = unix.Flock(int(held.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", first.Address)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(300*time.Millisecond, func() { _ = held.Close() })
	time.AfterFunc(600*time.Millisecond, func() { _ = l.Close() })
	again("after kill -9")
}

// dev up warns if its server will not be used.
func TestUpBesideAnotherServer(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	programs(t, map[string]string{"morgana-devserver": "BE_SERVER=1 exec " + self + ` "$@"`, "morgana-worker": worksUntilStopped})
	t.Cleanup(func() { _ = run(context.Background(), []string{"dev", "down"}, io.Discard, io.Discard) })
	if status, out, errOut := morgana(t, "dev", "up"); status != 0 || errOut != "" {
		t.Fatalf("exit %d, %s%s", status, out, errOut)
	}
	t.Setenv("TEMPORAL_ADDRESS", "temporal.example:7233")
	const want = "warning: the other commands use the Temporal server at temporal.example:7233, not this one: "
	if status, out, errOut := morgana(t, "dev", "up"); status != 0 || !strings.HasPrefix(errOut, want) || strings.Count(errOut, "\n") != 1 {
		t.Errorf("exit %d, %s%s", status, out, errOut)
	}
}

// A client finds a server that has come back on another port, and takes no other
// for it.
func TestClientFollowsTheServer(t *testing.T) {
	programs(t, map[string]string{"morgana-devserver": "exec " + devserverBinary(t) + ` "$@"`})
	c := &cli{err: new(strings.Builder), output: "text"}
	c.root()
	settings, err := config.LoadSettings(c.flags)
	if err != nil {
		t.Fatal(err)
	}
	d, err := openDev(settings)
	if err == nil {
		err = os.MkdirAll(d.folder, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	first, err := d.startServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.down(context.Background()) })
	to, err := c.connect(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := writeJSON(d.path(lastFile), serverInfo{}); err != nil { // its ports are taken, say
		t.Fatal(err)
	}
	second, err := d.startServer(t.Context())
	if err != nil || second.Address == first.Address {
		t.Fatalf("it was at %s and is at %s, %v", first.Address, second.Address, err)
	}
	list := func(limit time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		_, err := to.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Namespace: to.namespace})
		return err
	}
	if err := list(2 * time.Minute); err != nil {
		t.Errorf("the client that was connected: %v", err)
	}

	// Another user's server on the port of ours is not ours.
	if err := syscall.Kill(second.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	address := strings.TrimPrefix(second.Address, "127.0.0.1:")
	for !free(address) {
		time.Sleep(10 * time.Millisecond)
	}
	other := exec.Command(devserverBinary(t), "--port", address, "--ui-port", "0", "--db", filepath.Join(t.TempDir(), "t.db"))
	ready, err := other.StdoutPipe()
	if err == nil {
		err = other.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = other.Process.Kill(), other.Wait() }) // its database goes with it
	if _, err := bufio.NewReader(ready).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := list(3 * time.Second); err == nil || !lost(err) {
		t.Errorf("another server was asked: %v", err)
	}
}

// A file that may not be read does not mean that nothing runs.
func TestStateOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	folder, err := os.MkdirTemp("", "state") // t.TempDir's parent is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	self, err := os.Executable()
	if err == nil {
		err = exec.Command("cp", self, filepath.Join(folder, "morgana")).Run()
	}
	if err == nil {
		err = errors.Join(os.Chmod(folder, 0o755), os.MkdirAll(filepath.Join(folder, "mine", "dev"), 0o700),
			os.Chown(filepath.Join(folder, "mine"), 12345, 12345), os.Mkdir(filepath.Join(folder, "roots"), 0o700))
	}
	if err != nil {
		t.Fatal(err)
	}
	for state, want := range map[string]string{
		"roots": "use state folder " + folder + "/roots: it belongs to user 0, not to user 12345",
		"mine":  "look for our own server: open " + folder + "/mine/dev/server.json: permission denied",
	} {
		cmd := exec.Command(filepath.Join(folder, "morgana"), "dev", "status")
		cmd.Env = []string{"BE_MORGANA=1", "HOME=" + folder, "MORGANA_STATE=" + filepath.Join(folder, state)}
		cmd.Dir = folder
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
		out, _ := cmd.CombinedOutput() // the exit status is below
		if cmd.ProcessState.ExitCode() != 2 || !strings.HasPrefix(string(out), "error: "+want) {
			t.Errorf("exit %d: %s\nwant 2: %s", cmd.ProcessState.ExitCode(), out, want)
		}
	}
}
