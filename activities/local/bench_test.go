package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
)

// The supervisor is this program as well.
func TestMain(m *testing.M) {
	if Supervise(os.Args) {
		syscall.Exit(0) // the race detector's exit sleeps for a second
	}
	status := m.Run()
	if err := os.RemoveAll(built.folder); err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

// built is what gcc makes of testdata, once.
var built struct {
	once   sync.Once
	folder string
	err    error
}

// Programs of testdata. The kernels have devices service and storage, or none.
const (
	linux    = "program"
	spt      = "spt"
	sptBare  = "spt-bare"
	hvt      = "hvt"
	arm      = "arm"
	tenders  = "tenders" // a folder for PATH
	tenderOf = "tenders/solo5-spt"
)

func file(t testing.TB, name string) string {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		need.Nil(t, err)
	}
	if folder, ok := os.LookupEnv("MORGANA_TEST_LOCAL_BUILT"); ok { // another user's test has built them
		return filepath.Join(folder, name)
	}
	built.once.Do(func() { built.folder, built.err = build() })
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.folder, name)
}

func build() (folder string, err error) {
	if folder, err = os.MkdirTemp("", "morgana-localtest-*"); err != nil {
		return "", err
	}
	if err := os.Mkdir(filepath.Join(folder, tenders), 0o755); err != nil { //nolint:gosec // others run it
		return folder, err
	}
	if err := os.Chmod(folder, 0o755); err != nil { //nolint:gosec // as above
		return folder, err
	}
	kernel := []string{"-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none"}
	for name, args := range map[string][]string{
		linux:               {"-O1", "-static", "testdata/program.c"},
		tenderOf:            {"-O1", "-static", "testdata/tender.c"},
		"tenders/solo5-hvt": {"-O1", "-static", "testdata/tender.c"},
		spt:                 append(kernel, "-DTARGET=2", "-DDEVICES=2", "testdata/kernel.S"),
		sptBare:             append(kernel, "-DTARGET=2", "-DDEVICES=0", "testdata/kernel.S"),
		hvt:                 append(kernel, "-DTARGET=1", "-DDEVICES=2", "testdata/kernel.S"),
	} {
		args := append([]string{"-Wall", "-Wextra", "-Werror", "-o", filepath.Join(folder, name)}, args...)
		if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
			return folder, fmt.Errorf("gcc %q: %w\n%s", args, err, out)
		}
	}
	b, err := os.ReadFile(filepath.Join(folder, sptBare))
	if err != nil {
		return folder, err
	}
	b[18] = 183 // e_machine: EM_AARCH64
	return folder, os.WriteFile(filepath.Join(folder, arm), b, 0o600)
}

// bench is a worker's host. When the test ends all is destroyed, and nothing
// may be left.
type bench struct {
	*testing.T
	site step.Site
	patience
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t, step.Site{Host: "testhost", State: t.TempDir(), Store: steptest.NewStore(t),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil))}, usual}
	t.Cleanup(func() {
		spec := b.spec("")
		spec.Generation = 0
		if _, err := b.target().Destroy(context.Background(), step.Removal{Spec: spec}); err != nil {
			t.Error(err)
		}
		if left := resources(t, b.site); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
	return b
}

// life is this run's: another may make taps on this host at the same time.
var life = fmt.Sprintf("%08x", os.Getpid())

func (b *bench) target() *Target {
	target := New(b.site)
	target.patience = b.patience
	return target
}

func (b *bench) spec(options string) step.Spec {
	spec := step.Spec{Kind: Kind, Options: json.RawMessage(options), Tags: step.Tags{App: "localtest", Target: "dev", Life: life, Generation: 1}}
	if s, err := complete(spec.Options); err == nil { // else the test is about that
		if spec.Options, err = json.Marshal(s.Options); err != nil {
			b.Fatal(err)
		}
	}
	return spec
}

func (b *bench) store(path string) step.Artifact {
	b.Helper()
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	a, err := b.site.Store.Put(b.Context(), f)
	if err != nil {
		b.Fatal(err)
	}
	return a
}

// kernel is a file of testdata with what its bytes say.
func (b *bench) kernel(name string, spec step.Spec) step.Kernel {
	b.Helper()
	path := file(b, name)
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	size, err := f.Seek(0, 2)
	if err != nil {
		b.Fatal(err)
	}
	info, err := image.Identify(f, size)
	if err != nil {
		b.Fatal(err)
	}
	return step.Kernel{Spec: spec, File: b.store(path), ABIs: info.ABIs}
}

// register takes a kernel to its registration.
func (b *bench) register(name string, spec step.Spec) step.Registration {
	b.Helper()
	img, err := b.target().Package(b.Context(), b.kernel(name, spec))
	if err != nil {
		b.Fatal(told(err))
	}
	r, err := b.target().Register(b.Context(), img)
	if err != nil {
		b.Fatal(told(err))
	}
	return r
}

func (b *bench) boot(r step.Registration) step.Machine {
	b.Helper()
	m, err := b.target().Boot(b.Context(), r)
	if err != nil {
		b.Fatal(told(err))
	}
	return m
}

// ends boots a program that ends before it is ready, however slow this host is.
func (b *bench) ends(r step.Registration) (step.Machine, error) {
	target := b.target()
	target.silence, target.settled = time.Hour, time.Hour
	return target.Boot(b.Context(), r)
}

// refused boots what must not come up.
func (b *bench) refused(r step.Registration, kind step.Kind, text, hint string) {
	b.Helper()
	_, err := b.ends(r)
	wantError(b, err, kind, "", text, hint)
}

// open lets a program go on that waits at its gate.
func (b *bench) open(r step.Registration) {
	b.Helper()
	if err := os.WriteFile(r.ID+"/gate", nil, 0o600); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) destroy(spec step.Spec) {
	b.Helper()
	if _, err := b.target().Destroy(b.Context(), step.Removal{Spec: spec}); err != nil {
		b.Error(told(err))
	}
}

func (b *bench) console(m step.Machine) string {
	b.Helper()
	text, err := b.target().Console(b.Context(), step.ConsoleFrom{Machine: m})
	if err != nil {
		b.Error(err)
	}
	return text.Text
}

// left is the process that the program says it left.
func (b *bench) left(m step.Machine) int {
	b.Helper()
	return leftIn(b, b.console(m))
}

func leftIn(t testing.TB, text string) int {
	t.Helper()
	var pid int
	_, after, _ := strings.Cut(text, "left ")
	if _, err := fmt.Sscanf(after, "%d", &pid); err != nil {
		t.Fatalf("nothing was left: %v\n%s", err, text)
	}
	return pid
}

// machine is the machine's folder.
func (b *bench) machine(r step.Registration) machine.Machine {
	b.Helper()
	m, err := b.target().machines.Of(r.Spec.Tags)
	if err != nil {
		b.Fatal(err)
	}
	return m
}

// pids are the supervisor's and the program's, 0 if they are not there.
func (b *bench) pids(r step.Registration) (supervisor, program int) {
	b.Helper()
	supervisor, err := b.machine(r).Pid()
	if err != nil {
		b.Fatal(err)
	}
	for _, pid := range processes(b.T, b.site) {
		if pid != supervisor && supervisor != 0 && parent(pid) == supervisor {
			program = pid
		}
	}
	return supervisor, program
}

// killSupervisor kills it and waits until it and the program are gone.
func (b *bench) killSupervisor(r step.Registration) {
	b.Helper()
	supervisor, program := b.pids(r)
	if supervisor == 0 || program == 0 {
		b.Fatalf("supervisor %d, program %d", supervisor, program)
	}
	if err := syscall.Kill(supervisor, syscall.SIGKILL); err != nil {
		b.Fatal(err)
	}
	b.until("their end", func() bool { // the lock: some thread of a zombie may live on
		pid, err := b.machine(r).Pid()
		return err == nil && pid == 0 && gone(supervisor) && gone(program)
	})
}

// resources lists what exists outside the store: machines, processes, taps.
func resources(t *testing.T, site step.Site) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(site.State, Kind))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, "folder "+e.Name())
	}
	for _, pid := range processes(t, site) {
		all = append(all, "process "+strconv.Itoa(pid))
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		for _, whose := range []string{"localtest/dev/" + life, "conformance"} {
			if whose == "conformance" && !strings.HasPrefix(t.Name(), "TestConformance") {
				continue // another target's suite
			}
			if strings.HasPrefix(l.Attrs().Alias, "morgana "+whose+"/") {
				all = append(all, "tap "+l.Attrs().Name)
			}
		}
	}
	return all
}

// until waits for an event.
func (b *bench) until(what string, is func() bool) {
	b.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatalf("waited in vain for %s; there is %q", what, resources(b.T, b.site))
		}
	}
}

func told(err error) string {
	var e *step.Error
	if errors.As(err, &e) {
		return fmt.Sprintf("%s: %v\nhint: %s", e.Kind, err, e.Hint)
	}
	return err.Error()
}

// wantError wants one clear line, with a hint.
func wantError(t testing.TB, err error, kind step.Kind, field, text, hint string) {
	t.Helper()
	var e *step.Error
	if !errors.As(err, &e) || e.Kind != kind || field != "" && e.Field != field || !strings.Contains(err.Error(), text) || !strings.Contains(e.Hint, hint) {
		got := "no error"
		if err != nil {
			got = told(err)
		}
		t.Errorf("got %s\nwant %s of %q: %q, hint %q", got, kind, field, text, hint)
		return
	}
	if e.Op == "" || e.Hint == "" || strings.Contains(err.Error(), "\n") {
		t.Errorf("not one clear line with a hint: %s", told(err))
	}
}
