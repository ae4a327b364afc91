package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// devLab is a lab without a server or worker: morgana starts its own, from
// programs of the lab's own, so that a test can replace them.
type devLab struct {
	*lab
	bin string
}

func newDevLab(t *testing.T) *devLab {
	t.Helper()
	l := &devLab{lab: emptyLab(t)}
	l.bin = filepath.Join(l.folder, "bin")
	if err := os.Mkdir(l.bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"morgana", "morgana-worker", "morgana-devserver"} {
		if err := copyFile(filepath.Join(l.bin, name), binary(name)); err != nil {
			t.Fatal(err)
		}
	}
	usualPorts()
	t.Cleanup(func() {
		for _, pid := range slices.Concat(l.background("morgana-worker"), l.background("morgana-devserver"), l.machines()) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // may have ended meanwhile
		}
		if t.Failed() {
			for _, name := range []string{"worker.log", "server.log"} {
				log, _ := os.ReadFile(l.state("dev", name)) // may not have been started
				t.Logf("%s:\n%s", name, lastOf(log, 4000))
			}
		}
	})
	return l
}

// usualPorts holds the ports that the server of morgana dev up takes if they are free: a
// worker of another server may poll there. They are held to the end of all tests, because
// several tests need that at a time.
var usualPorts = sync.OnceValue(func() (held [2]net.Listener) {
	for i, port := range []string{"7233", "8233"} {
		held[i], _ = net.Listen("tcp4", "127.0.0.1:"+port) // or another has it
	}
	return held
})

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read
	// A child forked while the file is open for writing would make it busy: it could not be run.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// background lists the processes that run a program of the lab's.
func (l *devLab) background(name string) (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range all {
		var pid int
		exe, err := os.Readlink(link)
		if err != nil || strings.TrimSuffix(exe, " (deleted)") != filepath.Join(l.bin, name) {
			continue
		}
		if _, err := fmt.Sscanf(link, "/proc/%d/exe", &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// run runs the lab's own morgana.
func (l *devLab) run(folder string, args ...string) result {
	l.t.Helper()
	cmd := exec.Command(filepath.Join(l.bin, "morgana"), args...)
	var out, errOut strings.Builder
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = folder, l.env, &out, &errOut
	if err := cmd.Run(); cmd.ProcessState == nil {
		l.t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

// went runs the lab's own morgana, which must succeed.
func (l *devLab) went(folder string, args ...string) result {
	l.t.Helper()
	r := l.run(folder, args...)
	if r.code != 0 {
		l.t.Fatalf("%q ended with %d:\n%s%s", args, r.code, r.out, r.errOut)
	}
	return r
}

// pair gives the process ids of the server and the worker, of which there must be
// one each.
func (l *devLab) pair() (server, worker int) {
	l.t.Helper()
	servers, workers := l.background("morgana-devserver"), l.background("morgana-worker")
	if len(servers) != 1 || len(workers) != 1 {
		l.t.Fatalf("servers %v, workers %v; want one of each", servers, workers)
	}
	return servers[0], workers[0]
}

var startedBoth = regexp.MustCompile(`^started a Temporal server and a worker on this machine, UI (http://127\.0\.0\.1:\d+) \(morgana dev down stops them\)\n$`)

// Without a Temporal address a server and a worker are started in the
// background, once, and are replaced when they are gone or old.
func TestOwnServer(t *testing.T) {
	t.Parallel()
	l := newDevLab(t)
	folder, _ := l.built(l.kernel(), "home", stays)
	refusal{code: 2, line: "no Temporal server is configured and our own does not run", hint: "morgana dev up"}.matches(t, l.run(folder, "status"))

	r := l.went(folder, "deploy")
	said := startedBoth.FindStringSubmatch(r.errOut)
	if said == nil {
		t.Fatalf("said %q", r.errOut)
	}
	if page, err := http.Get(said[1]); err != nil || page.StatusCode != http.StatusOK {
		t.Errorf("UI: %v, %v", page, err)
	} else {
		_ = page.Body.Close() // only asked for
	}
	server, worker := l.pair()
	machines := l.machines()
	if len(machines) != 1 {
		t.Fatalf("machines %v", machines)
	}
	for _, pid := range []int{server, worker, machines[0]} {
		listening := listening(t, pid)
		for _, at := range listening {
			if !at.IP.IsLoopback() {
				t.Errorf("process %d listens on %v", pid, at)
			}
		}
		if len(listening) == 0 && pid != machines[0] {
			t.Errorf("process %d listens nowhere", pid)
		}
	}

	again := func(what string, wantSaid string) {
		t.Helper()
		began := time.Now()
		r := l.went(folder, "deploy")
		if took := time.Since(began); took > waits || !strings.Contains(r.out, "unchanged, generation 1 is kept") {
			t.Errorf("%s: deployed in %v:\n%s", what, took, r.out)
		}
		if !strings.HasPrefix(r.errOut, wantSaid) || (wantSaid == "") != (r.errOut == "") {
			t.Errorf("%s: said %q, want %q", what, r.errOut, wantSaid)
		}
		if now := l.machines(); !slices.Equal(now, machines) {
			t.Errorf("%s: machines were %v and are %v", what, machines, now)
		}
	}
	replaced := func(what string) {
		t.Helper()
		s, w := l.pair()
		if s != server || w == worker {
			t.Errorf("%s: server and worker were %d, %d and are %d, %d", what, server, worker, s, w)
		}
		worker = w
	}
	again("nothing happened", "")
	if s, w := l.pair(); s != server || w != worker {
		t.Error("server or worker were replaced for nothing")
	}
	if err := syscall.Kill(worker, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l.eventually("the worker is dead", func() bool { return len(l.background("morgana-worker")) == 0 })
	again("worker killed", "started a worker on this machine, UI "+said[1])
	replaced("worker killed")
	if err := os.Chtimes(filepath.Join(l.bin, "morgana-worker"), time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	again("worker rebuilt", "started a worker on this machine, UI "+said[1])
	replaced("worker rebuilt")

	// Its server killed and started on another port, the worker finds it there.
	at := l.status().Server.Address
	if err := syscall.Kill(server, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l.eventually("its port is free", func() bool {
		held, err := net.Listen("tcp", at)
		if err == nil {
			t.Cleanup(func() { _ = held.Close() }) // nobody spoke to it
		}
		return err == nil
	})
	if err := os.Remove(l.state("dev", "last.json")); err != nil { // or the port is waited for
		t.Fatal(err)
	}
	if r := l.went(folder, "deploy"); !strings.Contains(r.out, "unchanged, generation 1 is kept") {
		t.Errorf("server moved: %+v", r)
	}
	if s, w := l.pair(); s == server || w != worker || l.status().Server.Address == at {
		t.Errorf("server %d at %s and worker %d are %d and %d at %s", server, at, worker, s, w, l.status().Server.Address)
	}

	if r := l.went(folder, "dev", "down"); r.errOut != "stopped: worker, server\n" {
		t.Errorf("down said %q", r.errOut)
	}
	if left := slices.Concat(l.background("morgana-worker"), l.background("morgana-devserver")); len(left) > 0 {
		t.Errorf("%v still run", left)
	}
	again("server and worker stopped", "started a Temporal server and a worker on this machine")
	l.pair()

	if r := l.went(folder, "destroy"); !strings.Contains(r.out, "removed machine home.dev.") {
		t.Errorf("destroy %+v", r)
	}
	l.went(folder, "dev", "down")
	if r := l.went(folder, "dev", "down"); r.errOut != "nothing was running\n" {
		t.Errorf("down said %q", r.errOut)
	}
	if left := l.machines(); len(left) > 0 {
		t.Errorf("machines %v", left)
	}
}

// devStatus is the answer of morgana dev status -o json.
type devStatus struct {
	Server struct {
		Address, UI string
		PID         int
	}
	ServerUp, WorkerUp bool
	WorkerPID          int
	Folder             string
}

func (l *devLab) status() (s devStatus) {
	l.t.Helper()
	if err := json.Unmarshal([]byte(l.went(l.folder, "dev", "status", "-o", "json").out), &s); err != nil {
		l.t.Fatal(err)
	}
	return s
}

// Several "dev up" at once start one server and one worker. A port that another
// process holds is not taken.
func TestDevUp(t *testing.T) {
	t.Parallel()
	l := newDevLab(t)
	if s := l.status(); s.ServerUp || s.WorkerUp || s.Folder != l.state("dev") {
		t.Errorf("status %+v", s)
	}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			if r := l.run(l.folder, "dev", "up"); r.code != 0 || !strings.Contains(r.out, "worker   running") {
				t.Errorf("up: %+v", r)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	server, worker := l.pair()
	s := l.status()
	if !s.ServerUp || !s.WorkerUp || s.Server.PID != server || s.WorkerPID != worker {
		t.Errorf("status %+v, want server %d and worker %d", s, server, worker)
	}
	if strings.HasSuffix(s.Server.Address, ":7233") || strings.HasSuffix(s.Server.UI, ":8233") {
		t.Errorf("took ports of others: %+v", s)
	}
	if r := l.went(l.folder, "status"); r != (result{0, "", "no deployments run\n"}) {
		t.Errorf("status %+v", r)
	}
	l.went(l.folder, "dev", "down", "-o", "json")
	if s := l.status(); s.ServerUp || s.WorkerUp {
		t.Errorf("status %+v", s)
	}
}

// listening lists where a process listens by TCP.
func listening(t *testing.T, pid int) (at []net.TCPAddr) {
	t.Helper()
	sockets := map[string]bool{}
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil {
			sockets[target] = true
		}
	}
	if len(sockets) == 0 {
		t.Errorf("process %d has no open files", pid)
	}
	for _, table := range []string{"tcp", "tcp6"} {
		text := readAll(t, fmt.Sprintf("/proc/%d/net/%s", pid, table))
		for line := range strings.Lines(text) {
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != "0A" || !sockets["socket:["+f[9]+"]"] { // 0A: TCP_LISTEN
				continue
			}
			var ip []byte
			var port int
			if _, err := fmt.Sscanf(strings.Replace(f[1], ":", " ", 1), "%x %x", &ip, &port); err != nil {
				t.Fatalf("%q: %v", f[1], err)
			}
			for word := range slices.Chunk(ip, 4) { // each is little-endian
				slices.Reverse(word)
			}
			at = append(at, net.TCPAddr{IP: ip, Port: port})
		}
	}
	return at
}
