package command

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

// kernelC is about the smallest file that is a kernel: an ELF with a PVH note.
const kernelC = `
__attribute__((section(".note.Xen"), used, aligned(4)))
static const struct { unsigned name, size, type; char xen[4]; unsigned long entry; }
note = { 4, 8, 18, "Xen", 0x400000 };
void _start(void) { for (;;) ; }
`

// makefile builds dist/hello from kernelC, after the lines of before.
func makefile(before ...string) string {
	lines := append([]string{"all:"}, before...)
	lines = append(lines, "@mkdir -p dist", "@echo compiling hello",
		"gcc -nostdlib -static -no-pie -ffreestanding -fcf-protection=none -Wl,--build-id=none -o dist/hello main.c")
	return strings.Join(lines, "\n\t") + "\n"
}

var project = map[string]string{"Makefile": makefile(), "main.c": kernelC}

func with(files map[string]string, more ...string) map[string]string {
	all := maps.Clone(files)
	for i := 0; i < len(more); i += 2 {
		all[more[i]] = more[i+1]
	}
	return all
}

func needTools(t *testing.T) {
	t.Helper()
	for _, tool := range []string{"make", "gcc", "sh"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("MORGANA_REQUIRE") == "all" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
}

// bench is a site, and what the toolchain reports.
type bench struct {
	*testing.T
	site step.Site
	mu   sync.Mutex
	told []step.Progress
}

func newBench(t *testing.T) *bench {
	needTools(t)
	return &bench{T: t, site: step.Site{Host: "here", State: t.TempDir(), Store: testStore(t)}}
}

func (b *bench) context(ctx context.Context) context.Context {
	return step.WithReporter(ctx, func(p step.Progress) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.told = append(b.told, p)
	}, nil)
}

func (b *bench) notes() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []string
	for _, p := range b.told {
		all = append(all, p.Note)
	}
	return all
}

func (b *bench) spec(o Options, files map[string]string) step.Spec {
	b.Helper()
	options, err := json.Marshal(o)
	if err != nil {
		b.Fatal(err)
	}
	archive := b.put(pack(b.T, files))
	return step.Spec{
		Tags:      step.Tags{App: "hello", Target: "dev", Life: "0a1b2c3d", Generation: 1},
		Toolchain: step.Recipe{Kind: Kind, Options: options},
		Origin:    step.Origin{Archive: &archive},
	}
}

func (b *bench) put(data []byte) step.Artifact {
	b.Helper()
	a, err := b.site.Store.Put(b.Context(), bytes.NewReader(data))
	if err != nil {
		b.Fatal(err)
	}
	return a
}

func (b *bench) text(a *step.Artifact) string {
	b.Helper()
	if a == nil {
		b.Fatal("no artifact")
	}
	path := filepath.Join(b.TempDir(), "text")
	if err := b.site.Store.Fetch(b.Context(), *a, path); err != nil {
		b.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	return string(text)
}

// deploy runs both stages.
func (b *bench) deploy(ctx context.Context, spec step.Spec) (step.Kernel, error) {
	tc := New(b.site)
	src, err := tc.Configure(b.context(ctx), spec)
	if err != nil {
		return step.Kernel{}, err
	}
	return tc.Build(b.context(ctx), src)
}

// pack makes an archive. A name that ends in ! is executable.
func pack(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		mode := int64(0o644)
		path, program := strings.CutSuffix(name, "!")
		if program {
			mode = 0o755
		}
		h := &tar.Header{Name: path, Mode: mode, Size: int64(len(files[name])), Typeflag: tar.TypeReg, Format: tar.FormatPAX}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func makeIt() Options {
	return Options{Build: [][]string{{"make"}}, Kernel: "dist/hello"}
}

// sh is a recipe of one shell script.
func sh(script string) Options {
	return Options{Build: [][]string{{"sh", "-c", script}}, Kernel: "dist/hello"}
}

func wantError(t *testing.T, err error, kind step.Kind, texts ...string) *step.Error {
	t.Helper()
	if got := step.KindOf(err); err == nil || got != kind {
		t.Fatalf("error is %v (kind %q), want kind %q", err, got, kind)
	}
	var e *step.Error
	errors.As(err, &e)
	all := err.Error() + "\n" + e.Hint
	for _, text := range texts {
		if !strings.Contains(all, text) {
			t.Errorf("%q\nis not in error %q\nwith hint:\n%s", text, err, e.Hint)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error is more than one line: %q", err)
	}
	return e
}

// wantNothing asserts that a rollout left no folder behind.
func (b *bench) wantNothing() {
	b.Helper()
	all, err := New(b.site).rollouts()
	if err != nil || len(all) > 0 {
		b.Errorf("rollouts left behind: %v, %v", all, err)
	}
}
