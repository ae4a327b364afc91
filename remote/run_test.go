package remote

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/need"
)

// hostile are arguments that shells, ssh or printf could take for something else.
func hostile() []string {
	var all strings.Builder
	for b := 1; b < 256; b++ {
		all.WriteByte(byte(b))
	}
	return []string{
		"", " ", "\n", "\n\n", "end\n", "a b", " \t lead and trail \t ", `'`, `"`, `\`, `\\`, `\n`, `\0101`, `\c`, "$(id)", "`id`", "${HOME}", "$1",
		"*", "?", "[a-z]", "~", "!!", "#", ";", "&&", "|", ">x", "-", "--", "-n", "-e", "%s", "%b", "x", "xx", "\r\n",
		"\xff\xfe", "\x81\x88", "a\xc3", "é", "日本", all.String(),
		strings.Repeat("long 'argument' \\ \n", 100<<10/19), "",
	}
}

// both runs a test here and over ssh.
func both(t *testing.T, test func(t *testing.T, h *Host)) {
	t.Run("here", func(t *testing.T) { test(t, &Host{}) })
	t.Run("ssh", func(t *testing.T) { test(t, serve(t).host()) })
}

func TestArgumentsArriveAsGiven(t *testing.T) {
	both(t, func(t *testing.T, h *Host) {
		args := hostile()
		got := output(t, h, append([]string{"printf", `%s\0`}, args...)...)
		if want := strings.Join(args, "\x00") + "\x00"; got != want {
			t.Errorf("got %.300q\nwant %.300q", got, want)
		}
		if got := output(t, h, "sh", "-c", "echo $LC_ALL; tty; cat"); got != "C\nnot a tty\n" {
			t.Errorf("environment: %q", got)
		}
		for _, argv := range [][]string{nil, {""}, {"-c"}, {"echo", "a\x00b"}} {
			var exit *Exit
			if err := h.Run(t.Context(), Command{Argv: argv}); err == nil || errors.As(err, &exit) {
				t.Errorf("%q was run: %v", argv, err)
			}
		}
		// What a shell would do itself is not there.
		for _, builtin := range []string{"eval", "exit", "A=b", "."} {
			var exit *Exit
			err := h.Run(t.Context(), Command{Argv: []string{builtin, "echo"}})
			if !errors.As(err, &exit) || exit.Status != 127 && exit.Status != 126 {
				t.Errorf("%s: %v", builtin, err)
			}
		}
	})
}

// What a worker is trusted with is not for what it starts here. ssh has it all, for
// agents and the user's SendEnv.
func TestEnvironment(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "known to ssh only")
	t.Setenv("LC_ALL", "C.UTF-8")
	var names []string
	for line := range strings.Lines(output(t, &Host{}, "env")) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		names = append(names, name)
		if want := os.Getenv(name); value != want && (name != "LC_ALL" || value != "C") {
			t.Errorf("a local command's %s is %q, want %q", name, value, want)
		}
	}
	slices.Sort(names)
	if want := []string{"HOME", "LC_ALL", "PATH"}; !slices.Equal(names, want) {
		t.Errorf("a local command has %q, want %q", names, want) // not what is in them
	}
	s := serve(t, "AcceptEnv AWS_SECRET_ACCESS_KEY")
	s.configure("SendEnv AWS_SECRET_ACCESS_KEY")
	if got := output(t, s.host(), "sh", "-c", "echo $AWS_SECRET_ACCESS_KEY"); got != "known to ssh only\n" {
		t.Errorf("ssh was not given the environment: %q", got)
	}
}

// The script is parsed by any login shell and run by any /bin/sh.
func TestScriptInEveryShell(t *testing.T) {
	bin := t.TempDir()
	var logins, shells []string
	for _, name := range []string{"dash", "bash", "busybox", "zsh", "fish", "tcsh"} {
		path, err := exec.LookPath(name)
		if err != nil {
			if name == "dash" || name == "bash" || name == "busybox" {
				need.Nil(t, err)
			}
			continue
		}
		if name == "busybox" {
			if err := os.Symlink(path, filepath.Join(bin, "sh")); err != nil {
				t.Fatal(err)
			}
			path = filepath.Join(bin, "sh")
		}
		logins = append(logins, path)
		if name != "fish" && name != "tcsh" && name != "zsh" {
			shells = append(shells, path)
		}
	}
	const rest = "the\x00rest\n"
	for _, login := range logins {
		for _, shell := range shells {
			t.Run(filepath.Base(login)+" runs "+filepath.Base(shell), func(t *testing.T) {
				args, token := hostile(), newToken()
				head := header(token, append([]string{"/bin/sh", "-c", `printf '%s\0' "$@"; cat; exit 255`, "sh"}, args...))
				run := func(stdin string) (string, string, error) {
					cmd := exec.Command(login, "-c", strings.Replace(script, "/bin/sh", shell, 1))
					var stdout, stderr bytes.Buffer
					cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
					cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
					err := cmd.Run()
					return stdout.String(), stderr.String(), err
				}
				stdout, stderr, err := run(string(head) + rest)
				if n, _ := status(err); n != 255 || stderr != token+"\n" {
					t.Errorf("%v, stderr %.300q", err, stderr)
				}
				if want := token + "\n" + strings.Join(args, "\x00") + "\x00" + rest; stdout != want {
					t.Errorf("got %.300q\nwant %.300q", stdout, want)
				}
				// A connection lost while the arguments are sent runs nothing.
				for _, n := range []int{0, 10, 33, 36, 40, len(head) - 1, len(head) - 2} {
					if stdout, _, err := run(string(head[:n])); err == nil || stdout != "" {
						t.Errorf("cut after %d bytes: %v, %.100q", n, err, stdout)
					}
				}
			})
		}
	}
}

func TestStdinAndStdoutArriveWhole(t *testing.T) {
	both(t, func(t *testing.T, h *Host) {
		data := make([]byte, 50<<20)
		random := rand.NewChaCha8([32]byte{1})
		if _, err := random.Read(data); err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		err := h.Run(t.Context(), Command{Argv: []string{"cat"}, Stdin: bytes.NewReader(data), Stdout: sum})
		if err != nil || !bytes.Equal(sum.Sum(nil), func() []byte { s := sha256.Sum256(data); return s[:] }()) {
			t.Errorf("not what was sent: %v", err)
		}
		// A command need not read what it is given, nor need there be an end.
		r, w := io.Pipe()
		defer func() { _ = w.Close() }()
		for _, stdin := range []io.Reader{bytes.NewReader(data), r} {
			if err := h.Run(t.Context(), Command{Argv: []string{"true"}, Stdin: stdin}); err != nil {
				t.Errorf("not read: %v", err)
			}
		}
		// What goes wrong on our side is said.
		torn := errors.New("torn")
		err = h.Run(t.Context(), Command{Argv: []string{"cat"}, Stdin: io.MultiReader(strings.NewReader("x"), broken{torn})})
		if !errors.Is(err, torn) {
			t.Errorf("stdin: %v", err)
		}
		err = h.Run(t.Context(), Command{Argv: []string{"yes"}, Stdout: broken{torn}})
		if !errors.Is(err, torn) {
			t.Errorf("stdout: %v", err)
		}
	})
}

type broken struct{ err error }

func (b broken) Read([]byte) (int, error)  { return 0, b.err }
func (b broken) Write([]byte) (int, error) { return 0, b.err }

// Every status, which is also 256 commands over one connection.
func TestStatusOverOneConnection(t *testing.T) {
	check := func(t *testing.T, h *Host, want int, stderr string, argv ...string) {
		t.Helper()
		err := h.Run(t.Context(), Command{Argv: argv})
		if want == 0 && err == nil {
			return
		}
		var exit *Exit
		if !errors.As(err, &exit) || exit.Status != want || !strings.Contains(exit.Stderr, stderr) {
			t.Errorf("%q: %v, want status %d", argv, err, want)
		}
	}
	test := func(t *testing.T, h *Host) {
		var all sync.WaitGroup
		for from := range sessions {
			all.Go(func() {
				for n := from; n < 256; n += sessions {
					check(t, h, n, "said "+strconv.Itoa(n), "sh", "-c", "echo said $1 >&2; exit $1", "sh", strconv.Itoa(n))
				}
			})
		}
		all.Wait()
		check(t, h, 128+9, "", "sh", "-c", "kill -9 $$")
		check(t, h, 128+15, "", "sh", "-c", "kill $$")
		check(t, h, 127, "not found", "no-such-program")
		check(t, h, 127, "not found", "/no/such/program")
		check(t, h, 126, "ermission denied", "/etc/passwd")
		check(t, h, 126, "rgument list too long", "echo", strings.Repeat("x", 200<<10))

		err := h.Run(t.Context(), Command{Argv: []string{"sh", "-c", "yes é | head -c 20001 >&2; echo the end >&2; exit 255"}})
		var exit *Exit
		if !errors.As(err, &exit) || exit.Status != 255 || len(exit.Stderr) < 8190 || len(exit.Stderr) > 8192 || !strings.HasSuffix(exit.Stderr, "\nthe end\n") && !strings.HasSuffix(exit.Stderr, "the end\n") {
			t.Errorf("the tail: %v", err)
		}
		if err == nil || err.Error() != "exit status 255: the end" && !strings.HasSuffix(err.Error(), "the end") {
			t.Errorf("the line: %v", err)
		}
	}
	t.Run("here", func(t *testing.T) { test(t, &Host{}) })
	t.Run("ssh", func(t *testing.T) {
		s := serve(t)
		dir, err := folder()
		if err != nil {
			t.Fatal(err)
		}
		old, past := filepath.Join(dir, "log-old"), time.Now().Add(-2*time.Hour)
		if err := errors.Join(os.WriteFile(old, nil, 0o600), os.Chtimes(old, past, past)); err != nil {
			t.Fatal(err)
		}
		test(t, s.host())
		if n := s.logins(); n != 1 {
			t.Errorf("%d logins, want 1", n)
		}
		if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
			t.Errorf("left beside the socket: %v %v", all, err)
		}
		fds, _ := filepath.Glob("/proc/self/fd/*")
		for _, fd := range fds {
			if to, err := os.Readlink(fd); err == nil && strings.Contains(to, "/log-") {
				t.Errorf("%s is still open", to)
				break
			}
		}
	})
}

// Thirty at once, with no connection yet: all of them run at the same time, on a
// server that takes ten commands per connection and on one that takes two.
func TestManyAtOnce(t *testing.T) {
	for _, c := range []struct {
		sshd           string
		logins, atMost int
	}{{"", 4, 4}, {"MaxSessions 2\nMaxStartups 100", 5, 40}} { // else it drops some by chance
		t.Run(c.sshd, func(t *testing.T) {
			s := serve(t, c.sshd)
			const n = 30
			var all, begun sync.WaitGroup
			begun.Add(n)
			for i := range n {
				all.Go(func() {
					r, w := io.Pipe()
					var once sync.Once
					done := func() { once.Do(begun.Done) }
					var out bytes.Buffer
					go func() { begun.Wait(); _, _ = fmt.Fprint(w, i); _ = w.Close() }()
					err := s.host().Run(t.Context(), Command{Argv: []string{"sh", "-c", "echo begun; cat"}, Stdin: r,
						Stdout: io.MultiWriter(&out, writer(func() { done() }))})
					done()
					if err != nil || out.String() != "begun\n"+strconv.Itoa(i) {
						t.Errorf("%d: %v %q", i, err, out.String())
					}
				})
			}
			all.Wait()
			if n := s.logins(); n < c.logins || n > c.atMost {
				t.Errorf("%d logins, want %d to %d", n, c.logins, c.atMost)
			}
		})
	}
}

type writer func()

func (w writer) Write(p []byte) (int, error) { w(); return len(p), nil }

func TestOutputKeptOpen(t *testing.T) {
	var out bytes.Buffer
	err := (&Host{}).Run(t.Context(), Command{Argv: []string{"sh", "-c", "setsid sleep 1000 & echo $!"}, Stdout: &out})
	pid, convErr := strconv.Atoi(strings.TrimSpace(out.String()))
	if convErr != nil || syscall.Kill(pid, syscall.SIGKILL) != nil {
		t.Errorf("said %q", out.String())
	}
	if err == nil || err.Error() != "run sh on this host: it left a process behind that keeps its output open" {
		t.Errorf("%v", err)
	}
}

// forever is read until ctx ends.
type forever struct{ ctx context.Context }

func (f forever) Read([]byte) (int, error) { <-f.ctx.Done(); return 0, io.EOF }

func BenchmarkTrue(b *testing.B) {
	s := serve(b)
	b.Run("here", func(b *testing.B) {
		for b.Loop() {
			output(b, &Host{}, "true")
		}
	})
	b.Run("shared", func(b *testing.B) {
		for b.Loop() {
			output(b, s.host(), "true")
		}
	})
	b.Run("own", func(b *testing.B) {
		h := s.host()
		for b.Loop() {
			run(b, "ssh", "-F", h.config, "-o", "BatchMode=yes", "-p", h.port, h.user+"@"+h.name, "true")
		}
	})
}

// The kernel kills a child with Pdeathsig when the thread that started it ends, and
// threads end for reasons of the runtime's own.
func TestThreadsThatEnd(t *testing.T) {
	ended := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(100 * time.Microsecond):
				go runtime.LockOSThread() // and its thread ends with it
			}
		}
	})
	var commands sync.WaitGroup
	for range 8 {
		commands.Go(func() {
			for range 20 {
				if err := new(Host).Run(t.Context(), Command{Argv: []string{"sleep", "0.02"}}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	commands.Wait()
	close(ended)
	all.Wait()
}
