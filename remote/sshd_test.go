package remote

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/need"
)

// server is a real sshd on a free port, with keys and files of its own.
type server struct {
	t          testing.TB
	dir        string
	port       int
	process    *exec.Cmd
	user       string
	configFile string
	extra      string // of sshd_config
}

// serve starts an sshd with more lines of sshd_config, where DIR is its folder, and lets the test's connections end with it.
func serve(t testing.TB, extra ...string) *server {
	t.Helper()
	path := "/usr/sbin/sshd" // Debian: openssh-server
	need.Tools(t, path)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		// Where sshd's unprivileged half lives; a service makes it otherwise.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sockets, err := os.MkdirTemp("/tmp", "mr") // t.TempDir's are too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_RUNTIME_DIR", sockets)
	t.Cleanup(func() { _ = os.RemoveAll(sockets) })
	s := &server{t: t, dir: t.TempDir(), user: me.Username, extra: strings.Join(extra, "\n")}
	s.extra = strings.ReplaceAll(s.extra, "DIR", s.dir)
	for _, key := range []string{"host", "other", "user", "stranger"} {
		run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", s.file(key))
	}
	run(t, "ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", s.file("second"))
	public, err := os.ReadFile(s.file("user.pub"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("authorized", string(public))
	s.port = need.Port(t)
	s.know("host")
	s.configure("")
	s.start("host")
	t.Cleanup(func() { s.stop(); s.hangUp() })
	return s
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

func (s *server) file(name string) string { return filepath.Join(s.dir, name) }

func (s *server) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(s.file(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// know puts a key into known_hosts.
func (s *server) know(key string) {
	s.t.Helper()
	public, err := os.ReadFile(s.file(key + ".pub"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.write("known", fmt.Sprintf("[127.0.0.1]:%d %s", s.port, public))
}

// configure writes the user's ssh_config; lines come first and so count.
func (s *server) configure(lines string) {
	s.configFile = s.file("config")
	s.write("config", fmt.Sprintf("%s\nIdentityFile %s\nIdentitiesOnly yes\nUserKnownHostsFile %s\nGlobalKnownHostsFile none\n",
		lines, s.file("user"), s.file("known")))
}

// start runs sshd with the given host key and waits until it listens.
func (s *server) start(key string) {
	s.t.Helper()
	s.write("sshd_config", fmt.Sprintf(`%s
ListenAddress 127.0.0.1:%d
HostKey %s
AuthorizedKeysFile %s
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
PermitRootLogin prohibit-password
PidFile none
LogLevel VERBOSE
SetEnv HOME=%s
`, s.extra, s.port, s.file(key), s.file("authorized"), s.dir)) // bash reads .bashrc under sshd
	log, err := os.OpenFile(s.file("sshd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	s.process = exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", s.file("sshd_config"))
	s.process.Stderr = log
	s.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	wait(s.t, "sshd listens", func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

// stop ends sshd with all its sessions.
func (s *server) stop() {
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
	for _, pid := range processes(s.dir) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for _, pid := range s.sessions() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// sessions are the sshd processes of connections to this server, which have the
// log of their server as stderr.
func (s *server) sessions() []int {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/2")
	var pids []int
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && to == s.file("sshd.log") {
			var pid int
			_, _ = fmt.Sscanf(l, "/proc/%d/", &pid)
			pids = append(pids, pid)
		}
	}
	return pids
}

// hangUp ends the ssh processes in the background.
func (s *server) hangUp() {
	for _, pid := range s.clients() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// clients are the ssh processes of this server's config.
func (s *server) clients() []int { return processes("ssh\x00-T\x00-E\x00", s.configFile) }

// masters are those of them in the background.
func (s *server) masters() []int { return processes("ssh\x00-T\x00-E\x00", s.configFile, "\x00-M\x00") }

// processes lists those that run with all of the words on their command line.
func processes(words ...string) []int {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var pids []int
next:
	for _, f := range all {
		text, _ := os.ReadFile(f)
		for _, w := range words {
			if !bytes.Contains(text, []byte(w)) {
				continue next
			}
		}
		var pid int
		_, _ = fmt.Sscanf(f, "/proc/%d/", &pid)
		pids = append(pids, pid)
	}
	return pids
}

// logins counts the authentications in sshd's log.
func (s *server) logins() int {
	text, _ := os.ReadFile(s.file("sshd.log"))
	return bytes.Count(text, []byte("Accepted publickey"))
}

func (s *server) host() *Host {
	return &Host{user: s.user, name: "127.0.0.1", port: fmt.Sprint(s.port), config: s.configFile}
}

// wait waits until something is so.
func wait(t testing.TB, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not so after 2 minutes: %s", what)
		}
	}
}

// output runs a command that must end well.
func output(t testing.TB, h *Host, argv ...string) string {
	t.Helper()
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := h.Run(ctx, Command{Argv: argv, Stdout: &out}); err != nil {
		t.Fatalf("%q on %v: %v", argv[0], h, err)
	}
	return out.String()
}
