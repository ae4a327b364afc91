package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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

// What needs a process of its own (to be killed, to be nobody, to have mounts)
// is this test binary run again, as one of these.
var children = map[string]func(folder string) error{
	"stall": stallInPut, "nobody": openAsNobody, "full": fillDisk,
}

func TestMain(m *testing.M) {
	child, ok := children[os.Getenv("STORE_TEST_CHILD")]
	if !ok {
		os.Exit(m.Run())
	}
	if err := child(os.Getenv("STORE_TEST_FOLDER")); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// contextForChild ends a child whose parent forgot it.
func contextForChild() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 10*time.Minute)
}

func child(t *testing.T, name, folder string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "STORE_TEST_CHILD="+name, "STORE_TEST_FOLDER="+folder)
	cmd.Stderr = os.Stderr
	return cmd
}

// stallInPut says so when a Put is half-way, and stays there.
func stallInPut(folder string) error {
	ctx, cancel := contextForChild()
	defer cancel()
	s, err := Open(ctx, folder)
	if err != nil {
		return err
	}
	r := &passes{Reader: bytes.NewReader(content(8 << 20))}
	r.second = func() {
		if r.Len() < 4<<20 {
			fmt.Println("half-way")
			<-ctx.Done()
		}
	}
	_, err = s.Put(ctx, r)
	return err
}

func TestKilledPutIsSwept(t *testing.T) {
	s, folder := openFile(t)
	cmd := child(t, "stall", folder)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "half-way\n" {
		t.Errorf("the child said %q, %v", line, err)
	}
	reopen := func() []string {
		again, err := Open(t.Context(), folder)
		if err != nil {
			t.Fatal(err)
		}
		closeLater(t, again)
		return filesIn(t, folder)
	}
	if got := reopen(); len(got) != 1 {
		t.Errorf("files %q, want the one that is being written", got)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child ended with %v", err)
	}

	left := filesIn(t, folder)
	if len(left) != 1 || !strings.HasSuffix(left[0], ".tmp") {
		t.Fatalf("files %q, want one temporary file", left)
	}
	for a, err := range s.List(t.Context()) {
		t.Errorf("listed %+v, %v", a, err)
	}
	if got := reopen(); len(got) != 0 {
		t.Errorf("files %q, want none", got)
	}
	put(t, s, content(8<<20))
}

func openAsNobody(folder string) error {
	ctx, cancel := contextForChild()
	defer cancel()
	for _, f := range []string{folder, filepath.Join(folder, "below")} {
		_, err := Open(ctx, f)
		if step.KindOf(err) != step.Unauthorized || !strings.Contains(err.Error(), "permission denied") {
			return fmt.Errorf("%s: kind %q: %w", f, step.KindOf(err), err)
		}
	}
	return nil
}

func TestNoPermission(t *testing.T) {
	folder := t.TempDir()
	if err := os.Chmod(folder, 0o555); err != nil {
		t.Fatal(err)
	}
	cmd := child(t, "nobody", folder)
	if os.Geteuid() == 0 { // whom nothing is forbidden
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		// The binary and the folder are in places only root may enter.
		for path := folder; path != os.TempDir() && path != "/"; path = filepath.Dir(path) {
			if err := os.Chmod(path, 0o555); err != nil {
				t.Fatal(err)
			}
		}
		open := filepath.Join(t.TempDir(), "test")
		if err := os.Chmod(filepath.Dir(open), 0o755); err != nil {
			t.Fatal(err)
		}
		binary, err := os.ReadFile(cmd.Path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(open, binary, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd.Path = open
	}
	if out, err := cmd.Output(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// fillDisk puts and fetches where there are 64 KiB.
func fillDisk(folder string) error {
	ctx, cancel := contextForChild()
	defer cancel()
	if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, "size=64k"); err != nil {
		fmt.Println("cannot mount")
		return nil
	}
	s, err := Open(ctx, filepath.Join(folder, "store"))
	if err != nil {
		return err
	}
	check := func(what string, err error, hint string) error {
		var e *step.Error
		if !errors.As(err, &e) || e.Kind != step.NoSpace || !strings.Contains(e.Hint, hint) || !strings.Contains(e.Error(), "no space left") {
			return fmt.Errorf("%s: %w", what, err)
		}
		var left []string
		err = filepath.WalkDir(folder, func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() && !keyForm.MatchString(strings.TrimPrefix(path, s.folder+"/")) {
				left = append(left, path)
			}
			return err
		})
		if err != nil || len(left) != 0 {
			return fmt.Errorf("%s left %q, %w", what, left, err)
		}
		return nil
	}
	_, err = s.Put(ctx, bytes.NewReader(content(1<<20)))
	if err := check("put", err, "free space in "+s.folder); err != nil {
		return err
	}
	for a, err := range s.List(ctx) {
		return fmt.Errorf("put left %+v, %w", a, err)
	}
	a, err := s.Put(ctx, bytes.NewReader(content(40_000)))
	if err != nil {
		return err
	}
	err = s.Fetch(ctx, a, filepath.Join(folder, "out"))
	if err := check("fetch", err, "free space in "+folder); err != nil {
		return err
	}
	r, err := s.Open(ctx, a)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return errors.Join(err, r.Close(), s.Close())
}

func TestFullDisk(t *testing.T) {
	cmd := child(t, "full", t.TempDir())
	// The mount is seen by the child alone and ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
	}
	cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS // makes "/" private too
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		need.Nil(t, fmt.Errorf("no mount namespace: %w", err))
	}
	if string(out) == "cannot mount\n" {
		need.Nil(t, errors.New("may not mount a tmpfs"))
	}
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
