package tree

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// debugging is a source whose kernel holds the path of the folder it was compiled in, as
// gcc -g writes it.
func debugging() map[string]string {
	return with(project, "Makefile", strings.Replace(makefile(), "gcc ", "gcc -g ", 1))
}

// Rollouts from nothing, of any target and generation, give one kernel, though its debug
// information holds the path of the tree.
func TestEqualSourcesGiveEqualKernels(t *testing.T) {
	b := newBench(t)
	var kernels []step.Kernel
	for _, tags := range []step.Tags{
		{App: "hello", Target: "dev", Life: "0a1b2c3d", Generation: 1},
		{App: "hello", Target: "dev", Life: "0a1b2c3d", Generation: 2},
		{App: "hello", Target: "prod", Life: "ffffffff", Generation: 12},
	} {
		o := makeIt()
		o.Configure = [][]string{{"sh", "-c", "pwd > where"}}
		o.Build = append(o.Build, []string{"sh", "-c", "pwd | cmp - where"})
		spec := b.Spec(o, debugging())
		spec.Tags = tags
		k, err := b.deploy(t.Context(), spec)
		if err != nil || k.Cached {
			t.Fatalf("%+v, %v", k, err)
		}
		kernels = append(kernels, k)
		if err := os.RemoveAll(filepath.Join(b.Site.State, testKind, "cache")); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(b.Text(&kernels[0].File), filepath.Join(b.Site.State, testKind)) {
		t.Fatal("the kernel holds no path: this test proves nothing")
	}
	for _, k := range kernels[1:] {
		if k.File.SHA256 != kernels[0].File.SHA256 {
			t.Errorf("%+v: kernel %s, want %s", k.Spec.Tags, k.File.SHA256, kernels[0].File.SHA256)
		}
	}
}

// A rollout that comes to a place where a killed worker has left another's tree ends what
// still runs there, and has the place. The other rollout is configured again.
func TestPlaceOfAKilledWorker(t *testing.T) {
	b := newBench(t)
	const block = `@if [ ! -e goes-on ]; then (trap '' TERM HUP; sh -c 'echo $$$$ > pid; while :; do sleep 1; done') & wait; fi`
	spec := b.Spec(makeIt(), with(project, "Makefile", makefile(block)))
	src, err := b.toolchain().Configure(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	grandchild := b.KillWorker(step.Build, src)
	other := b.Spec(makeIt(), with(project, "Makefile", makefile(block), "goes-on", ""))
	other.Target = "prod"
	if k, err := b.deploy(t.Context(), other); err != nil || k.Cached {
		t.Errorf("%+v, %v", k, err)
	}
	if running(grandchild) {
		t.Error("the grandchild lives on")
	}
	_, err = b.toolchain().Build(t.Context(), src)
	if e := wantError(t, err, step.TreeGone, src.Tree+" is not there"); e == nil {
		t.Error(err)
	}
	if _, err := b.toolchain().Clean(t.Context(), spec); err != nil {
		t.Error(err)
	}
	if _, err := b.toolchain().Clean(t.Context(), other); err != nil {
		t.Error(err)
	}
	b.WantNothing()
}

// A place that nobody came back to is swept after a day.
func TestPlaceIsSwept(t *testing.T) {
	b := newBench(t)
	tc := b.toolchain()
	p, err := tc.placeOf("hello", makeIt().recipe())
	if err == nil {
		err = errors.Join(os.MkdirAll(p.tree(), 0o700), os.Symlink("hello.dev.0a1b2c3d-1", p.owner()), os.MkdirAll(tc.cacheFile("."), 0o700))
	}
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(p.owner())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		after time.Duration
		want  bool
	}{{23 * time.Hour, true}, {25 * time.Hour, false}} {
		tc.swept.Store(0)
		tc.sweep(t.Context(), info.ModTime().Add(c.after))
		if _, err := os.Stat(p.tree()); (err == nil) != c.want {
			t.Errorf("after %s: %v", c.after, err)
		}
	}
}
