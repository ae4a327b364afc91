package local

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
)

func TestConformance(t *testing.T) {
	t.Setenv("MORGANA_TEST_TOKEN", "abracadabra-42")
	steptest.Run(t, steptest.Case{
		New: func(site step.Site) step.Target { return New(site) },
		Spec: step.Spec{Kind: Kind, Options: json.RawMessage(
			`{"args":["hello","env","stay"],"expect":"hello","networks":[{"name":"service","by":"fd"},{"name":"other"}],"blocks":[{"name":"data","size":1}]}`)},
		Kernel:     file(t, linux),
		ABIs:       []string{image.LinuxExecutable},
		Misspelt:   json.RawMessage(`{"netwroks":[]}`),
		Nearest:    "networks",
		Changed:    json.RawMessage(`{"args":["hello"]}`),
		NeverReady: json.RawMessage(`{"args":["hello","stay"],"expect":"never said","networks":[{"name":"service","by":"fd"},{"name":"other"}]}`),
		ConsoleHas: "hello from a Linux process",
		Ends:       json.RawMessage(`{"args":["hello","nap","500"],"expect":"hello"}`),
		Secrets:    []string{"abracadabra-42"},
		Resources:  resources,
	})
}

// What a program is given: its words, its environment and nothing of the
// worker's, and where it stands.
func TestProgramIsGiven(t *testing.T) {
	t.Setenv("MORGANA_TEST_TOKEN", "abracadabra-42")
	t.Setenv("LANG", "C.UTF-8")
	b := newBench(t)
	r := b.register(linux, b.spec(`{"args":["say","two words","say","{block:data}","env","mark","{block:data}","complain","exit","0"],
		"env":{"GREETING":"hi {block:data}","TZ":"Europe/Berlin"},"blocks":[{"name":"data","size":3}]}`))
	m, err := b.ends(r)
	if want := "ended with status 0"; err != nil || m.Ready != want || !m.Ended || m.Adopted {
		t.Errorf("got %+v (%v), want %q", m, err, want)
	}
	text, block := b.console(m), r.ID+"/block-data"
	for _, want := range []string{"said: two words\n", "said: " + block + "\n", "env: GREETING=hi " + block + "\n", "env: TZ=Europe/Berlin\n",
		"env: LANG=C.UTF-8\n", "env: PATH=", "block of 3145728 bytes had nothing\n", "this is wrong\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "abracadabra-42") {
		t.Errorf("the worker's environment is given away:\n%s", text)
	}
}

// A MirageOS unix program opens a block device by its name in its working folder, and has
// no argument for it.
func TestBlockByItsName(t *testing.T) {
	b := newBench(t)
	mine := filepath.Join(t.TempDir(), "mine")
	if err := os.WriteFile(mine, append([]byte("my bytes"), make([]byte, 504)...), 0o600); err != nil {
		t.Fatal(err)
	}
	r := b.register(linux, b.spec(`{"args":["mark","store","mark","disk.img"],"expect":"my bytes","blocks":[{"name":"store","size":1},{"name":"disk.img","path":"`+mine+`"}]}`))
	if text := b.console(b.boot(r)); !strings.HasPrefix(text, "block of 1048576 bytes had nothing\nblock of 512 bytes had my bytes\n") {
		t.Errorf("got\n%s", text)
	}
}

// Restart policy none: what has ended is told again, and stays ended.
func TestEndedIsNotStartedAgain(t *testing.T) {
	for _, test := range []struct {
		name, options, ready, failure string
	}{
		{"success", `{"args":["hello"]}`, "ended with status 0", ""},
		{"silent success", `{"args":["nap","300"]}`, "ended with status 0", ""},
		{"success as expected", `{"args":["hello","gate"],"expect":"h.llo"}`, `console matched "h.llo"`, ""},
		{"usage that matches", `{"args":["say","usage: hello","exit","64"],"expect":"hello"}`, "", `ended with status 64, although its console matched "hello"`},
		{"failure soon after its match", `{"args":["hello","nap","100","exit","3"],"expect":"hello"}`, "", `ended with status 3, although its console matched "hello"`},
		{"success, not as expected", `{"args":["hello"],"expect":"bye"}`, "", `ended with status 0 and its console did not match "bye"`},
		{"failure", `{"args":["complain","exit","3"]}`, "", "ended with status 3 and it was not ready"},
		{"failure after its words", `{"args":["complain","nap","100","exit","3"]}`, "", "ended with status 3 and it was not ready"},
		{"late failure", `{"args":["hello","gate","exit","3"]}`, "console printed", ""},
		{"crash", `{"args":["exit","250"]}`, "", "ended with status 250"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			r := b.register(linux, b.spec(test.options))
			if test.failure != "" {
				for range 2 {
					b.refused(r, step.BootFailed, test.failure, "console")
				}
				return
			}
			boot := b.target().Boot
			if strings.HasPrefix(test.ready, "ended") {
				boot = func(_ context.Context, r step.Registration) (step.Machine, error) { return b.ends(r) }
			}
			m, err := boot(t.Context(), r)
			if err != nil || !strings.HasPrefix(m.Ready, test.ready) {
				t.Errorf("got %+v (%v), want %q", m, err, test.ready)
			}
			b.open(r)
			b.until("its end", func() bool { return len(processes(t, b.site)) == 0 })
			again := b.boot(r)
			if !again.Adopted || !again.Ended || !strings.Contains(again.Ready, test.ready) || again.ID != m.ID {
				t.Errorf("then got %+v", again)
			}
			if test.name == "late failure" && !strings.Contains(again.Ready, "ended with status 3") {
				t.Errorf("the status is lost: %+v", again)
			}
		})
	}
}

// The image of a program that ended is one to start anew.
func TestKeptImageStartsAnew(t *testing.T) {
	b := newBench(t)
	r := b.register(linux, b.spec(`{"args":["complain","exit","3"]}`))
	for range 2 {
		b.refused(r, step.BootFailed, "ended with status 3", "console")
		got, err := b.target().Destroy(t.Context(), step.Removal{Spec: r.Spec, KeepImage: true})
		if err != nil || len(got.Removed) > 0 {
			t.Errorf("removed %q, %v", got.Removed, err)
		}
	}
	if end, err := readOutcome(b.machine(r)); end != nil || err != nil {
		t.Errorf("still has %v, %v", end, err)
	}
	if how, ended, err := (&boot{t: b.target(), m: b.machine(r)}).Ended(t.Context()); ended || err != nil {
		t.Errorf("ended: %q, %v", how, err)
	}
}

func TestProgramKilled(t *testing.T) {
	b := newBench(t)
	r := b.register(linux, b.spec(`{"args":["hello","stay"],"expect":"never said"}`))
	errs := make(chan error)
	go func() { _, err := b.target().Boot(t.Context(), r); errs <- err }()
	b.until("the program", func() bool { _, program := b.pids(r); return program != 0 })
	_, program := b.pids(r)
	b.until("its words", func() bool { return b.machine(r).Printed() > 0 })
	if err := syscall.Kill(program, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wantError(t, <-errs, step.BootFailed, "", "killed by signal 9 (killed) and its console did not match", "hello from a Linux process")
	b.refused(r, step.BootFailed, "killed by signal 9 (killed)", "hello from a Linux process")
}

// The kernel kills the program with its supervisor, and the machine is started
// again, as after a power cut.
func TestSupervisorKilled(t *testing.T) {
	b := newBench(t)
	spec := b.spec(`{"args":["hello","ignore-term","stay"],"expect":"hello","networks":[{"name":"service","by":"fd"},{"name":"other"}]}`)
	r := b.register(linux, spec)
	first := b.boot(r)
	_, program := b.pids(r)
	if group, err := syscall.Getpgid(program); err != nil || group != program {
		t.Errorf("the program is in group %d (%v), not its own", group, err)
	}
	b.killSupervisor(r)
	second := b.boot(r)
	if second.Adopted || second.Ended || second.ID != first.ID {
		t.Errorf("got %+v", second)
	}
	b.killSupervisor(r)
	b.destroy(spec)
	if left := resources(t, b.site); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// A power cut may leave a status file that says nothing: the machine was killed.
func TestStatusThatSaysNothing(t *testing.T) {
	for _, status := range []string{"", "{\"status\"", "\x00\x00\x00"} {
		b := newBench(t)
		r := b.register(linux, b.spec(`{"args":["hello","stay"],"expect":"hello"}`))
		if err := os.WriteFile(r.ID+"/status", []byte(status), 0o600); err != nil {
			t.Fatal(err)
		}
		if m := b.boot(r); m.Adopted || m.Ended {
			t.Errorf("%q: got %+v", status, m)
		}
	}
}

// What the program is given is its own: not the supervisor's, which it could
// break, and not in any argument, which all users can read.
func TestEnvironmentIsTheProgramsOwn(t *testing.T) {
	b := newBench(t)
	r := b.register(linux, b.spec(`{"args":["env","hello","stay"],"expect":"hello","env":{"GODEBUG":"abracadabra-43","PATH":"/nowhere"}}`))
	text := b.console(b.boot(r))
	if !strings.Contains(text, "env: GODEBUG=abracadabra-43\n") || !strings.Contains(text, "env: PATH=/nowhere\n") {
		t.Errorf("got\n%s", text)
	}
	supervisor, program := b.pids(r)
	for _, path := range []string{
		fmt.Sprintf("/proc/%d/environ", supervisor), fmt.Sprintf("/proc/%d/cmdline", supervisor), fmt.Sprintf("/proc/%d/cmdline", program),
	} {
		if got, err := os.ReadFile(path); err != nil || bytes.Contains(got, []byte("abracadabra")) || bytes.Contains(got, []byte("/nowhere")) {
			t.Errorf("%s: %q (%v)", path, got, err)
		}
	}
}

func TestDestroyEnds(t *testing.T) {
	const long = 2 * time.Minute
	for _, test := range []struct {
		name, args string
		quit       time.Duration
	}{
		{"one that listens", `"say","x"`, long},
		{"one that does not", `"ignore-term"`, time.Second},
		{"one with children", `"leave","child"`, long},
		{"one with a daemon", `"leave","daemon"`, long},
		{"one with children that do not", `"ignore-term","leave","child"`, time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.quit = test.quit
			spec := b.spec(`{"args":[` + test.args + `,"hello","stay"]}`)
			m := b.boot(b.register(linux, spec))
			text := b.console(m)
			began := time.Now()
			b.destroy(spec)
			if strings.Contains(text, "left") && !gone(leftIn(t, text)) {
				t.Error("what it left is left")
			}
			if took := time.Since(began); took < test.quit != (test.quit == long) {
				t.Errorf("took %s of %s", took, test.quit)
			}
			if left := resources(t, b.site); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

// A supervisor that does not listen is killed, and what its program left goes
// after it.
func TestSupervisorThatDoesNotListen(t *testing.T) {
	for _, how := range []string{"child", "daemon"} { // with the machine's lock, and without
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.quit = time.Second / 2
			spec := b.spec(`{"args":["leave","` + how + `","hello","stay"],"expect":"hello"}`)
			r := b.register(linux, spec)
			left := b.left(b.boot(r))
			supervisor, _ := b.pids(r)
			if supervisor == 0 {
				t.Fatal("no supervisor")
			}
			if err := syscall.Kill(supervisor, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			b.destroy(spec)
			if !gone(supervisor) || !gone(left) {
				t.Errorf("the supervisor is gone: %t, what the program left is: %t", gone(supervisor), gone(left))
			}
		})
	}
}

func TestNotReadyInTime(t *testing.T) {
	b := newBench(t)
	spec := b.spec(`{"args":["hello","stay"],"expect":"never","timeout":"400ms"}`)
	r := b.register(linux, spec)
	_, _ = b.ends(r) // on a slow host its words may come later
	b.until("its words", func() bool { return b.machine(r).Printed() > 0 })
	b.refused(r, step.BootFailed, `not ready after 400ms: its console did not match "never"`, "hello from a Linux process")
	b.destroy(spec)
}

func TestSilentProgramIsReady(t *testing.T) {
	b := newBench(t)
	if m := b.boot(b.register(linux, b.spec(`{"args":["stay"]}`))); m.Ready != "ran for 1s" || m.Ended {
		t.Errorf("got %+v", m)
	}
}

// A compressed kernel is stored and started plain.
func TestCompressedProgram(t *testing.T) {
	b := newBench(t)
	plain, err := os.ReadFile(file(t, linux))
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "program.gz")
	if err := os.WriteFile(path, packed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	k := b.kernel(linux, b.spec(`{"args":["hello"]}`))
	want, err := b.target().Package(t.Context(), k)
	if err != nil {
		t.Fatal(told(err))
	}
	k.File = b.store(path)
	img, err := b.target().Package(t.Context(), k)
	if err != nil {
		t.Fatal(told(err))
	}
	if img.Digest != want.Digest {
		t.Error("a compressed kernel makes another image")
	}
	r, err := b.target().Register(t.Context(), img)
	if err != nil {
		t.Fatal(told(err))
	}
	if m, err := b.ends(r); err != nil || m.Ready != "ended with status 0" {
		t.Errorf("got %+v (%v)", m, err)
	}
}

// A program for another processor or without its loader cannot be started.
func TestProgramCannotStart(t *testing.T) {
	b := newBench(t)
	r := b.register(linux, b.spec(`{"args":["hello"]}`))
	if err := os.WriteFile(r.ID+"/kernel", []byte("\x7fELF no more"), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	b.refused(r, step.BootFailed, "exec format error", "program for this host")
	m := step.Machine{Registration: r}
	text, err := b.target().Console(t.Context(), step.ConsoleFrom{Machine: m})
	if err != nil || !text.Ended {
		t.Errorf("console: %+v, %v", text, err)
	}
}
