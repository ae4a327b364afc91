package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
)

func TestCleanMatchesTags(t *testing.T) {
	b := newBench(t)
	tc := b.toolchain()
	for _, tags := range []step.Tags{
		{App: "hello", Target: "dev", Life: "0a1b2c3d", Generation: 1},
		{App: "hello", Target: "dev", Life: "0a1b2c3d", Generation: 2},
		{App: "hello", Target: "dev", Life: "ffffffff", Generation: 2},
		{App: "hello", Target: "dev-2", Life: "0a1b2c3d", Generation: 1},
		{App: "hello-dev", Target: "dev", Life: "0a1b2c3d", Generation: 11},
	} {
		spec := b.Spec(makeIt(), project)
		spec.Tags = tags
		if _, err := tc.Configure(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(tc.folder, "hello.dev.notes"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		tags step.Tags
		want []string
	}{
		{step.Tags{App: "hello", Target: "none"}, nil},
		{step.Tags{App: "hello", Target: "dev", Life: "0a1b2c3d", Generation: 1}, []string{"hello.dev.0a1b2c3d-1"}},
		{step.Tags{App: "hello", Target: "dev", Generation: 2}, []string{"hello.dev.0a1b2c3d-2", "hello.dev.ffffffff-2"}},
		{step.Tags{App: "hello", Target: "dev-2", Life: "0a1b2c3d"}, []string{"hello.dev-2.0a1b2c3d-1"}},
		{step.Tags{App: "hello-dev", Target: "dev"}, []string{"hello-dev.dev.0a1b2c3d-11"}},
	} {
		listed, err := tc.List(t.Context(), step.Spec{Tags: c.tags})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, r := range listed {
			names = append(names, filepath.Base(r.ID))
			if !c.tags.Match(r.Tags) || r.Where != "here" || time.Since(r.Created) > time.Hour {
				t.Errorf("listed %+v", r)
			}
		}
		if strings.Join(names, " ") != strings.Join(c.want, " ") {
			t.Errorf("%+v lists %q, want %q", c.tags, names, c.want)
		}
		gone, err := tc.Clean(t.Context(), step.Spec{Tags: c.tags})
		if err != nil {
			t.Fatal(err)
		}
		names = nil
		for _, g := range gone.Removed {
			names = append(names, filepath.Base(g))
		}
		if strings.Join(names, " ") != strings.Join(c.want, " ") {
			t.Errorf("%+v removed %q, want %q", c.tags, names, c.want)
		}
	}
	b.WantNothing()
	if _, err := os.Stat(filepath.Join(tc.folder, "hello.dev.notes")); err != nil {
		t.Error("removed a folder that is no tree:", err)
	}
}

// Clean ends a build that another worker still runs, and does not wait for
// ever for one that does not let go.
func TestCleanOfABuildThatRuns(t *testing.T) {
	b := newBench(t)
	tc := b.toolchain()
	src, err := tc.Configure(t.Context(), b.Spec(sh(`trap '' TERM; echo $$ > pid; while :; do sleep 1; done`), project))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := b.toolchain().Build(t.Context(), src)
		done <- err
	}()
	pid := 0
	await(t, "the build", func() bool { pid = pidIn(b.InPlace("pid")); return pid != 0 })
	if gone, err := tc.Clean(t.Context(), src.Spec); err != nil || len(gone.Removed) != 1 {
		t.Errorf("clean: %+v, %v", gone, err)
	}
	if err := <-done; err == nil {
		t.Error("the build succeeded")
	}
	if running(pid) {
		t.Error("the command lives on")
	}
	b.WantNothing()

	src, err = tc.Configure(t.Context(), src.Spec)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tryLock(filepath.Join(filepath.Dir(src.Tree), lockFile), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer l.release()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = tc.Clean(ctx, src.Spec)
	var e *step.Error
	if !errors.As(err, &e) || e.Kind.Final() || len(e.Left) != 1 {
		t.Errorf("clean of a tree in use: %#v", err)
	}
}

// While a worker has the tree, what it has on record is its own: Clean could
// otherwise take off the record a command that was started meanwhile, and nobody
// would end that if the worker is killed.
func TestCleanLeavesTheRecordToItsHolder(t *testing.T) {
	b := newBench(t)
	tc := b.toolchain()
	src, err := tc.Configure(t.Context(), b.Spec(makeIt(), project))
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Dir(src.Tree)
	l, err := tryLock(filepath.Join(folder, lockFile), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer l.release()
	record := filepath.Join(folder, groupFile)
	over := group{ID: 1 << 30, Boot: bootID()}
	if err := over.record(record); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := tc.Clean(ctx, src.Spec); err == nil {
		t.Error("cleaned a tree in use")
	}
	if _, err := os.Stat(record); err != nil {
		t.Error("the holder's record is gone:", err)
	}
}

func TestJanitor(t *testing.T) {
	b := newBench(t)
	tc := b.toolchain()
	age := func(path string, by time.Duration) {
		t.Helper()
		then := time.Now().Add(-by)
		err := filepath.WalkDir(path, func(p string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Chtimes(p, then, then))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	folders := map[string]string{}
	for target, old := range map[string]time.Duration{"old": 25 * time.Hour, "used": 25 * time.Hour, "new": 23 * time.Hour} {
		spec := b.Spec(makeIt(), project)
		spec.Target = target
		src, err := tc.Configure(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		folders[target] = filepath.Dir(src.Tree)
		if target == "used" {
			l, err := tryLock(filepath.Join(folders[target], lockFile), "test")
			if err != nil {
				t.Fatal(err)
			}
			defer l.release()
		}
		age(folders[target], old)
	}
	cache := filepath.Join(tc.folder, "cache")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, old := range map[string]time.Duration{"old.json": 31, "old.lock": 31, "new.json": 29, "used.lock": 31} {
		path := filepath.Join(cache, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if name == "used.lock" {
			l, err := tryLock(path, "test")
			if err != nil {
				t.Fatal(err)
			}
			defer l.release()
		}
		age(path, old*24*time.Hour)
	}
	tc.sweep(t.Context(), time.Now()) // too early
	if _, err := os.Stat(folders["old"]); err != nil {
		t.Error("swept twice within the hour:", err)
	}
	spec := b.Spec(makeIt(), project)
	spec.Target = "next"
	if _, err := b.toolchain().Configure(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		folders["old"]: false, folders["used"]: true, folders["new"]: true,
		filepath.Join(cache, "old.json"): false, filepath.Join(cache, "old.lock"): false,
		filepath.Join(cache, "new.json"): true, filepath.Join(cache, "used.lock"): true,
	} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s is there: %t, want %t", path, err == nil, want)
		}
	}
}

// Folders that a build made read-only are removed as well. Root may do so
// anyway, so the test gives up being root.
func TestRemoveReadOnly(t *testing.T) {
	const dirVar = "MORGANA_BUILD_TEST_REMOVE"
	if dir := os.Getenv(dirVar); dir != "" {
		if err := removeAll(t.Context(), filepath.Join(dir, "mod")); err != nil {
			t.Error(err)
		}
		return
	}
	dir, err := os.MkdirTemp("/tmp", "morgana-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	inner := filepath.Join(dir, "mod", "cache")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(inner, "file"), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{inner, filepath.Dir(inner)} {
		if err := os.Chmod(p, 0o500); err != nil {
			t.Fatal(err)
		}
	}
	test, err := filepath.Abs(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(test, "-test.run=^TestRemoveReadOnly$")
	c.Env, c.Dir = append(os.Environ(), dirVar+"="+dir), "/"
	if os.Getuid() == 0 {
		copied := filepath.Join(dir, "test") // the build folder may be root's alone
		if out, err := exec.Command("cp", test, copied).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if out, err := exec.Command("chown", "-R", "65534:65534", dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		c.Path = copied
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "mod")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("still there:", err)
	}
}

// TestDiskFull runs itself with a disk of 1 MiB, in a mount namespace.
func TestDiskFull(t *testing.T) {
	const dirVar = "MORGANA_BUILD_TEST_DISK"
	if dir := os.Getenv(dirVar); dir != "" {
		diskFullTest(t, dir)
		return
	}
	need.Tools(t, "make", "gcc", "sh")
	dir := t.TempDir()
	c := exec.Command("sh", "-c", `mount -t tmpfs -o size=1m none "$1" && shift && exec "$@"`, "sh", dir, os.Args[0], "-test.run=^TestDiskFull$", "-test.v")
	c.Env = append(os.Environ(), dirVar+"="+dir)
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Unshareflags: syscall.CLONE_NEWNS}
	if uid := os.Getuid(); uid != 0 {
		c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := c.CombinedOutput()
	if err != nil && !strings.Contains(string(out), "TestDiskFull") {
		need.Nil(t, fmt.Errorf("no mount namespace: %w: %s", err, out))
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func diskFullTest(t *testing.T, disk string) {
	err := failed("write log", disk, &fs.PathError{Op: "write", Path: "log", Err: syscall.ENOSPC})
	_ = wantError(t, err, step.NoSpace, disk)
	b := newBench(t)
	b.Site.State = disk
	for _, c := range []struct {
		name    string
		options options
		files   map[string]string
	}{
		{"source", makeIt(), with(project, "big", strings.Repeat("x", 2<<20))},
		{"build", sh("dd if=/dev/zero of=big bs=64k; exit 1"), project},
		{"log", sh("yes"), project},
	} {
		spec := b.Spec(c.options, c.files)
		_, err := b.deploy(t.Context(), spec)
		e := wantError(t, err, step.NoSpace, disk)
		t.Logf("%s: %v\n%s", c.name, e, e.Hint)
		if _, err := b.toolchain().Clean(t.Context(), spec); err != nil {
			t.Errorf("%s: clean of a full disk: %v", c.name, err)
		}
	}
	b.WantNothing()
}
