package disk

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
)

// tools skips a test whose tools are missing, unless all are required.
func tools(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		_, err := thisHost().find(name)
		if strings.HasPrefix(name, "/") {
			_, err = os.Stat(name)
		}
		need.Nil(t, err)
	}
}

// makes skips a test if this host cannot make a disk of a layout.
func makes(t testing.TB, layouts ...Layout) {
	t.Helper()
	for _, l := range layouts {
		need.Nil(t, missing(l, Needs(t.Context(), l)))
	}
}

// sh runs a program that judges, and gives what it printed.
func sh(t testing.TB, name string, args ...string) string {
	t.Helper()
	path, err := thisHost().find(name)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "MTOOLS_SKIP_CHECK=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// file writes a file of n bytes that are not zero and always the same.
func file(t testing.TB, n int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{}), n)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func textFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// abiFor is an ABI that every test can use with a layout.
func abiFor(l Layout) string {
	if l == Whole || l == Partition {
		return image.XenPV
	}
	return image.Multiboot2
}

func write(t testing.TB, l Layout, b Boot, minSize int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := Write(t.Context(), path, l, b, minSize); err != nil {
		t.Fatal(err)
	}
	return path
}

func digest(t testing.TB, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // only read
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}

// packedDigest is the digest of a packed disk: its size and all that is not zero.
func packedDigest(t testing.TB, path string) string {
	t.Helper()
	sum := sha256.New()
	if err := Pack(t.Context(), sum, path); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}

// used is the space that a file takes on its file system.
func used(t testing.TB, path string) int64 {
	t.Helper()
	var stat syscall.Stat_t
	if err := syscall.Stat(path, &stat); err != nil {
		t.Fatal(err)
	}
	return stat.Blocks * 512
}

func empty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func wantError(t *testing.T, err error, kind step.Kind, field string) *step.Error {
	t.Helper()
	var e *step.Error
	if !errors.As(err, &e) || e.Kind != kind || e.Field != field || strings.Contains(e.Error(), "\n") {
		t.Fatalf("got %q (%+v), want one line of %s for %q", err, e, kind, field)
	}
	return e
}

// A tool that fails, or never ends, leaves nothing.
func TestToolFails(t *testing.T) {
	makes(t, both...)
	kernel := file(t, 1000)
	for name, script := range map[string]string{
		"fails":   "#!/bin/sh\necho first >&2; echo second >&2; exit 3\n",
		"hangs":   "#!/bin/sh\nexec /bin/sleep 600\n",
		"missing": "",
	} {
		for l, tool := range map[Layout]string{BIOS: "grub-mkimage", UEFI: "mcopy"} {
			t.Run(name+" "+tool, func(t *testing.T) {
				h := host{path: []string{t.TempDir()}, grub: thisHost().grub}
				for _, other := range toolsOf(l) {
					if strings.Contains(other.name, "/") {
						continue
					}
					if other.name != tool {
						found, err := thisHost().find(other.name)
						if err == nil {
							err = os.Symlink(found, filepath.Join(h.path[0], other.name))
						}
						if err != nil {
							t.Fatal(err)
						}
					} else if script != "" {
						if err := os.WriteFile(filepath.Join(h.path[0], tool), []byte(script), 0o755); err != nil {
							t.Fatal(err)
						}
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				defer cancel()
				if name != "hangs" {
					ctx = t.Context()
				}
				dir := t.TempDir()
				begin := time.Now()
				err := h.write(ctx, filepath.Join(dir, "disk"), l, Boot{Kernel: kernel, ABI: abiFor(l)}, 0)
				switch name {
				case "fails":
					if e := wantError(t, err, "", ""); e.Error() != "run "+tool+": exit status 3: second" {
						t.Error(e)
					}
				case "hangs":
					if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > time.Minute {
						t.Errorf("%v after %v", err, time.Since(begin))
					}
				case "missing":
					e := wantError(t, err, step.Unsupported, "")
					if !strings.Contains(e.Error(), tool) || !strings.HasPrefix(e.Hint, "apt-get install ") {
						t.Errorf("%v (%s)", e, e.Hint)
					}
				}
				empty(t, dir)
			})
		}
	}
}

func TestNeeds(t *testing.T) {
	h := host{path: []string{t.TempDir(), "."}, grub: t.TempDir()}
	for l, want := range map[Layout]string{
		BIOS: "apt-get install grub-common grub-pc-bin",
		UEFI: "apt-get install grub-common grub-efi-amd64-bin mtools",
	} {
		if e := wantError(t, missing(l, h.needs(l)), step.Unsupported, ""); e.Hint != want {
			t.Errorf("%s: %s, want %s", l, e.Hint, want)
		}
	}
	t.Setenv("PATH", "/usr/bin:/bin") // as users have it who are not root
	for _, l := range both {
		makes(t, l)
		if needs := Needs(t.Context(), l); slices.ContainsFunc(needs, func(n step.Need) bool { return n.Found == "" || n.Fix != "" || n.For == "" }) {
			t.Errorf("%+v", needs)
		}
	}
}
