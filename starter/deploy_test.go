package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/docs"
	"github.com/morgana-deploy/morgana/step"
)

func TestExpected(t *testing.T) {
	for name, c := range map[string]struct{ toolchain, target, want string }{
		"by kind of target": {"{kind: mirage}", "{kind: qemu}", "multiboot1 solo5-virtio [service]"},
		"as given":          {"{kind: mirage, target: xen}", "{kind: qemu}", "solo5-xen xen-pvh [0]"},
		"config as given":   {"{kind: mirage, config: xen/config.ml}", "{kind: xen}", "solo5-xen xen-pvh [a b]"},
		"no config":         {"{kind: mirage, config: none.ml}", "{kind: xen}", "solo5-xen xen-pvh"},
		"unknown -t":        {"{kind: mirage, target: moon}", "{kind: qemu}", ""},
		"not a word":        {"{kind: mirage, target: [xen]}", "{kind: qemu}", ""},
		"unknown kind":      {"{kind: mirage}", "{kind: moon}", ""},
		"built elsewhere":   {"{kind: mirage}", "{kind: qemu, steps: {build: {activity: a, taskQueue: b}}}", ""},
		"another toolchain": {"{kind: command, target: xen}", "{kind: qemu}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			inFolder(t, map[string]string{config.Filename: "app: a\ntoolchain: " + c.toolchain + "\ntargets: {dev: " + c.target + "}\n",
				"config.ml": "let () = register \"a\" [ main $ default_network ]", "xen/config.ml": `let two = netif "a", netif "b"`})
			p, err := config.Load("", nil)
			if err != nil {
				t.Fatal(err)
			}
			archive := step.Origin{Archive: &step.Artifact{}}
			origin := request(p, p.Targets[0], archive, deployFlags{}).Spec.Origin
			got := strings.Join(origin.ABIs, " ")
			if origin.Networks != nil {
				got += fmt.Sprint(" ", origin.Networks)
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			// The ABIs of a kernel that exists stay as they are.
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

// A named pipe in the place of a file is refused, not waited for.
func TestFileIsAPipe(t *testing.T) {
	inFolder(t, nil)
	for _, pipe := range []string{config.Filename, "app.conf"} {
		if err := unix.Mkfifo(pipe, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{config.Filename, "deploy"}, {config.Filename, "deploy", "--file", "."}, {"app.conf", "import"}} {
		status, _, errOut := ends(t, self(t, args[1:]...))
		if status != 2 || errOut != "error: read "+args[0]+": not a regular file\nhint: name a regular file\n" {
			t.Errorf("%q: exit %d, %s", args, status, errOut)
		}
	}
}

// The first signal ends a command, even if it blocks in a call without a context:
// here in a write to a full pipe.
func TestFirstSignalEnds(t *testing.T) {
	for _, signal := range []os.Signal{os.Interrupt, unix.SIGTERM} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		size, err := unix.FcntlInt(w.Fd(), unix.F_GETPIPE_SZ, 0)
		if err == nil {
			_, err = w.Write(make([]byte, size))
		}
		if err != nil {
			t.Fatal(err)
		}
		inFolder(t, map[string]string{"app.conf": conf})
		cmd := self(t, "import", "-o", "json")
		cmd.Stdout = w
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for since := time.Now(); time.Since(since) < 2*time.Minute; time.Sleep(10 * time.Millisecond) {
			if _, err := os.Stat("config.ml"); err == nil { // written just before it prints
				break
			}
		}
		if err := cmd.Process.Signal(signal); err != nil {
			t.Error(err)
		}
		if status, _, errOut := ends(t, cmd); status != interrupted || errOut != "" {
			t.Errorf("%v: exit %d, %s", signal, status, errOut)
		}
		_, _ = r.Close(), w.Close()
	}
}

// self is the starter as a process of its own.
func self(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = append(os.Environ(), "BE_MORGANA=1")
	return cmd
}

// ends starts cmd if it does not run, and waits for its end.
func ends(t *testing.T, cmd *exec.Cmd) (status int, out, errOut string) {
	t.Helper()
	var o, e strings.Builder
	if cmd.Process == nil {
		cmd.Stdout, cmd.Stderr = &o, &e
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}
	late := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait() // the status tells
	if !late.Stop() {
		t.Errorf("%q does not end", cmd.Args[1:])
	}
	return cmd.ProcessState.ExitCode(), o.String(), e.String()
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
		if cmd.IsAvailableCommand() && (cmd.Short == "" || cmd.Example == "") && cmd.Name() != "help" && cmd.Name() != "completion" { // cobra's
			t.Errorf("%s has no short help or no example", cmd.Name())
		}
	}
}
