package tree

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/tree/treetest"
)

// counted builds project and appends a line to a file outside the tree.
func (b *bench) counted() (options, func() int) {
	path := filepath.Join(b.TempDir(), "builds")
	o := makeIt()
	o.Build = append(o.Build, []string{"sh", "-c", "echo built >> " + path})
	return o, func() int {
		text, _ := os.ReadFile(path)
		return strings.Count(string(text), "\n")
	}
}

func TestCache(t *testing.T) {
	b := newBench(t)
	o, builds := b.counted()
	foresee := func(want *step.Kernel) {
		t.Helper()
		spec := b.Spec(o, project)
		got, err := b.toolchain().Built(t.Context(), spec)
		if err != nil || got.Host != "here" || (got.Kernel == nil) != (want == nil) || want != nil && got.Kernel.File != want.File {
			t.Errorf("Built says %+v, %v", got, err)
		}
	}
	foresee(nil)
	if entries, err := os.ReadDir(filepath.Join(b.Site.State, testKind)); err == nil && len(entries) > 0 {
		t.Errorf("Built made %v", entries)
	}
	first, err := b.deploy(t.Context(), b.Spec(o, project))
	if err != nil {
		t.Fatal(err)
	}
	foresee(&first)
	deploy := func(what string, spec step.Spec, want int) {
		t.Helper()
		k, err := b.deploy(t.Context(), spec)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if n := builds(); n != want || k.Cached != (n == 1) {
			t.Errorf("%s: %d builds, want %d; cached %t", what, n, want, k.Cached)
		}
		if k.Cached && k.File != first.File {
			t.Errorf("%s: another kernel", what)
		}
	}
	spec := b.Spec(o, project)
	spec.Target, spec.Generation = "other", 7
	deploy("another target", spec, 1)
	src, err := b.toolchain().Configure(t.Context(), spec)
	if err != nil || src.Tree != "" || src.Host != "here" {
		t.Errorf("configure of a cached build: %+v, %v", src, err)
	}
	patient := o
	patient.Timeout = 2 * time.Hour
	deploy("another timeout", b.Spec(patient, project), 1)

	// A record that went between Configure and Build.
	if err := os.RemoveAll(filepath.Join(b.Site.State, testKind, "cache")); err != nil {
		t.Fatal(err)
	}
	_, err = b.toolchain().Build(t.Context(), src)
	if e := wantError(t, err, step.TreeGone); e == nil {
		t.Errorf("op is %q", e.Op)
	}
	deploy("no record", spec, 2)
	o.Env = map[string]string{"A": "b"}
	deploy("other options", b.Spec(o, project), 3)
	deploy("other source", b.Spec(o, with(project, "new", "file")), 4)
	t.Setenv("CC", "cc")
	deploy("other environment", b.Spec(o, project), 5)
	if err := os.Remove(filepath.Join(string(b.Site.Store.(treetest.Store)), first.File.SHA256)); err != nil {
		t.Fatal(err)
	}
	deploy("the store lost the kernel", b.Spec(o, project), 6)
	records, err := filepath.Glob(filepath.Join(b.Site.State, testKind, "cache", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if err := os.WriteFile(r, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	deploy("broken records", b.Spec(o, project), 7)
}

// A rebuild takes no earlier kernel, and its own kernel serves later deploys.
func TestRebuild(t *testing.T) {
	b := newBench(t)
	o, builds := b.counted()
	o.Build = append(o.Build, []string{"sh", "-c", "date +%N >> dist/hello"}) // each kernel is another
	last := step.Artifact{}
	for i, k := range []struct {
		rebuild, again bool
		want           int
	}{{false, false, 1}, {true, false, 2}, {true, true, 2}, {false, false, 2}, {true, false, 3}} {
		spec := b.Spec(o, project)
		spec.Rebuild, spec.Generation = k.rebuild, i+1
		if k.again { // the result of the last rollout's build was lost
			spec.Generation = i
		}
		kernel, err := b.deploy(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		if n := builds(); n != k.want || kernel.Cached != (kernel.File == last) {
			t.Errorf("%d: %d builds, want %d; cached %t, %s after %s", i, n, k.want, kernel.Cached, kernel.File.URI, last.URI)
		}
		last = kernel.File
	}
}

// Targets that are deployed at the same time share one build.
func TestBuiltOnce(t *testing.T) {
	b := newBench(t)
	o, builds := b.counted()
	gate := filepath.Join(t.TempDir(), "gate")
	o.Build = append(o.Build, []string{"sh", "-c", "until test -e " + gate + "; do sleep 0.05; done"})
	var all sync.WaitGroup
	start := make(chan struct{})
	for _, target := range []string{"one", "two", "three"} {
		spec := b.Spec(o, project)
		spec.Target = target
		tc := b.toolchain()
		src, err := tc.Configure(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			<-start
			if _, err := tc.Build(b.Reporting(t.Context()), src); err != nil {
				t.Error(target, err)
			}
		})
	}
	close(start)
	await(t, "a build that says what it waits for", func() bool {
		return strings.Contains(strings.Join(b.Notes(), "\n"), "waiting for the same build by ")
	})
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	if n := builds(); n != 1 {
		t.Errorf("built %d times", n)
	}
}

func TestWaitingEndsWithContext(t *testing.T) {
	b := newBench(t)
	spec := b.Spec(makeIt(), project)
	tc := b.toolchain()
	src, err := tc.Configure(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	w, err := tc.read(spec)
	if err == nil {
		err = tc.look(t.Context(), w)
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"key": tc.cacheFile(w.key + ".lock"), "tree": w.rollout.file(lockFile)} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		l, err := tryLock(path, "test")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if _, err := tc.Build(ctx, src); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
		l.release()
	}
	if _, err := tc.Build(t.Context(), src); err != nil {
		t.Error(err)
	}
}
