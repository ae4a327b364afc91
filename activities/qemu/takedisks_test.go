package qemu

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

// dataFile makes a disk for a test, and another name for it.
func dataFile(t *testing.T) (path, link string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "data.img")
	link = path + ".link"
	if err := errors.Join(os.WriteFile(path, make([]byte, 1<<20), 0o600), os.Symlink("data.img", link)); err != nil {
		t.Fatal(err)
	}
	return path, link
}

// flocks says whether the file can be locked, as another target's machine would.
func flocks(t *testing.T, path string, how int) bool {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	err = syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil && !errors.Is(err, syscall.EWOULDBLOCK) {
		t.Fatal(err)
	}
	return err == nil
}

// One file is one disk, whatever names it has, and QEMU keeps its lock.
func TestDiskHasManyNames(t *testing.T) {
	b := newBench(t)
	path, link := dataFile(t)
	_, err := New(b.site).Check(t.Context(), b.spec("twice", 1, `{"disks":[{"path":%q,"readonly":true},{"path":%q}]}`, path, link))
	if e := detail(err); e.Kind != step.InvalidSpec || e.Field != "disks[1].path" || !strings.Contains(e.Error(), "disks[0].path") || !strings.Contains(e.Hint, "readonly: true on both") {
		t.Errorf("twice: %s %v, hint %q", e.Kind, err, e.Hint)
	}
	const options = `{"args":"stay","expect":"staying","disks":[{"path":%q}]}`
	r := b.register(b.spec("one", 1, options, link))
	b.boot(r)
	_, err = New(b.site).Check(t.Context(), b.spec("other", 1, options, path))
	if e := detail(err); e.Kind != step.Conflict || e.Field != "disks[0].path" || !strings.Contains(e.Error(), "one.dev.00c0ffee-1 has "+path) {
		t.Errorf("other: %v", err)
	}
	if _, err := New(b.site).Check(t.Context(), b.spec("one", 2, options, path)); err != nil {
		t.Errorf("the next generation's check: %v", err)
	}
	if flocks(t, path, syscall.LOCK_SH) {
		t.Error("a disk that is written to can be locked for reading")
	}
	b.destroy(r.Spec)
	if !flocks(t, path, syscall.LOCK_EX) {
		t.Error("the disk is locked after destroy")
	}
	b.boot(b.register(b.spec("reader", 1, `{"args":"stay","expect":"staying","disks":[{"path":%q,"readonly":true},{"path":%q,"readonly":true}]}`, path, link)))
	if flocks(t, path, syscall.LOCK_EX) || !flocks(t, path, syscall.LOCK_SH) {
		t.Error("a disk that is read can be locked for writing, or not for reading")
	}
}

// A disk that another target's machine has, or another program, is not ours to write to.
func TestDiskOfOthers(t *testing.T) {
	b := newBench(t)
	path, link := dataFile(t)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	r := b.register(b.spec("mine", 1, `{"disks":[{"size":"1MiB"}]}`))
	for _, readonly := range []string{"", `,"readonly":true`} {
		spec := b.spec("mine", 1, `{"disks":[{"path":%q%s}]}`, link, readonly)
		_, err := New(b.site).Check(t.Context(), spec)
		if e := detail(err); e.Kind != step.Conflict || e.Field != "disks[0].path" || !strings.Contains(e.Error(), "another machine or program has "+link) || e.Hint == "" {
			t.Errorf("check: %s %v, hint %q", e.Kind, err, e.Hint)
		}
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	b.destroy(r.Spec)
	r = b.register(b.spec("mine", 1, `{"disks":[{"path":%q}]}`, link))
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	if _, err := New(b.site).Boot(t.Context(), r); step.KindOf(err) != step.Conflict {
		t.Errorf("boot: %v", err)
	}
}

// What cannot be by itself is said once, not tried for ever.
func TestDiskThatIsTooLarge(t *testing.T) {
	b := newBench(t)
	img := b.image(b.spec("huge", 1, `{"disks":[{"size":"1MiB"},{"size":"64TiB"}]}`))
	_, err := New(b.site).Register(t.Context(), img)
	if err == nil {
		b.destroy(img.Spec)
		t.Skip("this file system has files of 64 TiB")
	}
	if e := detail(err); e.Kind != step.InvalidSpec || e.Field != "disks[1].size" || !strings.Contains(e.Error(), "has no files of 64TiB") || e.Hint == "" {
		t.Errorf("huge: %s %v, hint %q", e.Kind, err, e.Hint)
	}
}
