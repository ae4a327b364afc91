// Package treetest has a bench for tests of toolchains that are made with package tree: a
// site, sources, the reported progress, and workers to kill.
package treetest

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
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// Bench is a site that records the progress of its toolchains.
type Bench struct {
	*testing.T
	Site step.Site
	kind string
	mu   sync.Mutex
	told []step.Progress
}

// New makes a bench for toolchains of a kind.
func New(t *testing.T, kind string) *Bench {
	return &Bench{T: t, kind: kind, Site: step.Site{Host: "here", State: t.TempDir(), Store: Store(t.TempDir())}}
}

// Reporting is ctx with the bench as the place that progress goes to.
func (b *Bench) Reporting(ctx context.Context) context.Context {
	return step.WithReporter(ctx, func(p step.Progress) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.told = append(b.told, p)
	}, nil)
}

// Notes is all notes reported so far.
func (b *Bench) Notes() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []string
	for _, p := range b.told {
		all = append(all, p.Note)
	}
	return all
}

// Spec is a deploy of these files; options are marshalled.
func (b *Bench) Spec(options any, files map[string]string) step.Spec {
	b.Helper()
	text, err := json.Marshal(options)
	if err != nil {
		b.Fatal(err)
	}
	archive, err := b.Site.Store.Put(b.Context(), bytes.NewReader(pack(b.T, files)))
	if err != nil {
		b.Fatal(err)
	}
	return step.Spec{
		Tags:      step.Tags{App: "hello", Target: "dev", Life: "0a1b2c3d", Generation: 1},
		Toolchain: step.Recipe{Kind: b.kind, Options: text},
		Origin:    step.Origin{Archive: &archive},
	}
}

// Text is the content of an artifact.
func (b *Bench) Text(a *step.Artifact) string {
	b.Helper()
	if a == nil {
		b.Fatal("no artifact")
	}
	path := filepath.Join(b.TempDir(), "text")
	if err := b.Site.Store.Fetch(b.Context(), *a, path); err != nil {
		b.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	return string(text)
}

// Deploy runs both stages.
func (b *Bench) Deploy(ctx context.Context, tc step.Toolchain, spec step.Spec) (step.Kernel, error) {
	src, err := tc.Configure(b.Reporting(ctx), spec)
	if err != nil {
		return step.Kernel{}, err
	}
	return tc.Build(b.Reporting(ctx), src)
}

// Rollouts lists the rollouts that have a folder in the site's state.
func (b *Bench) Rollouts() []string {
	b.Helper()
	entries, err := os.ReadDir(filepath.Join(b.Site.State, b.kind))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		if _, ok := step.ParseFolder(e.Name()); ok {
			all = append(all, e.Name())
		}
	}
	return all
}

// InPlace is the path of a file of the tree in which a stage runs, "" if there is none.
func (b *Bench) InPlace(name string) string {
	all, _ := filepath.Glob(filepath.Join(b.Site.State, b.kind, "at-*", "tree", name))
	if len(all) == 0 {
		return ""
	}
	return all[0]
}

// WantNothing asserts that no rollout left a folder behind.
func (b *Bench) WantNothing() {
	b.Helper()
	if all := b.Rollouts(); len(all) > 0 {
		b.Errorf("rollouts left behind: %v", all)
	}
	if tree := b.InPlace(""); tree != "" {
		b.Errorf("a tree was left behind: %s", tree)
	}
}

// WantError asserts an error's kind, that it is one line, and that each of
// texts is in it or in its hint.
func WantError(t *testing.T, err error, kind step.Kind, texts ...string) *step.Error {
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

// Await polls until ok returns true. what names the condition in the error.
func Await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	for !ok() {
		select {
		case <-deadline:
			t.Fatal("no sign of", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// With returns files with further ones: more is a name, its content, a name, ...
func With(files map[string]string, more ...string) map[string]string {
	all := maps.Clone(files)
	for i := 0; i < len(more); i += 2 {
		all[more[i]] = more[i+1]
	}
	return all
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

// Command is a program to be run in a folder, with the test's environment.
func Command(t *testing.T, dir string, argv ...string) *exec.Cmd {
	c := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	c.Dir = dir
	return c
}
