package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/docs"
	"github.com/morgana-deploy/morgana/step"
)

func TestExpectedABIs(t *testing.T) {
	for name, c := range map[string]struct{ toolchain, target, want string }{
		"by kind of target": {"{kind: mirage}", "{kind: qemu}", "multiboot1 solo5-virtio"},
		"as given":          {"{kind: mirage, target: xen}", "{kind: qemu}", "solo5-xen xen-pvh"},
		"unknown -t":        {"{kind: mirage, target: moon}", "{kind: qemu}", ""},
		"not a word":        {"{kind: mirage, target: [xen]}", "{kind: qemu}", ""},
		"unknown kind":      {"{kind: mirage}", "{kind: moon}", ""},
		"built elsewhere":   {"{kind: mirage}", "{kind: qemu, steps: {build: {activity: a, taskQueue: b}}}", ""},
		"another toolchain": {"{kind: command, target: xen}", "{kind: qemu}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			inFolder(t, map[string]string{config.Filename: "app: a\ntoolchain: " + c.toolchain + "\ntargets: {dev: " + c.target + "}\n"})
			p, err := config.Load("", nil)
			if err != nil {
				t.Fatal(err)
			}
			archive := step.Origin{Archive: &step.Artifact{}}
			if got := strings.Join(request(p, p.Targets[0], archive, deployFlags{}).Spec.Origin.ABIs, " "); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			// What the bytes of a kernel say is never second-guessed.
			kernel := step.Origin{Kernel: &step.Artifact{}, ABIs: []string{"pvh"}}
			if got := request(p, p.Targets[0], kernel, deployFlags{}).Spec.Origin.ABIs; len(got) != 1 {
				t.Errorf("of a kernel: %v", got)
			}
		})
	}
}

func TestSchema(t *testing.T) {
	status, out, errOut := morgana(t, "schema")
	if status != 0 || errOut != "" || out != string(docs.Schema) || !strings.Contains(out, "2020-12") {
		t.Errorf("exit %d, %s, printed %d bytes", status, errOut, len(out))
	}
}

// A pipe that nobody writes to would be waited for.
func TestFileIsAPipe(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	// A writer, so that a starter that opens it does not wait here for ever.
	f, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan bool)
	go func() {
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
		}
		_ = f.Close()
	}()
	status, _, errOut := morgana(t, "deploy", "--file", pipe)
	close(ended)
	if status != 2 || !strings.HasPrefix(errOut, "error: read "+pipe+": neither a file nor a folder\nhint: ") {
		t.Errorf("exit %d, %s", status, errOut)
	}
}

func TestNameFrom(t *testing.T) {
	for folder, want := range map[string]string{
		"hello": "hello", "web-2": "web-2", "My App!": "my-app", "2048": "app", "": "app", "-_-": "app",
		strings.Repeat("a", 39) + "-b": strings.Repeat("a", 39),
	} {
		got := nameFrom(folder)
		if got != want || step.CheckName("", got) != nil {
			t.Errorf("%q: got %q, want %q", folder, got, want)
		}
	}
}

// TestHelp sees that each command has its own lines, and the help an order.
func TestHelp(t *testing.T) {
	for _, cmd := range (&cli{out: os.Stdout, err: os.Stderr}).root().Commands() {
		if cmd.IsAvailableCommand() && (cmd.Short == "" || cmd.Example == "") && cmd.Name() != "help" {
			t.Errorf("%s has no short help or no example", cmd.Name())
		}
	}
}
