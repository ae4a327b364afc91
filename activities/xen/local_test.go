package xen

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
	"github.com/morgana-deploy/morgana/xenlab"
)

const (
	away = "/root/worker" // in dom0: these tests, their kernel, and what they leave
	// heldXL stands before xl in a worker's PATH: a create waits until its file is away.
	heldXL = `#!/bin/sh
if [ "$1" = create ]; then
	touch ` + away + `/held/$$
	while [ -e ` + away + `/held/$$ ]; do sleep 0.1; done
fi
exec /usr/sbin/xl "$@"
`
)

// Without a host in its options the target is the worker's own: a worker in dom0 boots a
// domain, and is killed before that while it makes it.
func TestWorkerInDom0(t *testing.T) {
	if os.Getenv(hereVar) != "" {
		return // it is there already
	}
	newDom0Tests(t).killed(t)
}

// TestBootHere is a part of TestWorkerInDom0: a worker in dom0 that boots one domain.
func TestBootHere(t *testing.T) {
	if os.Getenv(hereVar) == "" {
		t.Skip("it is run in dom0, by TestWorkerInDom0")
	}
	const secret = "not for QEMU and hotplug scripts"
	t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
	b := &bench{T: t, l: lab(t), site: step.Site{Host: "testhost", State: t.TempDir(), Store: steptest.NewStore(t),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil))}}
	kernel, err := os.ReadFile(hello(t))
	if err != nil {
		t.Fatal(err)
	}
	b.hello = b.put(kernel)
	img := b.image("here")
	m := b.boot(b.register(img))
	text, err := New(b.site).Console(t.Context(), step.ConsoleFrom{Machine: m})
	if err != nil || !strings.Contains(text.Text, "command line: [stay]") {
		t.Errorf("console: %q, %v", text.Text, err)
	}
	if again := b.boot(m.Registration); !again.Adopted || again.ID != m.ID {
		t.Errorf("booted again: %+v, not %+v adopted", again, m)
	}
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if env, err := os.ReadFile(file); err == nil && bytes.Contains(env, []byte(secret)) { // or it has ended
			argv, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
			t.Errorf("the worker's secrets are with %q", bytes.ReplaceAll(argv, []byte{0}, []byte{' '}))
		}
	}
	domains := slices.DeleteFunc(onHost(t, b.l), func(line string) bool { return line != "here.lab.0a1b2c3d-1" })
	if len(domains) != 1 {
		t.Errorf("there are %q, not one domain", domains)
	}
	b.destroy(img.Spec)
}

// dom0Tests are these tests, as a program in dom0.
type dom0Tests struct{ l *xenlab.Lab }

func newDom0Tests(t *testing.T) dom0Tests {
	t.Helper()
	l := lab(t)
	before := onHost(t, l)
	folder := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-ldflags", "-s -w", "-o", filepath.Join(folder, "xen.test"))
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // dom0 has another libc
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the tests for dom0: %v\n%s", err, out)
	}
	kernel, err := os.ReadFile(hello(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "hello"), kernel, 0o600); err != nil {
		t.Fatal(err)
	}
	packed, err := exec.CommandContext(t.Context(), "tar", "-C", folder, "-cz", ".").Output() // the network is emulated too
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, err := onDom0(context.Background(), l, "rm", "-rf", away) // and what is held goes on
		if err != nil {
			t.Error(err)
		}
		// What a worker that failed has left has the same name seen from here.
		spec := step.Spec{Tags: step.Tags{App: "here", Target: "lab"}, Options: options(l, "")}
		if _, err := New(step.Site{}).Destroy(context.Background(), step.Removal{Spec: spec}); err != nil {
			t.Error(err)
		}
		if after := onHost(t, l); !slices.Equal(before, after) {
			t.Errorf("left on the host:\n%s\nbefore:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
		}
	})
	unpack := l.Command(t.Context(), "sh", "-c", `mkdir "$1" && cd "$1" && mkdir bin held tmp && tar -xz`, "sh", away)
	unpack.Stdin = bytes.NewReader(packed)
	if out, err := unpack.CombinedOutput(); err != nil {
		t.Fatalf("send the tests to dom0: %v\n%s", err, out)
	}
	return dom0Tests{l}
}

// test is a run of those that a pattern of -test.run names; pid is the file that gets
// its process's number, if any.
func (d dom0Tests) test(t *testing.T, pattern, pid string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	t.Cleanup(cancel)
	return d.l.Command(ctx, "sh", "-c", `cd "$1" && echo $$ >"${3:-/dev/null}" && PATH="$1/bin:$PATH" TMPDIR="$1/tmp" MORGANA_REQUIRE=all `+
		hereVar+`="$1/hello" exec ./xen.test -test.v -test.timeout 15m -test.run "$2"`, "sh", away, pattern, pid)
}

// killed kills a worker while its xl create runs, which goes on: it is in a session
// of its own by now, and nobody waits for it. The next worker has the only domain.
func (d dom0Tests) killed(t *testing.T) {
	run := func(script string, args ...string) string {
		t.Helper()
		out, err := onDom0(t.Context(), d.l, append([]string{"sh", "-c", "set -e; cd " + away + "\n" + script, "sh"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	// await prints the number of the process that waits in heldXL, if it is not $1.
	const await = `n=0
	until pid=$(ls held | grep -vxF "$1"); do n=$((n + 1)); [ $n -lt 3000 ]; sleep 0.2; done
	echo "$pid"`
	run(`printf %s "$1" >bin/xl; chmod 755 bin/xl`, heldXL)
	first := d.test(t, "^TestBootHere$", away+"/pid")
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	orphan := run(await, "none")
	run(`kill -9 $(cat pid)`)
	if err := first.Wait(); err == nil {
		t.Error("the first worker came to its end")
	}
	if run(`kill -0 "$1" || echo ended`, orphan) != "" {
		t.Fatal("xl create ended with its worker: nothing is tried here")
	}
	var out bytes.Buffer
	second := d.test(t, "^TestBootHere$", "")
	second.Stdout, second.Stderr = &out, &out
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	run(await, orphan)
	// Were it still there, it would make its domain now.
	run(`rm -f held/"$1"; n=0; while kill -0 "$1" 2>/dev/null; do n=$((n + 1)); [ $n -lt 3000 ]; sleep 0.2; done; rm -f held/*`, orphan)
	if err := second.Wait(); err != nil || !strings.Contains(out.String(), "--- PASS: TestBootHere") {
		t.Errorf("the second worker: %v\n%s", err, out.String())
	}
	run(`rm bin/xl`)
}
