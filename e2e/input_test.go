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

	"github.com/morgana-deploy/morgana/need"
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

const (
	onQEMU   = "targets: {dev: {kind: qemu, memory: 64}}\n"
	twoNames = "app: bad\ntoolchain: {kind: prebuilt, kernel: k}\ntargets:\n  dev: {kind: qemu}\n  prod: {kind: qemu}\n"
	nameHint = "a name is a lower-case letter, then at most 39"
	elfHint  = "a kernel is an ELF file"
)

// made is a project whose make runs a recipe that should make file k.
func made(recipe string) input {
	return input{"app: bad\ntoolchain:\n  kind: command\n  build: [[make]]\n  kernel: k\n" + onQEMU, map[string]string{"Makefile": "k:\n\t" + recipe + "\n"}}
}

// readyMade is a project whose kernel is made already.
func readyMade(kernel, target string) input {
	return input{"app: bad\ntoolchain:\n  kind: prebuilt\n  kernel: k\ntargets:\n  dev:\n    kind: qemu\n    memory: 64\n" + target,
		map[string]string{"k": kernel}}
}

// xenOnly is a kernel that only Xen boots, by its notes.
const xenOnly = `
	.section .note.Xen, "a", @note
	.long 4, 8, 6
	.asciz "Xen"
	.asciz "linux"
	.balign 4
	.long 4, 8, 5
	.asciz "Xen"
	.asciz "xen-3.0"
	.text
	.globl _start
_start:	hlt
`

// Whatever is wrong is told in one line, with its place, and nothing is made.
func TestBadInput(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	kernel := string(l.kernel())
	nobody := l.begin(l.beside(input{"app: lonely\ntoolchain: {kind: prebuilt, kernel: k}\ntargets: {dev: {kind: ecc2}}\n", map[string]string{"k": kernel}}), "deploy")
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

	cases := slices.Concat(refusedFiles(), refusedKernels(kernel, program), refusedSettings(), refusedCommands(), []refusal{
		{name: "port taken", code: 2, line: "morgana.yaml:9: ports[0]: tcp:127.0.0.1:" + port + " is taken by another program", hint: "ss -lnp", in: readyMade(kernel, "    ports: ['"+port+":80']\n")},
		{name: "no QEMU", code: 2, line: "morgana.yaml:9: qemu: qemu-nowhere is not installed", hint: "qemu-system-x86_64", in: readyMade(kernel, "    qemu: qemu-nowhere\n")},
		{name: "silent console", code: 1, hint: "hello from a unikernel",
			line: `boot bad.dev.LIFE-1: its console did not match "never" within 2s`, in: readyMade(kernel, "    args: stay\n    expect: never\n    timeout: 2s\n")},
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
	if took := time.Since(asked); took > 90*time.Second {
		t.Errorf("nobody polls ecc2, which took %v to say", took)
	}
	refusal{code: 2, line: `find a worker: no worker polls task queue "ecc2"`, hint: "kind or taskQueue in morgana.yaml"}.matches(t, r)
	l.nothing("lonely")
}

func refusedFiles() []refusal {
	hello := func(replace, by string) string {
		const whole = "app: bad\ntoolchain:\n  kind: command\n  build: [[make]]\n  kernel: k\ntargets:\n  dev:\n    kind: qemu\n    memory: 64\n"
		return strings.Replace(whole, replace, by, 1)
	}
	return []refusal{
		{name: "no file", code: 2, line: "no morgana.yaml in FOLDER or a folder above it", hint: "morgana init"},
		{name: "no YAML", in: input{yaml: "app: bad\n toolchain: {\n"}, code: 2, line: "morgana.yaml:2: not YAML: mapping values are not allowed in this context"},
		{name: "unknown key", in: input{yaml: hello("toolchain", "tolchain")}, code: 2, line: "morgana.yaml:2: tolchain: unknown key", hint: `"toolchain"?`},
		{name: "unknown toolchain option", in: input{yaml: hello("build", "biuld")}, code: 2, line: "morgana.yaml:4: biuld: unknown field", hint: `"build"?`},
		{name: "unknown target option", in: input{yaml: hello("memory", "memroy")}, code: 2, line: "morgana.yaml:9: memroy: unknown field", hint: `"memory"?`},
		{name: "wrong type", in: input{yaml: hello("bad", "[bad]")}, code: 2, line: "morgana.yaml:1: app: want a string, not a list"},
		{name: "wrong type in toolchain", in: input{yaml: hello("[[make]]", "make")}, code: 2, line: "morgana.yaml:4: build: want a list, not a string", hint: `a list, as [["make"]]`},
		{name: "wrong type in a list", in: input{yaml: hello("[[make]]", "\n    - [make]\n    - - sleep\n      - 10")}, code: 2, line: "morgana.yaml:7: build[1][1]: want a string, not a number", hint: `in quotes, as "10"`},
		{name: "wrong type in target", in: input{yaml: hello("64", "lots")}, code: 2, line: "morgana.yaml:9: memory: want a whole number, not a string", hint: "as 64"},
		{name: "no name", in: input{yaml: hello("bad", "Bad_name")}, code: 2, line: `morgana.yaml:1: app: "Bad_name" is not a valid name`, hint: nameHint},
		{name: "no source", in: input{yaml: "source: nowhere\n" + hello("", "")}, code: 2, line: "morgana.yaml:1: source: no such folder: nowhere", hint: "start from its folder"},
		{name: "no build tool", in: input{yaml: hello("[[make]]", "[[nosuchmake]]")}, code: 2, line: "look for build tools on HOST: nosuchmake is not installed", hint: "PATH"},
	}
}

func refusedKernels(kernel, program string) []refusal {
	const cannot, only = "qemu cannot boot a Linux program: it is no kernel", "build it as a kernel (MirageOS: -t virtio)"
	return []refusal{
		{name: "no kernel", in: input{yaml: "app: bad\ntoolchain:\n  kind: prebuilt\n  kernel: k\n" + onQEMU}, code: 2,
			line: "morgana.yaml:4: toolchain.kernel: no such file: k", hint: "start from its folder"},
		{name: "text", code: 2, line: "morgana.yaml:4: toolchain.kernel: this is text, not a kernel", hint: elfHint, in: readyMade("hello\n", "")},
		{name: "gzip", code: 2, line: "morgana.yaml:4: toolchain.kernel: the file is damaged or cut off: it ends inside its gzip data", hint: "copy it again", in: readyMade("\x1f\x8b\b\x00\x00\x00", "")},
		{name: "empty", code: 2, line: "morgana.yaml:4: toolchain.kernel: the file is empty", hint: elfHint, in: readyMade("", "")},
		{name: "cut off", code: 2, line: "morgana.yaml:4: toolchain.kernel: the file is damaged or cut off: it ends inside its ELF headers",
			hint: "copy it again", in: readyMade(kernel[:100], "")},
		{name: "zeros", code: 2, line: "morgana.yaml:4: toolchain.kernel: this is no kind of kernel that is known here", hint: elfHint,
			in: readyMade(strings.Repeat("\x00", 100_000), "")},
		{name: "program", code: 2, line: "morgana.yaml:6: check qemu target: " + cannot, hint: only, in: readyMade(program, "")},

		{name: "built text", code: 1, line: "build: k: this is text, not a kernel", hint: elfHint, in: made("echo hi > k")},
		{name: "built gzip", code: 1, line: "build: k: in the gzip file: this is text, not a kernel", hint: elfHint, in: made("echo hi | gzip > k")},
		{name: "built nothing in it", code: 1, line: "build: k: the file is empty", hint: elfHint, in: made("touch k")},
		{name: "built program", code: 2, line: "morgana.yaml:6: package for qemu: " + cannot, hint: only, in: made("cp /bin/true k")},
		{name: "built for Xen", code: 2, line: "morgana.yaml:3: package for qemu: qemu cannot boot a Xen PV kernel", hint: "kind xen",
			in: input{"app: bad\ntoolchain: {kind: command, build: [[gcc, -nostdlib, -static, -o, k, k.S]], kernel: k}\n" + onQEMU,
				map[string]string{"k.S": xenOnly}}},
		{name: "build fails", code: 1, line: "build: make: exit status 2", hint: "no cheese", in: made("@seq 100 130; echo no cheese >&2; false")},
		{name: "no artifact", code: 1, line: "build: the commands succeeded and made no k", hint: "helo", in: made("@echo fine; touch helo")},
	}
}

func refusedSettings() []refusal {
	project := func(r refusal) refusal {
		r.code = 2
		r.in = readyMade("\x7fELF", "")
		return r
	}
	store := func(url, line, hint string) refusal {
		return refusal{name: "store " + url, env: []string{"MORGANA_STORE=" + url}, code: 2, line: line, hint: hint, args: "deploy", in: made("true")}
	}
	all := []refusal{
		store("nonsense", `MORGANA_STORE: want a URL, not "nonsense"`, "file:///var/lib"),
		store("ftp://a/b", `open store "ftp://a/b": unknown scheme "ftp"`, "s3://bucket"),
		store("file:///proc/x", "open store file:///proc/x: mkdir /proc/x: no such file or directory", "/proc/x"),
		{name: "unknown target", in: input{yaml: twoNames}, args: "deploy -t prd", line: `morgana.yaml: no target "prd"`, hint: `"prod"?`},
		{name: "which target", in: input{yaml: twoNames}, line: "FOLDER/morgana.yaml has 2 targets", hint: "--target (dev, prod), or --all"},
		project(refusal{name: "--set of no value", args: "deploy --set dev.memory", line: "--set dev.memory: want <target>.<field>=<value>", hint: "dev.memory=128"}),
		project(refusal{name: "--set of no target", args: "deploy --set dv.memory=1", line: `--set dv.memory=1: no target "dv"`, hint: `"dev"?`}),
		project(refusal{name: "--output", args: "deploy -o yaml", line: `--output: "yaml" is no output format`, hint: "text or json"}),
		project(refusal{name: "--app", args: "deploy --app X", line: `--app: "X" is not a valid name`, hint: nameHint}),
	}
	all = append(all,
		refusal{name: "--set of no option", in: made("true"), args: "deploy --set dev.memroy=1",
			line: "--set dev.memroy=1: memroy: unknown field", hint: `"memory"?`})
	for i := range all {
		all[i].code = 2
	}
	return all
}

func refusedCommands() []refusal {
	return []refusal{
		{name: "unknown flag", args: "deploy --targt x", code: 2, line: "unknown flag: --targt", hint: `"--target"?`},
		{name: "unknown command", args: "dploy", code: 2, line: `unknown command "dploy"`, hint: `"deploy"?`},
		{name: "unknown dev command", args: "dev upp", code: 2, line: `unknown command "upp"`, hint: `"up"?`},
		{name: "extra argument", args: "deploy now", code: 2, line: `unexpected argument "now"`, hint: "morgana deploy --help"},
		{name: "no namespace", args: "status", env: []string{"TEMPORAL_NAMESPACE=none"}, code: 2, line: `use Temporal: no namespace "none"`, hint: "--namespace"},
		{name: "console of nothing", args: "console bad", code: 2, line: "bad is not deployed", hint: "morgana status"},
		{name: "destroy of nothing", args: "destroy bad/dev", code: 2, line: "bad/dev is not deployed", hint: "morgana status"},
	}
}

// What config.yaml and a worker refuse.
func TestBadEnvironment(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	folder := t.TempDir()

	config := filepath.Join(folder, "config", "morgana", "config.yaml")
	if err := os.MkdirAll(config, 0o755); err != nil {
		t.Fatal(err)
	}
	configured := l.in(t, "XDG_CONFIG_HOME="+filepath.Join(folder, "config"))
	refusal{code: 2, line: "read config/morgana/config.yaml: is a directory"}.matches(t, configured.morgana(folder, "status"))
	if err := os.Remove(config); err != nil {
		t.Fatal(err)
	}
	l.write(config, "builds: 1\nstoer: x\n")
	refusal{code: 2, line: "config/morgana/config.yaml:2: stoer: unknown key", hint: `"store"?`}.matches(t, configured.morgana(folder, "status"))

	listening := ""
	l.eventually(20*time.Second, "the worker listens", func() bool {
		log, _ := os.ReadFile(filepath.Join(l.folder, "morgana-worker.log")) // not yet there
		if m := regexp.MustCompile(`listen=http://(\S+)`).FindSubmatch(log); m != nil {
			listening = string(m[1])
		}
		return listening != ""
	})
	for _, c := range []refusal{
		{args: "--listen " + listening, line: "serve health and metrics: listen tcp " + listening + ": bind: address already in use", hint: "--listen"},
		{args: "--listen 127.0.0.1:0 --kinds qeum", line: `kinds: unknown kind "qeum"`, hint: "command, mirage, prebuilt, local, qemu"},
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

// A full disk is told by its folder, whoever meets it.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	need.Tools(t, "mount", "umount")
	l := newLab(t)
	disk := filepath.Join(l.folder, "disk")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=4m", "morgana-test", disk).CombinedOutput(); err != nil {
		need.Nil(t, fmt.Errorf("mount: %w: %s", err, out))
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", disk).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})

	folder := l.beside(made("sleep 0.3; head -c 8000000 /dev/zero > big && touch k"))
	l.write(filepath.Join(folder, "large"), strings.Repeat("x", 8_000_000))
	small := l.in(t, "MORGANA_STATE="+disk)
	refusal{code: 2, line: "put an artifact into file://" + disk + "/store: no space left on device", hint: disk}.matches(t, small.morgana(folder, "deploy"))
	small.nothing("bad")

	// The worker's disk: the source fits, and what make makes does not.
	l.kill(l.worker)
	l.startWorker("--state", disk, "--store", "file://"+l.state("store"))
	defer l.kill(l.worker)
	if err := os.Remove(filepath.Join(folder, "large")); err != nil {
		t.Fatal(err)
	}
	refusal{code: 2, line: "build: make: exit status 2: the disk is full", hint: disk}.matches(t, l.morgana(folder, "deploy"))
	l.nothing("bad")
	if left, _ := filepath.Glob(filepath.Join(disk, "command", "bad*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

var (
	life    = regexp.MustCompile(`\.[0-9a-f]{8}-`)
	logFile = regexp.MustCompile(`(?:whole log|all of it): file://([^\s)]+)`)
)

// at is the refusal with where in the file it is.
func (c refusal) at(where string) refusal {
	c.line = where + c.line
	return c
}

// matches compares what was said: one line "error: ...", a hint, and nothing
// that only its programmers understand.
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
	l.eventually(10*time.Second, "the deployment has ended", func() bool {
		about, err := c.DescribeWorkflowExecution(context.Background(), workflows.DeploymentID(app, "dev"), "")
		return err != nil || about.GetWorkflowExecutionInfo().GetStatus() != enums.WORKFLOW_EXECUTION_STATUS_RUNNING
	})
}

// program runs one of our programs to its end.
func (l *lab) program(name string, args ...string) result {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
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
