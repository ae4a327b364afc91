// Package gittest serves git repositories on loopback for tests: by http with git's own
// http-backend, and by ssh with a real sshd.
package gittest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/need"
)

// Repo is a repository with a work tree.
type Repo struct {
	t testing.TB
	// Folder is the work tree.
	Folder string
}

// New makes an empty repository with branch main in a new folder of parent.
func New(t testing.TB, parent, name string) *Repo {
	t.Helper()
	need.Tools(t, "git")
	r := &Repo{t: t, Folder: filepath.Join(parent, name)}
	Git(t, parent, "init", "-q", "-b", "main", name)
	return r
}

// Git runs git in a folder and returns its output without the last newline.
func Git(t testing.TB, folder string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// Git runs git in the work tree.
func (r *Repo) Git(args ...string) string {
	r.t.Helper()
	return Git(r.t, r.Folder, args...)
}

// Commit writes files, a map from name to content, and commits the whole work tree. A
// content that begins with "#!" is executable, and "-> x" is a link. It returns the commit.
func (r *Repo) Commit(files map[string]string) string {
	r.t.Helper()
	for name, text := range files {
		path := filepath.Join(r.Folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			r.t.Fatal(err)
		}
		mode := os.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		var err error
		if to, link := strings.CutPrefix(text, "-> "); link {
			err = os.Symlink(to, path)
		} else {
			err = os.WriteFile(path, []byte(text), mode)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
	r.Git("add", "--all")
	r.Git("commit", "-q", "--allow-empty", "-m", "a commit")
	return r.Git("rev-parse", "HEAD")
}

// HTTP serves the repositories of a folder.
type HTTP struct {
	*httptest.Server
	// Requests counts the requests.
	Requests atomic.Int64
	// Password is that of user "ann"; empty lets everybody in.
	Password string
	// Status, if it is not 0, is the answer to every request.
	Status int

	held atomic.Int64
	stop atomic.Value // chan struct{}
}

// Hold holds the answers with objects until the channel is closed.
func (h *HTTP) Hold(until chan struct{}) { h.stop.Store(until) }

// Held is how many answers were held.
func (h *HTTP) Held() int { return int(h.held.Load()) }

// ServeHTTP serves the repositories in a folder.
func ServeHTTP(t testing.TB, folder string) *HTTP {
	t.Helper()
	h := &HTTP{}
	backend := &cgi.Handler{
		Path:   filepath.Join(Git(t, folder, "--exec-path"), "git-http-backend"),
		Env:    []string{"GIT_PROJECT_ROOT=" + folder, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null"},
		Stderr: io.Discard, // of repositories that are not there
	}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.Requests.Add(1)
		name, password, _ := r.BasicAuth()
		switch {
		case h.Status != 0:
			w.WriteHeader(h.Status)
			return
		case h.Password != "" && (name != "ann" || password != h.Password):
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if stop, _ := h.stop.Load().(chan struct{}); stop != nil && strings.HasSuffix(r.URL.Path, "/git-upload-pack") && asksForObjects(r) {
			h.held.Add(1)
			select {
			case <-stop:
			case <-r.Context().Done():
				return
			}
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { h.CloseClientConnections(); h.Close() })
	return h
}

// asksForObjects reports whether the request is for objects, and not for refs only.
func asksForObjects(r *http.Request) bool {
	body, err := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	return err == nil && !bytes.Contains(body, []byte("command=ls-refs"))
}

// URL is that of a repository in the folder.
func (h *HTTP) URL(name string) string { return h.Server.URL + "/" + name }

// SSH is a real sshd on a free port, which lets in the key of the client's configuration.
type SSH struct {
	t       testing.TB
	folder  string
	port    int
	process *exec.Cmd
	// Config is the file for MORGANA_SSH_CONFIG.
	Config string
}

// ServeSSH starts an sshd.
func ServeSSH(t testing.TB) *SSH {
	t.Helper()
	need.Tools(t, "/usr/sbin/sshd", "ssh-keygen") // Debian: openssh-server
	if os.Getuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // a service makes it otherwise
			t.Fatal(err)
		}
	}
	s := &SSH{t: t, folder: t.TempDir()}
	s.Config = s.file("config")
	for _, key := range []string{"host", "other", "user", "stranger"} {
		if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", s.file(key)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	s.write("authorized", s.read("user.pub"))
	s.port = need.Port(t)
	s.Know("host")
	s.Offer("user")
	s.write("sshd_config", fmt.Sprintf("ListenAddress 127.0.0.1:%d\nHostKey %s\nAuthorizedKeysFile %s\nPasswordAuthentication no\n"+
		"KbdInteractiveAuthentication no\nStrictModes no\nPermitRootLogin prohibit-password\nPidFile none\nSetEnv HOME=%s\n",
		s.port, s.file("host"), s.file("authorized"), s.folder))
	s.process = exec.CommandContext(t.Context(), "/usr/sbin/sshd", "-D", "-e", "-f", s.file("sshd_config"))
	s.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
		if err == nil {
			_ = c.Close()
			return s
		}
		if time.Now().After(end) {
			t.Fatal("sshd does not listen")
		}
	}
}

// Stop ends sshd.
func (s *SSH) Stop() {
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
}

// Know puts a key into the client's known_hosts: "host" is the right one, "other" another,
// "" none.
func (s *SSH) Know(key string) {
	line := ""
	if key != "" {
		line = fmt.Sprintf("[127.0.0.1]:%d %s", s.port, s.read(key+".pub"))
	}
	s.write("known", line)
}

// Offer makes the client offer a key: "user" is let in, "stranger" is not. To the client the
// server is also "lab". The configuration asks for no check of host keys.
func (s *SSH) Offer(key string) {
	s.write("config", fmt.Sprintf("IdentityFile %s\nIdentitiesOnly yes\nIdentityAgent none\nStrictHostKeyChecking no\nUserKnownHostsFile %s\nGlobalKnownHostsFile none\n"+
		"Host lab\nHostName 127.0.0.1\nPort %d\n", s.file(key), s.file("known"), s.port))
}

// URL is that of a folder on this host.
func (s *SSH) URL(folder string) string {
	me, err := user.Current()
	if err != nil {
		s.t.Fatal(err)
	}
	return fmt.Sprintf("ssh://%s@127.0.0.1:%d%s", me.Username, s.port, folder)
}

func (s *SSH) file(name string) string { return filepath.Join(s.folder, name) }

func (s *SSH) read(name string) string {
	b, err := os.ReadFile(s.file(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

func (s *SSH) write(name, text string) {
	if err := os.WriteFile(s.file(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}
