package qemu

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/step"
)

// dataFile makes a disk for a test, and another two names for it.
func dataFile(t *testing.T) (path, link, hard string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "data.img")
	link, hard = path+".link", path+".hard"
	err := os.WriteFile(path, make([]byte, 1<<20), 0o600)
	if err := errors.Join(err, os.Symlink("data.img", link), os.Link(path, hard)); err != nil {
		t.Fatal(err)
	}
	return path, link, hard
}

// flocks says whether the file can be locked, as another room's machine would.
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

// One file is one disk, whatever names it has.
func TestDiskHasManyNames(t *testing.T) {
	b := newBench(t)
	path, link, hard := dataFile(t)
	for _, other := range []string{link, hard} {
		_, err := New(b.site).Check(t.Context(), b.spec("twice", 1, `{"disks":[{"path":%q,"readonly":true},{"path":%q}]}`, path, other))
		if e := detail(err); e.Kind != step.InvalidSpec || e.Field != "disks[1].path" || !strings.Contains(e.Error(), "disks[0].path") || e.Hint == "" {
			t.Errorf("%s: %s %v, hint %q", other, e.Kind, err, e.Hint)
		}
	}
	const options = `{"args":"stay","expect":"staying","disks":[{"path":%q}]}`
	r := b.register(b.spec("one", 1, options, link))
	b.boot(r)
	for _, other := range []string{path, hard} {
		_, err := New(b.site).Check(t.Context(), b.spec("other", 1, options, other))
		if e := detail(err); e.Kind != step.Conflict || e.Field != "disks[0].path" || !strings.Contains(e.Error(), "one.dev.00c0ffee-1 has "+other) {
			t.Errorf("%s: %v", other, err)
		}
	}
	if _, err := New(b.site).Check(t.Context(), b.spec("one", 2, options, hard)); err != nil {
		t.Errorf("the next generation's check: %v", err)
	}
	if flocks(t, hard, syscall.LOCK_SH) {
		t.Error("a disk that is written to can be locked for reading")
	}
	b.destroy(r.Spec)
	if !flocks(t, path, syscall.LOCK_EX) {
		t.Error("the disk is locked after destroy")
	}
	b.boot(b.register(b.spec("reader", 1, `{"args":"stay","expect":"staying","disks":[{"path":%q,"readonly":true},{"path":%q,"readonly":true}]}`, path, link)))
	if flocks(t, hard, syscall.LOCK_EX) || !flocks(t, hard, syscall.LOCK_SH) {
		t.Error("a disk that is read can be locked for writing, or not for reading")
	}
}

// A disk that another room's machine has, or another program, is not ours to write to.
func TestDiskOfOthers(t *testing.T) {
	b := newBench(t)
	path, link, _ := dataFile(t)
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
func TestDisksThatCannotBe(t *testing.T) {
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
	for _, errno := range []syscall.Errno{syscall.EROFS, syscall.ENOTDIR, syscall.ELOOP, syscall.ENXIO, syscall.ETXTBSY, syscall.EIO} {
		err := Disk{Path: "/x"}.refused("disks[0].path", &os.PathError{Op: "open", Path: "/x", Err: errno})
		if e := detail(err); e.Kind != step.InvalidSpec || e.Field != "disks[0].path" || e.Hint == "" {
			t.Errorf("%v: %s %v, hint %q", errno, e.Kind, err, e.Hint)
		}
	}
}

func TestDiskOnAReadOnlyFileSystem(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounts a file system")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "data.img")
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its mounts
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
				return err
			}
			err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("none", dir, "tmpfs", 0, "size=1m"))
			if err := errors.Join(err, os.WriteFile(path, []byte("data"), 0o600), unix.Mount("none", dir, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, "")); err != nil {
				return err
			}
			f, _, err := Disk{Path: path, ReadOnly: true}.open("disks[0].path")
			if err == nil {
				err = f.Close()
			}
			if err != nil {
				return err
			}
			_, _, err = Disk{Path: path}.open("disks[0].path")
			return err
		}()
	}()
	err := <-done
	if e := detail(err); e.Kind != step.InvalidSpec || e.Field != "disks[0].path" || !strings.Contains(e.Error(), "mounted read-only") || !strings.Contains(e.Hint, "readonly: true") {
		t.Errorf("%s %v, hint %q", e.Kind, err, e.Hint)
	}
}

func TestDeviceOfTwoNodes(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("makes device nodes")
	}
	dir := t.TempDir()
	node := func(name string, minor uint32) os.FileInfo {
		path := filepath.Join(dir, name)
		if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(7, minor))); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	a, b, other := node("a", 250), node("b", 250), node("other", 251)
	if !sameDisk(a, b) || sameDisk(a, other) {
		t.Errorf("one device %v, two devices %v", sameDisk(a, b), sameDisk(a, other))
	}
}
