package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// hostile is what a machine may print; see package terminal for the rest.
var hostile = []string{
	"a\x1b[5A\x1b[2Kb\n", "a\x1b]0;title\ab", "a\u009b31mb\u0090q\u009cc", "a\x00\b\x7fb",
	"error: it failed\rdeployed: all is well\r\n", "x\ndeployed: all is well",
}

// Hints, notes, results and tables have text that a machine printed, without its
// control sequences.
func TestNothingHostileIsShown(t *testing.T) {
	for _, text := range hostile {
		var out bytes.Buffer
		for _, w := range []interface{ event(event) }{&plain{cli: &cli{out: &out}, waits: map[string]bool{}}, &board{w: &out, targets: map[string]*boardTarget{}}} {
			for _, e := range []event{
				{Event: "stage", Stage: "boot", State: string(workflows.Running)},
				{Event: "waiting", Note: text}, {Event: "progress", Note: text},
				{Event: "stage", Stage: "boot", State: string(workflows.Failed), Result: text},
				{Event: "deployed", Machine: &step.Machine{ID: text, Ready: text}, Left: []string{text}},
			} {
				w.event(e)
			}
		}
		writeFailure(&out, "", &step.Error{Err: errors.New(text), Hint: text, Left: []string{text}})
		if err := table(&out, []deploymentLine{{App: "a", Health: &step.Health{How: text}, DeploymentStatus: workflows.DeploymentStatus{Failure: text}}}, time.Now(), false); err != nil {
			t.Fatal(err)
		}
		(&cli{out: &out, err: &out}).destroyed("a/b", workflows.DestroyResult{Destroyed: step.Destroyed{Removed: []string{text}}, Left: []string{text}})
		// The board's own sequences.
		got := strings.NewReplacer("\x1b[0m", "", "\x1b[2m", "", "\x1b[31m", "", "\x1b[33m", "", "\x1b[K", "", "\x1b[J", "", "\r", "").Replace(out.String())
		for n := range 20 {
			got = strings.ReplaceAll(got, fmt.Sprintf("\x1b[%dA", n), "")
		}
		if i := strings.IndexFunc(got, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 }); i >= 0 {
			t.Errorf("%q: shows %q", text, got[max(0, i-40):min(len(got), i+40)])
		}
		// The machine's text begins no line, so it cannot imitate Morgana's.
		if strings.Contains(got, "\ndeployed: ") {
			t.Errorf("%q: begins a line:\n%s", text, got)
		}
	}
}

// The console is cleaned for a terminal, and not for a file or with --raw.
func TestConsoleOnATerminal(t *testing.T) {
	const text = "\x1b[31mred\x1b[2J\x1b]0;title\a\rover\n"
	t.Setenv("TERM", "xterm")
	show := func(out *output, raw bool) {
		t.Helper()
		c := &cli{out: out, output: "text"}
		err := c.printConsole(t.Context(), func(int64, int) (step.ConsoleText, error) { return step.ConsoleText{Text: text, Ended: true}, nil }, consoleFlags{raw: raw})
		if err != nil {
			t.Fatal(err)
		}
	}
	var file bytes.Buffer
	show(&output{w: &file}, false)
	if file.String() != text {
		t.Errorf("into a file: %q", file.String())
	}
	for raw, want := range map[bool]string{true: text, false: "\x1b[31mred\nover\n\x1b[0m"} {
		ours, theirs := pseudoterminal(t)
		show(&output{w: theirs}, raw)
		_ = theirs.Close()
		b, _ := io.ReadAll(ours) // ends with EIO
		if got := strings.ReplaceAll(string(b), "\r\n", "\n"); got != want {
			t.Errorf("raw %v: %q, want %q", raw, got, want)
		}
	}
}

// terminal makes a pair of pseudoterminals.
func pseudoterminal(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
	return ours, theirs
}

// A verb fails if its output cannot be written.
func TestOutputIsLost(t *testing.T) {
	inFolder(t, map[string]string{"app.conf": "name: Web\nxl-cpus: 1\nmain-noip: A.a\n"})
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = full.Close() }()
	const want = "error: write the output: no space left on device\nhint: "
	for _, args := range []string{"version", "version -o json", "schema", "--help", "completion bash", "import --force", "import --force -o json", "dev status"} {
		var e bytes.Buffer
		t.Setenv("MORGANA_STATE", t.TempDir())
		if status := run(t.Context(), strings.Fields(args), full, &e); status != 2 || !strings.HasPrefix(lastError(e.String()), want) {
			t.Errorf("%s: exit %d, %q", args, status, e.String())
		}
	}
	if status := run(t.Context(), []string{"init"}, os.Stdout, full); status != 2 {
		t.Errorf("standard error is full: exit %d", status)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	defer func() { _ = w.Close() }()
	for _, args := range []string{"version", "schema"} {
		var e bytes.Buffer
		if status := run(t.Context(), strings.Fields(args), w, &e); status != 0 || e.Len() > 0 {
			t.Errorf("%s to nobody: exit %d, %s", args, status, e.String())
		}
	}
}

func lastError(said string) string { return said[max(0, strings.LastIndex(said, "error: ")):] }

func TestJSONEscapesControls(t *testing.T) {
	var out bytes.Buffer
	(&cli{out: &out}).emit(event{Event: "waiting", Note: "a\x1b\x7f\u009bü"})
	if got := out.String(); got != `{"event":"waiting","note":"a\u001b\u007f\u009bü"}`+"\n" {
		t.Errorf("got %s", got)
	}
}
