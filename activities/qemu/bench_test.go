package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
)

// resources lists the machines' folders and QEMUs, and fails on a secret in
// the environment of one.
func resources(t *testing.T, site step.Site) []string {
	folders, err := filepath.Glob(filepath.Join(site.State, "qemu", "*"))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range folders {
		if !strings.HasSuffix(f, "/.facts.json") {
			all = append(all, "folder "+filepath.Base(f))
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		// One that ends between these calls is not there.
		cwd, err := os.Readlink(p + "/cwd")
		if err != nil || !strings.HasPrefix(cwd, site.State) {
			continue
		}
		all = append(all, "process "+filepath.Base(p))
		if exe, err := os.Readlink(p + "/exe"); err != nil || !strings.HasPrefix(filepath.Base(exe), "qemu-system") {
			continue // forked, not yet QEMU
		}
		environ, _ := os.ReadFile(p + "/environ")
		if bytes.Contains(environ, []byte("AWS_")) {
			t.Errorf("qemu has the worker's environment: %q", environ)
		}
	}
	return all
}

// bench is a site with a kernel in its store.
type bench struct {
	*testing.T
	site   step.Site
	kernel step.Artifact
	files  []step.File // that come with the kernel
}

func newBench(t *testing.T) *bench { return benchOf(t, &plainHello) }

func benchOf(t *testing.T, k *kernel) *bench {
	kernel, err := os.Open(k.path(t))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{T: t}
	// Longer than a socket's path may be.
	state := filepath.Join(t.TempDir(), strings.Repeat("deep/", 20))
	b.site = step.Site{Host: "testhost", State: state, Store: steptest.NewStore(t),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	b.kernel, err = b.site.Store.Put(t.Context(), kernel)
	if err := errors.Join(err, kernel.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left := resources(t, b.site); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
	return b
}

func (b *bench) spec(app string, generation int, options string, args ...any) step.Spec {
	spec := step.Spec{Tags: step.Tags{App: app, Target: "dev", Life: "00c0ffee", Generation: generation}, Kind: Kind,
		Options: withTCG(fmt.Sprintf(options, args...))}
	if s, err := complete(spec.Options); err == nil { // else the test is about that
		spec.Options, err = json.Marshal(s.Options)
		if err != nil {
			b.Fatal(err)
		}
	}
	return spec
}

// withTCG spares a test the probe of KVM; see TestAccel. Firmware and Linux may take more
// than the usual minute on a busy host.
func withTCG(options string) json.RawMessage {
	var members map[string]json.RawMessage
	if err := json.Unmarshal([]byte(options), &members); err != nil {
		panic(err)
	}
	members["accel"] = json.RawMessage(`"tcg"`)
	if members["timeout"] == nil {
		members["timeout"] = json.RawMessage(`"10m"`)
	}
	b, err := json.Marshal(members)
	if err != nil {
		panic(err)
	}
	return b
}

// register runs the sentence up to register, and destroys what it makes when
// the test ends.
func (b *bench) register(spec step.Spec) step.Registration {
	b.Helper()
	return b.registerImage(b.image(spec))
}

func (b *bench) registerImage(img step.Image) step.Registration {
	b.Helper()
	b.Cleanup(func() { b.destroy(img.Spec) })
	r, err := New(b.site).Register(b.Context(), img)
	if err != nil {
		b.Fatal(err)
	}
	return r
}

func (b *bench) destroy(spec step.Spec) step.Destroyed {
	b.Helper()
	// A cleanup's: the test's context is done.
	d, err := New(b.site).Destroy(context.WithoutCancel(b.Context()), step.Removal{Spec: spec})
	if err != nil {
		b.Errorf("%v", err)
	}
	return d
}

func (b *bench) boot(r step.Registration) step.Machine {
	b.Helper()
	m, err := New(b.site).Boot(b.Context(), r)
	if err != nil {
		b.Fatalf("%v\n%s", err, detail(err).Hint)
	}
	return m
}

func detail(err error) *step.Error {
	var e *step.Error
	if errors.As(err, &e) {
		return e
	}
	return &step.Error{}
}

// pid is the machine's process, by its working folder.
// late returns the error of a boot of a machine that prints words and does not get ready.
func (b *bench) late(r step.Registration, words string) error {
	b.Helper()
	_, err := New(b.site).Boot(b.Context(), r)
	if words == "" {
		return err
	}
	eventually(b.T, "its words", func() bool { // on a slow host they come later
		text, _ := os.ReadFile(filepath.Join(r.ID, "console.log"))
		return strings.Contains(string(text), words)
	})
	_, err = New(b.site).Boot(b.Context(), r)
	return err
}

func (b *bench) pid(r step.Registration) int {
	b.Helper()
	for _, line := range resources(b.T, b.site) {
		var pid int
		if n, _ := fmt.Sscanf(line, "process %d", &pid); n == 1 {
			if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err == nil && cwd == r.ID {
				return pid
			}
		}
	}
	return 0
}

func (b *bench) count(what string) (n int) {
	for _, line := range resources(b.T, b.site) {
		if strings.HasPrefix(line, what) {
			n++
		}
	}
	return n
}

// eventually waits for what QEMU does in its own time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	every := time.NewTicker(20 * time.Millisecond)
	defer every.Stop()
	for began := time.Now(); !ok(); <-every.C {
		if time.Since(began) > 2*time.Minute {
			t.Fatalf("%s: not within 2 minutes", what)
		}
	}
}

func listens(port int) bool {
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	return c.Close() == nil
}
