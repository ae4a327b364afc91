package machine

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/step"
)

// another is a machine of another deployment than the bench's.
var another = step.Tags{App: "disktest", Target: "dev", Life: "0a1b2c3d", Generation: 1}

// take takes disks for a machine, and lets them go.
func (b *bench) take(tags step.Tags, sparing bool, disks ...Disk) error {
	b.Helper()
	taken, err := b.machines.TakeDisks(b.Context(), tags, disks, sparing)
	for _, f := range taken {
		if err := f.Close(); err != nil {
			b.Error(err)
		}
	}
	return err
}

func wantDisk(t *testing.T, err error, kind step.Kind, field, text, hint string) {
	t.Helper()
	var e *step.Error
	if !errors.As(err, &e) || e.Kind != kind || e.Field != field || !strings.Contains(e.Error(), text) || e.Hint != hint {
		t.Errorf("got %v, %+v\nwant %s of %s: %q, hint %q", err, e, kind, field, text, hint)
	}
}

// One file is one disk, whatever names it has.
func TestDiskHasManyNames(t *testing.T) {
	b := newBench(t)
	path := filepath.Join(t.TempDir(), "data")
	link, hard := path+".link", path+".hard"
	err := os.WriteFile(path, make([]byte, 512), 0o600)
	if err := errors.Join(err, os.Symlink("data", link), os.Link(path, hard)); err != nil {
		t.Fatal(err)
	}
	read, write := Disk{"a", path, true, "readonly: true", nil}, Disk{Field: "b", Path: path}
	if err := b.take(another, false, read, read); err != nil {
		t.Errorf("two that read: %v", err)
	}
	for _, other := range []string{path, link, hard} {
		wantDisk(t, b.take(another, false, read, Disk{Field: "b", Path: other}), step.InvalidSpec, "b", other+" is the file of a too", "another file")
		wantDisk(t, b.take(another, false, write, Disk{"a", other, true, "readonly: true", nil}), step.InvalidSpec, "a", other+" is the file of b too", "another file; or readonly: true on both")
	}
	for _, how := range []int{syscall.LOCK_SH, syscall.LOCK_EX} {
		f, err := os.Open(hard)
		if err == nil {
			err = syscall.Flock(int(f.Fd()), how)
		}
		if err != nil {
			t.Fatal(err)
		}
		wantDisk(t, b.take(another, false, Disk{Field: "b", Path: link}), step.Conflict, "b", "another machine or program has "+link, "end it first: morgana destroy, if it is a machine")
		if err := b.take(another, false, read); (err == nil) != (how == syscall.LOCK_SH) {
			t.Errorf("to read: %v", err)
		}
		time.AfterFunc(diskPatience/5, func() { _ = f.Close() }) // one that looks only, as Check
		b.machines.patience = time.Minute
		if err := b.take(another, false, write); err != nil {
			t.Error(err)
		}
		b.machines.patience = diskPatience
	}
}

// Who has a disk is told, also by another target; only a machine of the same
// deployment is spared.
func TestDiskOfAMachine(t *testing.T) {
	b := newBench(t)
	path := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(path, make([]byte, 512), 0o600); err != nil {
		t.Fatal(err)
	}
	disk := Disk{Field: "a", Path: path}
	taken, err := b.machines.TakeDisks(t.Context(), b.reg.Spec.Tags, []Disk{disk}, false)
	if err != nil {
		t.Fatal(err)
	}
	b.files = taken
	if _, err := b.boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := taken[0].Close(); err != nil {
		t.Fatal(err)
	}
	free := Disk{Field: "a", Path: path + ".free"}
	if err := os.WriteFile(free.Path, make([]byte, 512), 0o600); err != nil {
		t.Fatal(err)
	}
	locked, err := b.machines.TakeDisks(t.Context(), another, []Disk{free}, false)
	if err != nil {
		t.Fatal(err)
	}
	wantDisk(t, b.take(another, false, free), step.Conflict, "a", "another machine or program has "+free.Path, "end it first: morgana destroy, if it is a machine")
	if err := locked[0].Close(); err != nil {
		t.Fatal(err)
	}
	mine := b.machines
	for _, kind := range []string{"test", "other"} {
		b.machines = In(step.Site{State: filepath.Dir(mine.root)}, kind)
		next := b.reg.Spec.Tags
		next.Generation++
		for _, tags := range []step.Tags{another, next} {
			wantDisk(t, b.take(tags, false, disk), step.Conflict, "a", "the running machine boottest.dev.0a1b2c3d-1 has "+path, "morgana destroy boottest/dev")
			if err := b.take(tags, true, disk); (err == nil) != (tags == next) {
				t.Errorf("%s/%v is spared: %v", kind, tags, err)
			}
		}
	}
	b.machines = mine
	if _, err := b.machines.Destroy(t.Context(), step.Removal{Spec: b.reg.Spec}, Quit{Ask: deaf}); err != nil {
		t.Fatal(err)
	}
	if err := b.take(another, false, disk); err != nil {
		t.Errorf("after destroy: %v", err)
	}
}

// What cannot be by itself is said once; what may pass is tried again.
func TestDisksThatCannotBe(t *testing.T) {
	b := newBench(t)
	folder := t.TempDir()
	file, loop := filepath.Join(folder, "file"), filepath.Join(folder, "loop")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink("loop", loop)); err != nil {
		t.Fatal(err)
	}
	const hint = "a file, or a block device as /dev/vg0/data"
	for _, test := range []struct {
		path       string
		kind       step.Kind
		text, hint string
	}{
		{folder, step.InvalidSpec, "neither a file nor a block device", hint},
		{"/dev/null", step.InvalidSpec, "neither a file nor a block device", hint},
		{loop, step.InvalidSpec, "the worker cannot write to " + loop + ": too many levels of symbolic links", hint},
		{file + "/x", step.InvalidSpec, "the worker cannot write to " + file + "/x: not a directory", hint},
		{file + ".no", step.NotFound, "this host has no " + file + ".no",
			"make it: truncate -s 1G " + file + ".no; or give a size instead, for a disk that goes with the machine"},
	} {
		wantDisk(t, b.take(another, false, Disk{Field: "a", Path: test.path}), test.kind, "a", test.text, test.hint)
	}
	for errno, kind := range map[syscall.Errno]step.Kind{
		syscall.EMFILE: "", syscall.ENFILE: "", syscall.ENOMEM: "", syscall.EINTR: "", syscall.EAGAIN: "",
		syscall.EACCES: step.Unauthorized, syscall.EPERM: step.Unauthorized,
		syscall.EROFS: step.InvalidSpec, syscall.ENXIO: step.InvalidSpec, syscall.ETXTBSY: step.InvalidSpec, syscall.EIO: step.InvalidSpec,
	} {
		err := Disk{Field: "a", Path: "/x"}.refused(&os.PathError{Op: "open", Path: "/x", Err: errno})
		var e *step.Error
		if !errors.As(err, &e) || e.Kind != kind || e.Field != "a" || (e.Hint == "") != (kind == "") || !errors.Is(err, errno) && kind == "" {
			t.Errorf("%v: %+v", errno, e)
		}
	}
	err := Machine{Path: folder}.MakeDisk("huge", 1<<62, "disks[0].size", "4EiB")
	if err == nil {
		t.Skip("this file system has files of 4 EiB")
	}
	wantDisk(t, err, step.InvalidSpec, "disks[0].size", "has no files of 4EiB", "a smaller one, or a state folder on another file system (xfs has files of 8 EiB)")
}

func TestDiskOnAReadOnlyFileSystem(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounts a file system")
	}
	dir := t.TempDir()
	disk := Disk{Field: "a", Path: filepath.Join(dir, "data"), ReadOnly: true, Reading: "readonly: true"}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its mounts
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
				return err
			}
			err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("none", dir, "tmpfs", 0, "size=1m"))
			if err := errors.Join(err, os.WriteFile(disk.Path, []byte("data"), 0o600), unix.Mount("none", dir, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, "")); err != nil {
				return err
			}
			f, _, err := disk.open()
			if err == nil {
				err = f.Close()
			}
			if err != nil {
				return err
			}
			disk.ReadOnly = false
			_, _, err = disk.open()
			return err
		}()
	}()
	wantDisk(t, <-done, step.InvalidSpec, "a", disk.Path+" is on a read-only file system", "a disk that can be written to; or readonly: true")
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
