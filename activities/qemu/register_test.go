package qemu

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

func TestDestroyRemovesScrap(t *testing.T) {
	b := newBench(t)
	spec := b.spec("scrap", 1, `{}`)
	r := b.register(spec)
	dir := filepath.Dir(r.ID)
	for _, name := range []string{".scrap.dev.00c0ffee-1.123", ".scrap.dev.00c0ffee-2.123"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	spec.Generation = 0
	if got := b.destroy(spec); len(got.Removed) != 3 {
		t.Errorf("removed %q", got.Removed)
	}
}

func TestRegister(t *testing.T) {
	b := newBench(t)
	q := New(b.site)
	r := b.register(b.spec("reg", 1, `{"args":"stay","expect":"stay"}`))
	// The kernel was damaged, as by a power cut: it is made anew.
	if err := os.WriteFile(filepath.Join(r.ID, "kernel"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if again := b.register(r.Spec); again.Adopted {
		t.Error("adopted a damaged kernel")
	}
	changed := r.Spec
	changed.Options = withTCG(`{"args":"stay now","expect":"stay"}`)
	r = b.register(changed)
	if r.Adopted {
		t.Error("adopted the folder of another image")
	}
	b.boot(r)
	img, err := q.Package(t.Context(), step.Kernel{Spec: b.spec("reg", 1, `{"memory":64}`), File: b.kernel, ABIs: []string{image.PVH}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Register(t.Context(), img); step.KindOf(err) != step.Conflict {
		t.Errorf("register over a running machine of another image: %v", err)
	}
	if _, err := os.Stat(r.ID); err != nil || b.count("folder") != 1 {
		t.Errorf("%v, %q", err, resources(t, b.site))
	}
}
