package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	enums "go.temporal.io/api/enums/v1"

	"github.com/morgana-deploy/morgana/workflows"
)

// input is a morgana.yaml, "" for none, and files beside it.
type input struct {
	yaml  string
	files map[string]string
}

// refusal is a command that is refused, and what the user reads.
type refusal struct {
	name string
	in   input
	env  []string
	args string // default "deploy"
	code int
	// line is all of the line "error: ...", hint a part of what follows it.
	line, hint string
}

// Bad input is reported in one line with its place, and nothing is made.
func TestBadInput(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	kernel := string(l.kernel())
	nobody := l.begin(l.beside(input{"app: lonely\ntoolchain: {kind: prebuilt, kernel: k}\ntargets: {dev: {kind: nobody}}\n", map[string]string{"k": kernel}}), "deploy")
	asked := time.Now()

	program := readAll(t, "/bin/true")
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close() //nolint:errcheck // nobody spoke to it
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	empty := l.in(t)
	empty.namespace()

	cases := slices.Concat(refusedFiles(), refusedKernels(kernel, program), refusedSettings(), refusedCommands(), refusedXen(l), []refusal{
		{name: "port taken", code: 2, line: "morgana.yaml:9: ports[0]: tcp:127.0.0.1:" + port + " is taken by another program", hint: "ss -lnp", in: readyMade(kernel, "    ports: ['"+port+":80']\n")},
		{name: "no QEMU", code: 2, line: "morgana.yaml:9: qemu: qemu-nowhere is not installed", hint: "qemu-system-x86_64", in: readyMade(kernel, "    qemu: qemu-nowhere\n")},
		{name: "silent console", code: 1, hint: "hello from a unikernel",
			line: `boot bad.dev.LIFE-1: its console did not match "never" within 15s`, in: readyMade(kernel, "    args: stay\n    expect: never\n    timeout: 15s\n")},
		{name: "Temporal away", code: 2, env: []string{"TEMPORAL_ADDRESS=127.0.0.1:1"},
			line: "connect to Temporal at 127.0.0.1:1: connection refused", hint: "TEMPORAL_ADDRESS", in: readyMade(kernel, "")},
		{name: "no worker", code: 2, env: empty.env, hint: "morgana-worker",
			line: `look for workers: no worker polls task queue "morgana" in namespace ` + empty.ready.Namespace, in: readyMade(kernel, "")},
	})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := l.in(t, c.env...)
			folder := l.beside(c.in)
			args := strings.Fields(c.args)
			if len(args) == 0 {
				args = []string{"deploy"}
			}
			c.line = strings.ReplaceAll(c.line, "FOLDER", folder)
			c.matches(t, l.morgana(folder, args...))
			l.nothing("bad")
		})
	}

	r := l.end(nobody)
	if took := time.Since(asked); took > waits {
		t.Errorf("nobody polls it, which took %v to say", took)
	}
	refusal{code: 2, line: `morgana.yaml:3: targets.dev.kind: no worker polls task queue "nobody"`, hint: "kind or taskQueue in morgana.yaml"}.matches(t, r)
	l.nothing("lonely")
}

// Errors in config.yaml and in a worker's environment.
func TestBadEnvironment(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	folder := t.TempDir()

	config := filepath.Join(folder, "config", "morgana", "config.yaml")
	if err := os.MkdirAll(config, 0o755); err != nil {
		t.Fatal(err)
	}
	configured := l.in(t, "XDG_CONFIG_HOME="+filepath.Join(folder, "config"))
	refusal{code: 2, line: "read config/morgana/config.yaml: is a directory", hint: "regular file"}.matches(t, configured.morgana(folder, "status"))
	if err := os.Remove(config); err != nil {
		t.Fatal(err)
	}
	l.write(config, "builds: 1\nstoer: x\n")
	refusal{code: 2, line: "config/morgana/config.yaml:2: stoer: unknown key", hint: `"store"?`}.matches(t, configured.morgana(folder, "status"))

	listening := ""
	l.eventually("the worker listens", func() bool {
		log, _ := os.ReadFile(filepath.Join(l.folder, "morgana-worker.log")) // not yet there
		if m := regexp.MustCompile(`listen=http://(\S+)`).FindSubmatch(log); m != nil {
			listening = string(m[1])
		}
		return listening != ""
	})
	for _, c := range []refusal{
		{args: "--listen " + listening, line: "serve health and metrics: listen tcp " + listening + ": bind: address already in use", hint: "--listen"},
		{args: "--listen 127.0.0.1:0 --kinds qeum", line: `kinds: unknown kind "qeum"`, hint: "command, mirage, prebuilt, source, local, qemu"},
		{args: "--listen nowhere", line: `--listen: want host:port, not "nowhere"`},
		{args: "--nonsense", line: "unknown flag: --nonsense", hint: "--help"},
		{args: "--listen 127.0.0.1:0 --address 127.0.0.1:1", line: "connect to Temporal at 127.0.0.1:1: connection refused", hint: "TEMPORAL_ADDRESS"},
	} {
		c.code = 2
		c.matches(t, l.program("morgana-worker", strings.Fields(c.args)...))
	}
	l.nothing("bad")

	// A worker whose PATH lacks QEMU.
	path := t.TempDir()
	other := l.in(t, "PATH="+path)
	other.namespace()
	l.kill(l.worker)
	other.startWorker()
	defer l.kill(other.worker)
	refusal{code: 2, line: "morgana.yaml:6: check qemu target: qemu-system-x86_64 is not installed", hint: "apt-get install qemu-system-x86"}.
		matches(t, other.morgana(l.beside(readyMade(string(l.kernel()), "")), "deploy"))
	other.nothing("bad")
}

func TestAnotherFolder(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	kernel := l.kernel()
	mine, _ := l.built(kernel, "shared", stays)
	theirs, _ := l.built(kernel, "shared", "args: stay here, expect: hello from a unikernel")
	l.deployed(mine)
	before := l.machines()
	host, _ := os.Hostname() // the worker found it as well
	refusal{code: 2, line: "shared/dev is deployed from another folder: " + mine + " on " + strings.ToLower(host), hint: "--take-over"}.
		matches(t, l.morgana(theirs, "deploy"))
	if now := l.machines(); !slices.Equal(now, before) {
		t.Errorf("machines were %v and are %v", before, now)
	}
	l.deployed(theirs, "--take-over")
	l.deployed(theirs)
	if now := l.machines(); len(now) != 1 || slices.Equal(now, before) {
		t.Errorf("machines were %v and are %v", before, now)
	}
	if r := l.morgana(theirs, "destroy"); r.code != 0 {
		t.Errorf("destroy %+v", r)
	}
	l.nothing("shared")
}

var (
	life    = regexp.MustCompile(`\.[0-9a-f]{8}-`)
	logFile = regexp.MustCompile(`(?:whole log|all of it): file://([^\s)]+)`)
)

// at is the refusal with a prefix of its line: the place in the file.
func (c refusal) at(where string) refusal {
	c.line = where + c.line
	return c
}

// matches fails the test unless the output is the one line "error: ..." and the
// hint, without words that only programmers of Morgana understand.
func (r refusal) matches(t *testing.T, got result) {
	t.Helper()
	said := got.out + got.errOut
	bad := func(format string, args ...any) {
		t.Helper()
		t.Errorf(format+"\n%s", append(args, said)...)
	}
	if got.code != r.code {
		bad("exit status %d, want %d", got.code, r.code)
	}
	var told []string
	for line := range strings.Lines(got.errOut) {
		if text, ok := strings.CutPrefix(line, "error: "); ok {
			told = append(told, strings.TrimSuffix(text, "\n"))
		}
	}
	if len(told) != 1 {
		bad("%d lines of error", len(told))
		return
	}
	line := life.ReplaceAllString(told[0], ".LIFE-")
	host, _ := os.Hostname() // the worker found it as well
	if want := strings.ReplaceAll(r.line, "HOST", strings.ToLower(host)); line != want {
		bad("got  %q\nwant %q", line, want)
	}
	causes := strings.Split(line, ": ")
	for i, cause := range causes {
		if slices.Contains(causes[:i], cause) {
			bad("says %q twice", cause)
		}
	}
	_, hint, given := strings.Cut(got.errOut, "\nhint: ")
	if given != (r.hint != "") || !strings.Contains(hint, r.hint) {
		bad("no hint of %q", r.hint)
	}
	for _, word := range []string{"goroutine ", "panic", "failed to", "rpc error", "desc =", "transport:", "%!", "ApplicationError", "context deadline"} {
		if strings.Contains(said, word) {
			bad("says %q", word)
		}
	}
	if m := logFile.FindStringSubmatch(hint); m != nil {
		if log, err := os.ReadFile(m[1]); err != nil || len(log) == 0 {
			bad("whole log: %v, %q", err, log)
		}
	} else if strings.Contains(line, "exit status") {
		bad("does not say where the whole log is")
	}
}

// in is the lab as a subtest sees it, with more in its environment.
func (l *lab) in(t *testing.T, env ...string) *lab {
	view := *l
	view.t, view.env = t, slices.Concat(l.env, env)
	return &view
}

// beside writes an input into a folder of its own.
func (l *lab) beside(in input) (folder string) {
	l.t.Helper()
	folder = l.t.TempDir()
	if in.yaml != "" {
		l.write(filepath.Join(folder, "morgana.yaml"), in.yaml)
	}
	for name, text := range in.files {
		l.write(filepath.Join(folder, name), text)
	}
	return folder
}

// nothing fails the test unless a refused deploy left nothing, here and in
// Temporal.
func (l *lab) nothing(app string) {
	l.t.Helper()
	l.clean()
	c := l.client()
	l.eventually("the deployment has ended", func() bool {
		about, err := c.DescribeWorkflowExecution(context.Background(), workflows.DeploymentID(app, "dev"), "")
		return err != nil || about.GetWorkflowExecutionInfo().GetStatus() != enums.WORKFLOW_EXECUTION_STATUS_RUNNING
	})
}

// program runs one of our programs to its end.
func (l *lab) program(name string, args ...string) result {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), waits)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary(name), args...)
	var out, errOut strings.Builder
	cmd.Env, cmd.Stdout, cmd.Stderr = l.env, &out, &errOut
	if err := cmd.Run(); cmd.ProcessState == nil {
		l.t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

func readAll(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(fmt.Errorf("read a file of the system: %w", err))
	}
	return string(data)
}
