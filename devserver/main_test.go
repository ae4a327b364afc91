package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
)

// The tests run this test binary as the server, so that what is killed, locked
// and listened on is a process of its own.
const asServer = "MORGANA_TEST_AS_DEVSERVER"

func TestMain(m *testing.M) {
	if os.Getenv(asServer) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// readyLine is the ready file as its readers see it.
type readyLine struct {
	Address, UI, Namespace string
	PID                    int
}

type server struct {
	readyLine
	cmd       *exec.Cmd
	stderr    *bytes.Buffer
	readyFile string
}

func command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asServer+"=1")
	return cmd
}

// start runs a server on free ports and waits for its ready line. The server
// is killed when the test ends.
func start(t *testing.T, db string, args ...string) *server {
	t.Helper()
	s := &server{stderr: new(bytes.Buffer), readyFile: filepath.Join(filepath.Dir(db), "ready.json")}
	s.cmd = command(append([]string{"--port", "0", "--ui-port", "0", "--db", db, "--ready-file", s.readyFile}, args...)...)
	s.cmd.Stderr = s.stderr
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.cmd.ProcessState == nil {
			s.kill(t)
		}
	})
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		_ = s.cmd.Wait() // what it said is what counts
		t.Fatalf("no ready line: %v; stderr:\n%s", err, s.stderr)
	}
	file, err := os.ReadFile(s.readyFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(line, file) {
		t.Errorf("ready file %q, stdout %q", file, line)
	}
	if err := json.Unmarshal(line, &s.readyLine); err != nil {
		t.Fatal(err)
	}
	if s.PID != s.cmd.Process.Pid {
		t.Errorf("pid %d, want %d", s.PID, s.cmd.Process.Pid)
	}
	return s
}

func (s *server) kill(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = s.cmd.Wait() // it was killed
}

func (s *server) dial(t *testing.T) client.Client {
	t.Helper()
	c, err := client.DialContext(t.Context(), client.Options{HostPort: s.Address, Namespace: s.Namespace, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// quiet drops the SDK's log: a worker complains at length while its server is dead.
type quiet struct{}

func (quiet) Debug(string, ...any) {}
func (quiet) Info(string, ...any)  {}
func (quiet) Warn(string, ...any)  {}
func (quiet) Error(string, ...any) {}

var _ sdklog.Logger = quiet{}

// refused runs a server that is to refuse: exit 2 and one line with want.
func refused(t *testing.T, want string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), asServer+"=1")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitInput {
		t.Errorf("%v, want exit status %d", err, exitInput)
	}
	if strings.Count(stderr.String(), "\n") != 1 || !strings.Contains(stderr.String(), want) {
		t.Errorf("stderr is not one line with %q:\n%s", want, &stderr)
	}
	if stdout.Len() > 0 {
		t.Errorf("stdout: %s", &stdout)
	}
}

func TestStopsOnSignal(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			s := start(t, filepath.Join(t.TempDir(), "t.db"))
			startWorker(t, s.dial(t)) // its long polls last a minute: a stop must not wait for them
			began := time.Now()
			if err := s.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if err := s.cmd.Wait(); err != nil {
				t.Errorf("%v; stderr:\n%s", err, s.stderr)
			}
			if took := time.Since(began); took > 45*time.Second {
				t.Errorf("stopped after %v", took)
			}
			if _, err := os.Stat(s.readyFile); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the ready file is still there: %v", err)
			}
			if s.stderr.Len() > 0 {
				t.Errorf("a plain start and stop logs something:\n%s", s.stderr)
			}
		})
	}
}

func TestRefusesSecondServer(t *testing.T) {
	dir := t.TempDir()
	db := filepath.Join(dir, "t.db")
	s := start(t, db)
	other := filepath.Join(dir, "other.db")
	if err := os.Symlink(db, other); err != nil {
		t.Fatal(err)
	}
	want := "t.db is in use by another server (process " + strconv.Itoa(s.PID) + ")"
	for _, name := range []string{db, other} {
		refused(t, want, "--port", "0", "--ui-port", "0", "--db", name, "--ready-file", s.readyFile)
	}
	if _, err := os.Stat(s.readyFile); err != nil {
		t.Errorf("the first server's ready file: %v", err)
	}
	s.kill(t)
	start(t, db)
}

func TestRefusesTakenPort(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	taken := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	for _, args := range [][]string{{"--port", taken, "--ui-port", "0"}, {"--ui-port", taken, "--port", "0"}} {
		db := filepath.Join(t.TempDir(), "t.db")
		refused(t, "port "+taken+" of 127.0.0.1 is taken: choose another with "+args[0], append(args, "--db", db)...)
		if _, err := os.Stat(db); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a database was made: %v", err)
		}
	}
}

// A connection of another program takes no port before the server does.
func TestPortsAreNotGivenOut(t *testing.T) {
	lowest, err := lowestGiven()
	if err != nil {
		t.Fatal(err)
	}
	if ownPorts() == nil {
		t.Skipf("Linux gives out the ports from %d", lowest)
	}
	p, err := choosePorts(t.Context(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range []int{p.frontend, p.ui, p.history, p.matching, p.worker} {
		if port >= lowest {
			t.Errorf("%+v: Linux gives out the ports from %d", p, lowest)
		}
	}
}

func TestRefusesWhatIsNoDatabase(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "notes.txt")
	if err := os.WriteFile(text, []byte(strings.Repeat("not a database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for db, want := range map[string]string{
		text:                           "file is not a database",
		dir:                            "is not a regular file",
		filepath.Join(dir, "no", "db"): "no such file or directory",
	} {
		refused(t, want, "--port", "0", "--ui-port", "0", "--db", db)
	}
}

func TestRefusesFolderOfOthers(t *testing.T) {
	dir := t.TempDir()
	db := filepath.Join(dir, "t.db")
	refusedHere := func(want string) {
		t.Helper()
		refused(t, want, "--port", "0", "--ui-port", "0", "--db", db)
		if files, err := os.ReadDir(dir); err != nil || len(files) > 0 {
			t.Errorf("%v, %v: something was written", files, err)
		}
	}
	for _, mode := range []os.FileMode{0o777 | os.ModeSticky, 0o770, 0o702} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		refusedHere("other users may write to the folder of --db, " + dir)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, 12345, -1); err != nil {
			t.Fatal(err)
		}
		refusedHere("belongs to user 12345, not to user 0")
	}
}

// A container often runs as a user id that /etc/passwd does not list.
func TestUserWithoutPasswdEntry(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	dir, err := os.MkdirTemp("", "devserver") // t.TempDir's parent is closed to others
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Chown(dir, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	self := filepath.Join(dir, "devserver")
	if err := exec.Command("cp", os.Args[0], self).Run(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "--port", "0", "--ui-port", "0", "--db", filepath.Join(dir, "t.db"))
	cmd.Dir, cmd.Env = dir, []string{asServer + "=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	_ = cmd.Process.Kill() // it may have ended
	_ = cmd.Wait()
	if err != nil {
		t.Errorf("no ready line %q: %v; stderr:\n%s", line, err, &stderr)
	}
}

func TestRefusesUnwritableReadyFile(t *testing.T) {
	dir := t.TempDir()
	refused(t, "--ready-file: open "+dir+"/no/", "--port", "0", "--ui-port", "0",
		"--db", filepath.Join(dir, "t.db"), "--ready-file", filepath.Join(dir, "no", "ready.json"))
}

func TestParse(t *testing.T) {
	o, err := parse([]string{"--db", "f"}, io.Discard)
	if want := (options{port: 7233, uiPort: 8233, db: "f", namespace: "default", logLevel: "warn"}); err != nil || o != want {
		t.Errorf("got %+v, %v", o, err)
	}
	for args, want := range map[string]string{
		"":                               "--db is missing",
		"--db f --prot 1":                "not defined: -prot",
		"--db f --port x":                "invalid value",
		"--db f --port 65536":            "from 0 to 65535",
		"--db f --port 80 --ui-port 80":  "both 80",
		"--db f --log-level loud":        "none of debug info warn error",
		"--db f --namespace=":            "--namespace is empty",
		"--db f now":                     `unexpected argument "now"`,
		"--db f --port -1 --ui-port 900": "from 0 to 65535",
	} {
		_, err := parse(strings.Fields(args), io.Discard)
		if !errors.As(err, new(inputError)) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", args, err, want)
		}
	}
}
