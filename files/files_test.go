package files

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, text := range []string{"one", "another, longer", ""} {
		if err := Write(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); string(got) != text || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if err := Write(filepath.Join(path, "below a file"), nil); err == nil {
		t.Error("no error")
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); len(entries) != 1 || err != nil {
		t.Errorf("left %v, %v", entries, err)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() }) // closed already, some of them
		return f
	}
	one, other := open(), open()
	if err := errors.Join(LockShared(one), LockShared(other)); err != nil {
		t.Error(err)
	}
	if err := Lock(one); !errors.Is(err, ErrLocked) {
		t.Errorf("beside a reader: %v", err)
	}
	if err := errors.Join(other.Close(), Lock(one)); err != nil {
		t.Error(err)
	}
	if err := LockShared(open()); !errors.Is(err, ErrLocked) {
		t.Errorf("beside a writer: %v", err)
	}
}

// Many that begin at once take each other's folders for left behind, and none is
// removed while it is held.
func TestScratchTogether(t *testing.T) {
	parent := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(parent, ".work-left"), 0o700), os.Mkdir(filepath.Join(parent, "other"), 0o700)); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				path, done, err := Scratch(parent, ".work-", func(name string) bool { return strings.HasPrefix(name, ".work-") })
				if err != nil {
					t.Error(err)
					return
				}
				if err := os.WriteFile(filepath.Join(path, "file"), nil, 0o600); err != nil {
					t.Error(err)
				}
				if err := done(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if entries, err := os.ReadDir(parent); len(entries) != 1 || err != nil {
		t.Errorf("left %v, %v", entries, err)
	}
}

// writer is called at each write.
type writer func()

func (w writer) Write(p []byte) (int, error) { w(); return len(p), nil }

func TestCopyEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	zero, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer zero.Close() //nolint:errcheck // only read
	if n, err := Copy(ctx, writer(cancel), zero); n == 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("%d bytes, %v", n, err)
	}
	var b bytes.Buffer
	if n, err := Copy(t.Context(), &b, strings.NewReader("all of it")); n != 9 || b.String() != "all of it" || err != nil {
		t.Errorf("%d bytes %q, %v", n, b.String(), err)
	}
}
