package xenlab

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/need"
)

// A QEMU that never gets as far as its monitor ends with the wait for it.
func TestBootHangs(t *testing.T) {
	need.Tools(t, qemu)
	l, err := at(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	late := errors.New("late")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 500*time.Millisecond, late)
	defer cancel()
	// It waits for somebody to connect.
	hang := "socket,id=hang,server=on,wait=on,path=" + filepath.Join(l.Dir, "hang")
	booted := make(chan error, 1)
	go func() { booted <- l.boot(ctx, l.Dir, false, "-chardev", hang) }()
	select {
	case err := <-booted:
		if !errors.Is(err, late) {
			t.Error(err)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("it waits for ever")
	}
	if l.vm.cmd.ProcessState == nil {
		t.Error("QEMU runs")
	}
}

// What root makes in a user's folder is the user's: folders, the lock, files.
func TestGive(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give")
	}
	const uid, gid = 65534, 65533
	home := t.TempDir()
	if err := os.Chown(home, uid, gid); err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(home, ".cache")
	top := filepath.Join(cache, "morgana", "xenlab")
	if err := mkdirAll(top); err != nil {
		t.Fatal(err)
	}
	unlock, err := lock(t.Context(), filepath.Join(top, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	for _, path := range []string{cache, filepath.Dir(top), top, filepath.Join(top, "lock")} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if s := info.Sys().(*syscall.Stat_t); s.Uid != uid || s.Gid != gid {
			t.Errorf("%s belongs to %d:%d", path, s.Uid, s.Gid)
		}
	}
}

// A domain whose lab has ended by itself is gone.
func TestDomainEndsWithLab(t *testing.T) {
	need.Tools(t, "ssh")
	l, err := at(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l.vm = &vm{ended: make(chan struct{})}
	s := &Started{ctx: t.Context(), lab: l, name: "gone"}
	if s.destroy() == nil {
		t.Error("a domain that cannot be destroyed is gone")
	}
	close(l.vm.ended)
	if err := s.destroy(); err != nil {
		t.Error(err)
	}
}
