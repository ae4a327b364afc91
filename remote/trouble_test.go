package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

func TestOpen(t *testing.T) {
	for address, want := range map[string]string{
		"": "this host", "ssh://xen1": "", "ssh://root@xen1": "", "ssh://root@xen1:2222": "", "ssh://a.b-c_d@[::1]:22": "", "ssh://[fe80::1%25eth0]": "ssh://[fe80::1%eth0]",
	} {
		if want == "" {
			want = address
		}
		h, err := Open(address)
		if err != nil || h.String() != want || h.Local() != (address == "") {
			t.Errorf("%q: %v, %v", address, h, err)
		}
	}
	for _, address := range []string{
		"xen1", "root@xen1", "ssh:xen1", "ssh://", "ssh:///x", "http://xen1", "ssh://-oProxyCommand=id", "ssh://-x@h", "ssh://$(id)@h", "ssh://a%20b@h", "ssh://@h",
		"ssh://h`id`", "ssh://h;id", "ssh://h%0a", "ssh://u:p@h", "ssh://h/", "ssh://h/x", "ssh://h?x", "ssh://h#x", "ssh://h:", "ssh://h:0", "ssh://h:65536", "ssh://h:x", "ssh://a b",
	} {
		var e *step.Error
		if h, err := Open(address); !errors.As(err, &e) || e.Kind != step.InvalidSpec || e.Field != "host" || e.Hint == "" {
			t.Errorf("%q: %+v, %v", address, h, err)
		}
	}
}

// What is told to do by hand gets where we get.
func TestByHand(t *testing.T) {
	for _, c := range []struct {
		host           Host
		login, command string
	}{
		{Host{}, "", "xl list"},
		{Host{config: "/x"}, "", "xl list"},
		{Host{name: "xen1"}, "ssh xen1", "ssh xen1 xl list"},
		{Host{user: "root", name: "::1", port: "22", config: "/a b/it's"}, `ssh -F '/a b/it'\''s' -p 22 root@::1`, `ssh -F '/a b/it'\''s' -p 22 root@::1 xl list`},
	} {
		if login, command := c.host.ByHand(), c.host.ByHand("xl", "list"); login != c.login || command != c.command {
			t.Errorf("%+v: %s; %s", c.host, login, command)
		}
	}
	s := serve(t)
	h := s.host()
	if out := run(t, "sh", "-c", h.ByHand("echo", "there")); out != "there\n" {
		t.Errorf("%q", out)
	}
	for log, want := range map[string]string{
		"Host key verification failed.":                                "log in once by hand (" + h.ByHand() + ")",
		"Host key for h has changed.\nHost key verification failed.":   "-f the UserKnownHostsFile of " + h.config,
		"me@h: Permission denied (publickey).":                         h.ByHand() + " must log in",
		"Received disconnect: Too many authentication failures":        "for this host in " + h.config,
		"ssh: Could not resolve hostname h: Name or service not known": "a Host line in " + h.config,
		h.config + ": line 1: Bad configuration option: x":             h.ssh("-G") + " reads it",
	} {
		var e *step.Error
		if !errors.As(said("connect", h, log), &e) || !strings.Contains(e.Hint, want) || strings.Contains(e.Hint, "~/.ssh") {
			t.Errorf("%s: hint %q, want %q", log, e.Hint, want)
		}
		// Without it, ssh's own.
		if !errors.As(said("connect", &Host{name: "h"}, log), &e) || strings.Contains(e.Hint, "-F") || strings.Contains(e.Hint, "-f") {
			t.Errorf("%s: hint %q", log, e.Hint)
		}
	}
}

// trouble runs a command that must not run.
func trouble(t *testing.T, h *Host) *step.Error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out bytes.Buffer
	err := h.Run(ctx, Command{Argv: []string{"echo", "ran"}, Stdout: &out})
	var e *step.Error
	if !errors.As(err, &e) || out.Len() > 0 {
		t.Fatalf("%v, said %q", err, out.String())
	}
	t.Logf("%s: %s (%s)", e.Kind, e, e.Hint)
	if strings.ContainsAny(e.Error(), "\r\n") || e.Kind.Final() != (e.Hint != "") {
		t.Errorf("not one line, or without a hint: %q %q", e, e.Hint)
	}
	return e
}

func TestTroubleConnecting(t *testing.T) {
	for _, c := range []struct {
		name, sshd string
		spoil      func(s *server, h *Host)
		kind       step.Kind
		field, say string
	}{
		{"unknown host key", "", func(s *server, h *Host) { s.write("known", "") },
			step.Unauthorized, "", "its host key is not in known_hosts"},
		{"unknown host key, not asked for", "", func(s *server, h *Host) {
			s.write("known", "")
			s.configure("StrictHostKeyChecking no\nNoHostAuthenticationForLocalhost yes\nLogLevel QUIET")
		}, step.Unauthorized, "", "its host key is not in known_hosts"},
		{"changed host key", "", func(s *server, h *Host) { s.know("other") },
			step.Unauthorized, "", "its host key is not the one in known_hosts"},
		{"changed host key, not asked for", "", func(s *server, h *Host) { s.know("other"); s.configure("StrictHostKeyChecking no") },
			step.Unauthorized, "", "its host key is not the one in known_hosts"},
		{"revoked host key", "", func(s *server, h *Host) {
			s.know("host")
			text, _ := os.ReadFile(s.file("known"))
			s.write("known", "@revoked "+string(text))
		}, step.Unauthorized, "", "its host key is marked as revoked"},
		{"refused key", "", func(s *server, h *Host) { s.configure("IdentityFile " + s.file("stranger")); s.write("user", "") },
			step.Unauthorized, "", "@127.0.0.1: Permission denied (publickey)"},
		{"wrong user", "", func(s *server, h *Host) { h.user = "nobody-here" },
			step.Unauthorized, "", "nobody-here@127.0.0.1: Permission denied (publickey)"},
		{"too many keys", "MaxAuthTries 1", func(s *server, h *Host) {
			s.configure("IdentityFile " + s.file("other") + "\nIdentityFile " + s.file("stranger"))
		}, step.Unauthorized, "", "too many keys were offered before the right one"},
		{"connection refused", "", func(s *server, h *Host) { s.stop() },
			"", "", ": 127.0.0.1 port PORT: Connection refused"},
		{"no such host", "", func(s *server, h *Host) { h.name, h.port = "no-such-host.invalid", "" },
			step.NotFound, "host", `no host "no-such-host.invalid" is known here`},
		{"bad option", "", func(s *server, h *Host) { s.configure("Frobnicate yes") },
			step.InvalidSpec, "", "CONFIG: line 1: Bad configuration option: frobnicate"},
		{"bad value", "", func(s *server, h *Host) { s.configure("Port many") },
			step.InvalidSpec, "", "CONFIG line 1: Bad port 'many'"},
		{"no such config", "", func(s *server, h *Host) { h.config = "/no/such/file" },
			step.NotFound, "", "names a file that is not there: /no/such/file"},
		{"config that cannot be read", "", func(s *server, h *Host) { h.config = "/dev/null/x" },
			step.InvalidSpec, "", "Can't open user config file /dev/null/x: Not a directory"},
		{"no common cipher", "Ciphers aes128-ctr", func(s *server, h *Host) { s.configure("Ciphers aes256-ctr") },
			step.Unsupported, "", "no matching cipher found"},
		{"no commands", "ForceCommand echo This account is currently not available.; exit 1", nil,
			step.Unsupported, "", "the account runs no commands: This account is currently not available."},
		{"no ssh", "", func(s *server, h *Host) { s.t.(*testing.T).Setenv("PATH", "/no/such") },
			step.Unsupported, "", "ssh is not installed"},
		{"hung up on", "", func(s *server, h *Host) { s.configure("ProxyCommand sleep 0.1") },
			"", "", "Connection closed by"},
		{"folder of others", "", func(s *server, h *Host) {
			if err := os.Mkdir(filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "morgana"), 0o755); err != nil {
				s.t.Fatal(err)
			}
		}, step.Unauthorized, "", "is not a folder of this user's alone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, c.sshd)
			h := s.host()
			if c.spoil != nil {
				c.spoil(s, h)
			}
			e := trouble(t, h)
			say := strings.NewReplacer("PORT", fmt.Sprint(s.port), "CONFIG", s.configFile).Replace(c.say)
			if e.Kind != c.kind || e.Field != c.field || !strings.Contains(e.Error(), say) {
				t.Errorf("%s %s: %s\nwant %s %s: %s", e.Kind, e.Field, e, c.kind, c.field, say)
			}
		})
	}
}

// Whatever ~/.ssh/config has for people's own logins does no harm.
func TestUsersConfigDoesNoHarm(t *testing.T) {
	s := serve(t, "ForceCommand echo noise of the shell; printf more; eval \"$SSH_ORIGINAL_COMMAND\"", "HostKey DIR/second")
	touched := s.file("touched")
	s.configure(strings.Join([]string{"PermitLocalCommand yes", "LocalCommand touch " + touched, "RemoteCommand echo mine", "RequestTTY force",
		"LogLevel DEBUG3", "ControlMaster yes", "ControlPath " + s.file("theirs"), "ControlPersist no", "LocalForward " + s.file("forward") + " 127.0.0.1:1", "ExitOnForwardFailure yes",
		"StdinNull yes", "ForkAfterAuthentication yes", "SessionType none", "EscapeChar x", "VisualHostKey yes", "BatchMode no",
		"ForwardAgent yes", "Tunnel yes", "UpdateHostKeys yes", "StrictHostKeyChecking no", "SendEnv LC_ALL", "ServerAliveInterval 0"}, "\n"))
	before, _ := os.ReadFile(s.file("known"))
	var out bytes.Buffer
	stdin := "x. \n\n~.\nend"
	err := s.host().Run(t.Context(), Command{Argv: []string{"sh", "-c", "cat; tty -s || exit 3"}, Stdin: strings.NewReader(stdin), Stdout: &out})
	var exit *Exit
	if !errors.As(err, &exit) || exit.Status != 3 || exit.Stderr != "" || out.String() != stdin {
		t.Errorf("%v %+v, said %q", err, exit, out.String())
	}
	output(t, s.host(), "true")
	if n := s.logins(); n != 1 {
		t.Errorf("%d logins, want 1", n)
	}
	if _, err := os.Stat(touched); err == nil {
		t.Error("LocalCommand was run")
	}
	if _, err := os.Stat(s.file("forward")); err == nil {
		t.Error("a port was forwarded")
	}
	if after, _ := os.ReadFile(s.file("known")); !bytes.Equal(before, after) {
		t.Error("known_hosts was written")
	}
}

// A connection that is lost while a command runs is passing trouble, and the next
// command has a new one.
func TestLostWhileRunning(t *testing.T) {
	kill := func(t *testing.T, pids []int) {
		t.Helper()
		if len(pids) == 0 {
			t.Fatal("nothing to kill")
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	for _, c := range []struct {
		name string
		cut  func(t *testing.T, s *server)
	}{
		{"ssh killed", func(t *testing.T, s *server) {
			kill(t, slices.DeleteFunc(s.clients(), func(pid int) bool { return slices.Contains(s.masters(), pid) }))
		}},
		{"ssh in the background killed", func(t *testing.T, s *server) { kill(t, s.masters()) }},
		{"sshd killed", func(t *testing.T, s *server) { kill(t, s.sessions()); _ = s.process.Wait(); s.start("host") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t)
			began, ended := make(chan bool, 1), make(chan error, 1)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			go func() {
				ended <- s.host().Run(ctx, Command{Argv: []string{"sh", "-c", "echo; exec cat"}, Stdin: forever{ctx}, Stdout: writer(func() { began <- true })})
			}()
			select {
			case <-began:
			case err := <-ended:
				t.Fatal(err)
			}
			c.cut(t, s)
			err := <-ended
			var e *step.Error
			if !errors.As(err, &e) || e.Kind != "" || !strings.HasPrefix(e.Error(), "run sh on "+s.host().String()+": the connection was lost while it ran") || strings.ContainsAny(e.Error(), "\r\n") {
				t.Errorf("%v", err)
			}
			t.Log(err)
			if got := output(t, s.host(), "echo", "again"); got != "again\n" {
				t.Errorf("afterwards: %q", got)
			}
			output(t, s.host(), "true")
			want := 2
			if c.name == "ssh killed" {
				want = 1
			}
			if n := s.logins(); n != want {
				t.Errorf("%d logins, want %d", n, want)
			}
		})
	}
}

// Commands that wait for the same login get its error, instead of trying it all
// one after the other; and a login can be cancelled.
func TestDownForAll(t *testing.T) {
	s := serve(t)
	s.configure("ProxyCommand sh -c 'echo >>" + s.file("tried") + "; sleep 1.5'")
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if err := s.host().Run(t.Context(), Command{Argv: []string{"true"}}); err == nil || step.KindOf(err) != "" {
				t.Errorf("%v", err)
			}
		})
	}
	all.Wait()
	if tried, _ := os.ReadFile(s.file("tried")); len(tried) == 0 || len(tried) > 3 {
		t.Errorf("tried %d times, want 1 to 3", len(tried))
	}

	s.configure("ProxyCommand sleep 1000")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	err := s.host().Run(ctx, Command{Argv: []string{"true"}})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > time.Minute {
		t.Errorf("%v after %v", err, time.Since(start))
	}
	if pids := s.clients(); len(pids) > 0 {
		t.Errorf("left: %v", pids)
	}
}

func TestNeeds(t *testing.T) {
	if n := Needs(t.Context()); len(n) != 1 || n[0].What != "ssh" || !strings.Contains(n[0].Found, "OpenSSH") || n[0].Fix != "" {
		t.Errorf("%+v", n)
	}
	t.Setenv("PATH", "/no/such")
	if n := Needs(t.Context()); len(n) != 1 || n[0].Found != "" || n[0].Fix == "" {
		t.Errorf("%+v", n)
	}
}

func TestCancelLeavesNoProcess(t *testing.T) {
	test := func(t *testing.T, h *Host, left func() []int) {
		ctx, cancel := context.WithCancel(t.Context())
		pid := make(chan int, 1)
		ended := make(chan error, 1)
		started := new(bytes.Buffer)
		go func() {
			ended <- h.Run(ctx, Command{
				Argv: []string{"sh", "-c", "sleep 1000 & echo $!; echo; cat"}, Stdin: forever{ctx},
				Stdout: io.MultiWriter(started, writer(func() {
					if n, err := strconv.Atoi(strings.TrimSpace(started.String())); err == nil {
						select {
						case pid <- n:
						default:
						}
					}
				}))})
		}()
		sleep := <-pid
		cancel()
		now := time.Now()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		if d := time.Since(now); d > time.Minute {
			t.Errorf("it took %v", d)
		}
		if pids := left(); len(pids) > 0 {
			t.Errorf("processes %v are left", pids)
		}
		alive := func() bool {
			stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", sleep))
			return len(stat) > 0 && !bytes.Contains(stat, []byte(") Z "))
		}
		if h.Local() {
			wait(t, "the command's child is gone", func() bool { return !alive() })
		}
		if !h.Local() {
			if !alive() { // as Run's doc says
				t.Error("a remote command that neither reads nor writes was killed")
			}
			_ = syscall.Kill(sleep, syscall.SIGKILL)
		}
	}
	t.Run("here", func(t *testing.T) { test(t, &Host{}, func() []int { return nil }) })
	t.Run("ssh", func(t *testing.T) {
		s := serve(t)
		test(t, s.host(), func() []int {
			var left []int
			for _, pid := range s.clients() {
				if !strings.Contains(fmt.Sprint(s.masters()), strconv.Itoa(pid)) {
					left = append(left, pid)
				}
			}
			return left
		})
		output(t, s.host(), "true")
		if n := s.logins(); n != 1 {
			t.Errorf("%d logins: the connection was cancelled as well", n)
		}
	})
}
