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
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
)

func TestConformance(t *testing.T) {
	const secret = "s3cr3t-of-the-worker"
	t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
	port := need.Port(t)
	options := func(s string) json.RawMessage {
		return withTCG(fmt.Sprintf(s, port))
	}
	steptest.Run(t, steptest.Case{
		New:        func(site step.Site) step.Target { return New(site) },
		Spec:       step.Spec{Kind: Kind, Options: options(`{"args":"stay","expect":"staying","ports":["%d:80"]}`)},
		Kernel:     hello(t),
		ABIs:       []string{image.PVH},
		Misspelt:   json.RawMessage(`{"memroy":64}`),
		Nearest:    "memory",
		Changed:    options(`{"args":"stay","expect":"staying","ports":["%d:80"],"memory":64}`),
		NeverReady: options(`{"args":"stay","expect":"never printed","ports":["%d:80"]}`),
		ConsoleHas: "hello from a unikernel",
		Ends:       withTCG(`{"expect":"hello"}`),
		Secrets:    []string{secret},
		Resources:  resources,
	})
}

// The same from the disk that clouds get.
func TestConformanceFromDisk(t *testing.T) {
	t.Parallel()
	needDisk(t, viaBIOS)
	steptest.Run(t, steptest.Case{
		New:        func(site step.Site) step.Target { return New(site) },
		Spec:       step.Spec{Kind: Kind, Options: withTCG(`{"via":"bios","args":"stay","expect":"staying"}`)},
		Kernel:     hello(t),
		ABIs:       []string{image.PVH, image.Multiboot2},
		Misspelt:   json.RawMessage(`{"viaa":"bios"}`),
		Nearest:    "via",
		Changed:    withTCG(`{"via":"bios","args":"stay","expect":"staying","size":"1GiB"}`),
		NeverReady: withTCG(`{"via":"bios","args":"stay","expect":"never printed"}`),
		ConsoleHas: "hello from a unikernel",
		Resources:  resources,
	})
}

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

func TestBatchMachineEnds(t *testing.T) {
	b := newBench(t)
	r := b.register(b.spec("job", 1, `{"args":"once","expect":"command line: \\[once\\]\\n"}`))
	first := b.boot(r)
	eventually(t, "the machine ends", func() bool { return b.count("process") == 0 })
	console, err := os.Stat(filepath.Join(r.ID, "console.log"))
	if err != nil {
		t.Fatal(err)
	}
	second := b.boot(r)
	if !second.Adopted || second.ID != first.ID || !strings.Contains(second.Ready, "ended") {
		t.Errorf("booted again: %+v", second)
	}
	if again, err := os.Stat(filepath.Join(r.ID, "console.log")); err != nil || !os.SameFile(console, again) || b.count("process") != 0 {
		t.Errorf("it was started again (%v)", err)
	}
	text, err := New(b.site).Console(t.Context(), step.ConsoleFrom{Machine: second, WaitSeconds: 30})
	if err != nil || !strings.Contains(text.Text, "[once]") {
		t.Errorf("console %+v, %v", text, err)
	}
	text, err = New(b.site).Console(t.Context(), step.ConsoleFrom{Machine: second, Offset: text.Next, WaitSeconds: 30})
	if err != nil || !text.Ended || text.Text != "" {
		t.Errorf("console's end %+v, %v", text, err)
	}
}

// A restart policy on-failure depends on how the machine ended.
func TestHowAMachineEnded(t *testing.T) {
	for args, want := range map[string]step.Health{
		"once":   {State: step.Ended, Success: true},
		"reboot": {State: step.Ended, How: "reset, by a reboot or a triple fault"},
		"stay":   {State: step.Ended, How: "qemu: host-signal"},
	} {
		b := newBench(t)
		r := b.register(b.spec("ends", 1, `{"args":"%s","expect":"command line"}`, args))
		_, err := New(b.site).Boot(t.Context(), r)
		if failed := args == "reboot"; err != nil && !failed {
			t.Fatal(err)
		}
		if pid := b.pid(r); args == "stay" {
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the machine ends", func() bool { return b.count("process") == 0 })
		at, err := New(b.site).machines.Of(r.Spec.Tags)
		if err != nil {
			t.Fatal(err)
		}
		record, err := at.Record()
		if err != nil {
			t.Fatal(err)
		}
		got, err := New(b.site).Observe(t.Context(), step.Machine{Registration: r, ID: record.UUID()})
		got.Since = time.Time{}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", args, got, err, want)
		}
	}
}

// A kernel that failed is not ready, though its console matches.
func TestMatchedAndFailed(t *testing.T) {
	b := newBench(t)
	r := b.register(b.spec("fails", 1, `{"args":"reboot","expect":"nothing like it"}`))
	for range 2 {
		if _, err := New(b.site).Boot(t.Context(), r); err == nil || !strings.Contains(err.Error(), "the kernel ended: reset") {
			t.Fatal(err)
		}
		r.Spec.Options = bytes.Replace(r.Spec.Options, []byte("nothing like it"), []byte("rebooting"), 1)
	}
}

func TestBootFailed(t *testing.T) {
	for _, test := range []struct{ name, options, err, hint string }{
		{"never matches", `{"args":"stay","expect":"nothing like it","timeout":"1s"}`, `did not match "nothing like it" within 1s`, "command line: [stay]"},
		{"ends without a match", `{"expect":"nothing like it"}`, `the machine ended and its console did not match`, "command line: []"},
		{"port never answers", `{"args":"stay","expectPort":80,"timeout":"1s"}`, `its port 80 did not answer within 1s`, "command line: [stay]"},
		{"reboots", `{"args":"reboot","expect":"nothing like it"}`, "the kernel ended: reset, by a reboot or a triple fault", "rebooting"},
		{"qemu dies", `{"cpu":"max,nope=on"}`, `Property 'max-x86_64-cpu.nope' not found`, "qemu said"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			r := b.register(b.spec("bad", 1, "%s", test.options))
			words := ""
			if strings.Contains(test.options, "stay") {
				words = test.hint
			}
			err := b.late(r, words)
			if step.KindOf(err) != step.BootFailed {
				t.Fatal(err)
			}
			if e := detail(err); !strings.Contains(e.Error(), test.err) || !strings.Contains(e.Hint, test.hint) {
				t.Errorf("got %q\nhint %s", e, e.Hint)
			}
		})
	}
}

// A kernel that says nothing is ready after a second, and blamed plainly when
// something was expected.
func TestSilentKernel(t *testing.T) {
	b := newBench(t)
	var err error
	if b.kernel, err = b.site.Store.Put(t.Context(), strings.NewReader(silentKernel)); err != nil {
		t.Fatal(err)
	}
	if m := b.boot(b.register(b.spec("silent", 1, `{}`))); m.Ready != "ran for 1s" {
		t.Errorf("ready: %q", m.Ready)
	}
	_, err = New(b.site).Boot(t.Context(), b.register(b.spec("silent", 2, `{"expect":"x","timeout":"1s"}`)))
	if hint := detail(err).Hint; !strings.Contains(hint, "console is empty") {
		t.Errorf("%v\nhint: %s", err, hint)
	}
}

func TestKilledMachineIsStartedAgain(t *testing.T) {
	b := newBench(t)
	r := b.register(b.spec("killed", 1, `{"args":"stay","expect":"stay"}`))
	b.boot(r)
	before := b.pid(r)
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "qemu is gone", func() bool { return b.pid(r) == 0 })
	text, err := New(b.site).Console(t.Context(), step.ConsoleFrom{Machine: step.Machine{Registration: r}, Offset: 0})
	if err != nil || text.Ended {
		t.Errorf("console %+v, %v", text, err)
	}
	text, err = New(b.site).Console(t.Context(), step.ConsoleFrom{Machine: step.Machine{Registration: r}, Offset: text.Next, WaitSeconds: 30})
	if err != nil || !text.Ended {
		t.Errorf("console of a killed machine %+v, %v", text, err)
	}
	if m := b.boot(r); m.Adopted || b.pid(r) == 0 || b.pid(r) == before {
		t.Errorf("after a kill: %+v, process %d", m, b.pid(r))
	}
}

func TestConsoleOffsets(t *testing.T) {
	b := newBench(t)
	r := b.register(b.spec("text", 1, `{}`))
	want := strings.Repeat("x", 32<<10-1) + "äö\xff." + strings.Repeat("y", 100)
	if err := os.WriteFile(filepath.Join(r.ID, "console.log"), []byte(want), 0o600); err != nil {
		t.Fatal(err)
	}
	from := step.ConsoleFrom{Machine: step.Machine{Registration: r}}
	var got strings.Builder
	for {
		piece, err := New(b.site).Console(t.Context(), from)
		if err != nil {
			t.Fatal(err)
		}
		if len(piece.Text) > 32<<10 {
			t.Errorf("a piece of %d bytes", len(piece.Text))
		}
		got.WriteString(piece.Text)
		from.Offset = piece.Next
		if piece.Ended {
			break
		}
	}
	if want := strings.ToValidUTF8(want, "\uFFFD"); got.String() != want {
		t.Errorf("got %d bytes, want %d; around the cut %q", got.Len(), len(want), got.String()[32<<10-4:32<<10+8])
	}
}

// Boots that race with each other and with a destroy never make two machines,
// and destroy leaves none.
func TestRaces(t *testing.T) {
	b := newBench(t)
	spec := b.spec("race", 1, `{"args":"stay","expect":"stay"}`)
	r := b.register(spec)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			if i == 3 {
				time.Sleep(30 * time.Millisecond) // while the others start it
				b.destroy(spec)
				return
			}
			_, err := New(b.site).Boot(t.Context(), r)
			if k := step.KindOf(err); err != nil && k != step.NotFound && k != step.BootFailed && k != "" {
				t.Errorf("boot: %v", err)
			}
		})
	}
	all.Wait()
	b.destroy(spec)
}
