package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// hostile is what a machine may print, what is left of it, and what is left where
// colours pass ("" for the same).
var hostile = map[string]struct{ text, clean, coloured string }{
	"plain":                {"a\tb ü 日本\n", "a\tb ü 日本\n", ""},
	"colours":              {"\x1b[1;31mred\x1b[0m \x1b[38:2::1:2:3mx\x1b[m", "red x", "\x1b[1;31mred\x1b[0m \x1b[38:2::1:2:3mx\x1b[m"},
	"cursor up, erase":     {"a\x1b[5A\x1b[2K\x1b[Jb", "ab", ""},
	"private CSI":          {"a\x1b[?1049hb\x1b[>4;2mc\x1b[!pd", "abcd", ""},
	"intermediate CSI":     {"a\x1b[2 qb\x1b[0 mc", "abc", ""},
	"endless parameters":   {"a\x1b[" + strings.Repeat("1;", 99) + "mb", "ab", ""},
	"CSI cut by a newline": {"a\x1b[31\nmb", "a\nmb", ""},
	"ESC within CSI":       {"a\x1b[3\x1b[31mb", "ab", "a\x1b[31mb"},
	"OSC title, BEL":       {"a\x1b]0;deployed: all is well\ab", "ab", ""},
	"OSC link, ST":         {"\x1b]8;;http://x\x1b\\a\x1b]8;;\x1b\\b", "ab", ""},
	"OSC clipboard, C1 ST": {"a\x1b]52;c;AAAA\u009cb", "ab", ""},
	"OSC without end":      {"a\x1b]0;b\nc", "a\nc", ""},
	"DCS, SOS, PM, APC":    {"a\x1bPq1\x1b\\b\x1bX2\x1b\\c\x1b^3\x1b\\d\x1b_4\x1b\\e", "abcde", ""},
	"two-byte escapes":     {"a\x1bcb\x1b7c\x1b(0d\x1b#8e\x1b", "abcde", ""},
	"C1":                   {"a\u009b31mb\u009d0;t\u009cc\u0090q\u009cd\u0085e\u009f f\u009cg", "abcdeg", "a\x1b[31mbcdeg"},
	"C1 bytes":             {"a\x9b31mb\x9d0;t\x9cc", "a\uFFFD31mb\uFFFD0;t\uFFFDc", ""},
	"invalid UTF-8":        {"a\xff\xc3(\xe2\x82", "a\uFFFD\uFFFD(\uFFFD\uFFFD", ""},
	"overwritten line":     {"error: it failed\rdeployed: all is well\r\n", "error: it failed\ndeployed: all is well\n", ""},
	"backspaces":           {"failed\b\b\b\b\b\bdone", "faileddone", ""},
	"C0 and DEL":           {"a\x00\x01\x07\x0b\x0c\x0e\x0f\x7fb", "ab", ""},
	"reordered":            {"a\u202eb\u2066c\u200fd", "abcd", ""},
}

func TestClean(t *testing.T) {
	for name, c := range hostile {
		if c.coloured == "" {
			c.coloured = c.clean
		}
		if got := clean(c.text); got != c.clean {
			t.Errorf("%s: got %q, want %q", name, got, c.clean)
		}
		// In pieces of one character each, as a console may come.
		f, got := filter{colours: true}, ""
		for _, r := range c.text {
			got += f.add(string(r))
		}
		if got != c.coloured {
			t.Errorf("%s, coloured: got %q, want %q", name, got, c.coloured)
		}
	}
}

// What a machine printed stands in hints, notes and results, and in none of them
// reaches a terminal as it is.
func TestNothingHostileIsShown(t *testing.T) {
	for name, c := range hostile {
		var out bytes.Buffer
		for _, w := range []interface{ event(event) }{plain{&cli{out: &out}}, &board{w: &out, targets: map[string]*boardTarget{}}} {
			for _, e := range []event{
				{Event: "stage", Stage: "boot", State: string(workflows.Running)},
				{Event: "waiting", Note: c.text}, {Event: "progress", Note: c.text},
				{Event: "stage", Stage: "boot", State: string(workflows.Failed), Result: c.text},
				{Event: "deployed", Machine: &step.Machine{ID: c.text, Ready: c.text}, Left: []string{c.text}},
			} {
				w.event(e)
			}
		}
		writeFailure(&out, "", &step.Error{Err: errors.New(c.text), Hint: c.text, Left: []string{c.text}})
		if err := (&cli{out: &out}).table([]deploymentLine{{App: "a", DeploymentStatus: workflows.DeploymentStatus{Failure: c.text}}}); err != nil {
			t.Fatal(err)
		}
		(&cli{out: &out, err: &out}).destroyed("a/b", workflows.DestroyResult{Destroyed: step.Destroyed{Removed: []string{c.text}}, Left: []string{c.text}})
		// The board's own sequences.
		got := strings.NewReplacer("\x1b[0m", "", "\x1b[2m", "", "\x1b[31m", "", "\x1b[33m", "", "\x1b[K", "", "\x1b[J", "", "\r", "").Replace(out.String())
		for n := range 20 {
			got = strings.ReplaceAll(got, fmt.Sprintf("\x1b[%dA", n), "")
		}
		if i := strings.IndexFunc(got, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 }); i >= 0 {
			t.Errorf("%s: shows %q", name, got[max(0, i-40):min(len(got), i+40)])
		}
		// No line of the machine's begins a line of ours.
		if strings.Contains(got, "\ndeployed: ") || strings.Contains(got, "\nmb") {
			t.Errorf("%s: begins a line:\n%s", name, got)
		}
	}
}

// The console goes as it is into a file and with --raw, and cleaned to a terminal.
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
		ours, theirs := terminal(t)
		show(&output{w: theirs}, raw)
		b := make([]byte, 1024)
		n, err := ours.Read(b)
		if got := strings.ReplaceAll(string(b[:n]), "\r\n", "\n"); err != nil || got != want {
			t.Errorf("raw %v: %q, %v, want %q", raw, got, err, want)
		}
	}
}

// terminal makes a pair of pseudoterminals.
func terminal(t *testing.T) (ours, theirs *os.File) {
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

// Every verb that prints fails where nothing can be written.
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
