package source

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

func wantError(t *testing.T, err error, kind step.Kind, words ...string) {
	t.Helper()
	var e *step.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want a *step.Error", err)
	}
	if e.Kind != kind || e.Op == "" {
		t.Errorf("kind %q, op %q, want kind %q: %v", e.Kind, e.Op, kind, e)
	}
	for _, w := range words {
		if !strings.Contains(e.Error()+"\n"+e.Hint, w) {
			t.Errorf("no %q in: %v (hint: %s)", w, e, e.Hint)
		}
	}
}

var project = map[string]string{
	"main.c": "int main;", "configure": "#!/bin/sh\n", "lib/a.c": "a", "lib-b/b.c": "b", "lib.c": "", ".gitignore": "*.o\n",
	"lib/latest": "-> a.c", "lib/deep/up": "-> ../../main.c", "loop": "-> loop", "built": "-> build/out",
	"lib/x.o": "object", strings.Repeat("long/", 30) + strings.Repeat("name", 40): "long", "naïve \xff": "bytes", ".git/config": "secret",
}

func archive(t *testing.T, folder string) []byte {
	t.Helper()
	f, err := Pack(t.Context(), folder, "")
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, f)
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPackDependsOnContentOnly(t *testing.T) {
	one := tree(t, project)
	b := archive(t, one)

	defer syscall.Umask(syscall.Umask(0o077))
	two := tree(t, project)
	for _, name := range []string{"main.c", "lib", "lib/a.c"} {
		if err := os.Chtimes(filepath.Join(two, name), time.Unix(1, 0), time.Unix(1e9, 5)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(two, "empty", "er"), 0o700); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, archive(t, two)) {
		t.Error("the same content gave other bytes")
	}
	if err := os.Chmod(filepath.Join(two, "main.c"), 0o700); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(b, archive(t, two)) {
		t.Error("an executable bit made no difference")
	}

	// The bytes are a promise between releases: another digest means that every
	// user's next deploy builds again.
	sum := sha256.Sum256(b)
	if got, want := hex.EncodeToString(sum[:]), "b082567a8a00650773e8f2bf3131b5a433f8c1eb49f3f308086c7bb08e655cca"; got != want {
		t.Errorf("digest %s, want %s", got, want)
	}
	r := tar.NewReader(bytes.NewReader(b))
	last := ""
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name <= last || h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || h.ModTime.Unix() != 0 {
			t.Errorf("after %q: %+v", last, h)
		}
		last = h.Name
	}
}

func TestUnpackGivesWhatWasPacked(t *testing.T) {
	b := archive(t, tree(t, project))
	folder := t.TempDir()
	if err := Unpack(iotest.OneByteReader(bytes.NewReader(b)), folder); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, archive(t, folder)) {
		t.Error("packed again it is something else")
	}
	for name, want := range map[string]fs.FileMode{"main.c": 0o644, "configure": 0o755, "lib/latest": fs.ModeSymlink | 0o777} {
		if info, err := os.Lstat(filepath.Join(folder, name)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", name, info, err, want)
		}
	}
	for _, name := range []string{"lib/x.o", ".git"} {
		if _, err := os.Lstat(filepath.Join(folder, name)); err == nil {
			t.Errorf("%s came along", name)
		}
	}
	wantError(t, Unpack(bytes.NewReader(b), folder), step.Conflict, "not empty")
	wantError(t, Unpack(bytes.NewReader(b), filepath.Join(folder, "none")), step.NotFound)
}

func TestPackTellsItsSize(t *testing.T) {
	folder := tree(t, map[string]string{"a": "a", "lib/b": strings.Repeat("b", 3<<20), "c": "c", ".gitignore": "big", "big": strings.Repeat("x", 4<<20)})
	var last, reports int64
	ctx := step.WithReporter(t.Context(), func(p step.Progress) {
		if p.Done < last || p.Unit != "bytes" || p.Note == "" {
			t.Errorf("after %d: %+v", last, p)
		}
		last = p.Done
		reports++
	}, nil)
	f, err := Pack(ctx, folder, "")
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, f)
	info, err := f.Stat()
	if err != nil || f.Size != info.Size() || f.Largest != "lib/b" || f.LargestSize != 3<<20 {
		t.Errorf("%+v, %v, has %d bytes", f, err, info.Size())
	}
	if last != f.Size || reports < 10 {
		t.Errorf("%d reports, the last of %d bytes of %d", reports, last, f.Size)
	}
}

func TestPackLeavesNoTemporaryFile(t *testing.T) {
	folder, tmp := tree(t, project), t.TempDir()
	t.Setenv("TMPDIR", tmp)
	f, err := Pack(t.Context(), folder, "")
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Pack(ctx, folder, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
	t.Setenv("TMPDIR", filepath.Join(tmp, "none"))
	_, err = Pack(t.Context(), folder, "")
	wantError(t, err, step.NotFound, "none")
}

func TestPackRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		words string
	}{
		"nothing":              {nil, "no files"},
		"all ignored":          {map[string]string{".gitignore": "*", "a": ""}, "no files"},
		"only .git":            {map[string]string{".git/HEAD": ""}, "no files"},
		"absolute link":        {map[string]string{"a": "-> /etc/passwd"}, "link a leads out of the folder, to /etc/passwd"},
		"link up":              {map[string]string{"a": "-> ../x"}, "link a leads out"},
		"link up from below":   {map[string]string{"d/e/a": "-> ../../../x"}, "link d/e/a leads out"},
		"link through a link":  {map[string]string{"d/e/up": "-> ../..", "d/e/a": "-> up/../x"}, "link d/e/a leads out"},
		"link to the folder's": {map[string]string{"a": "-> .."}, "link a leads out"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Pack(t.Context(), tree(t, c.files), "")
			wantError(t, err, step.InvalidSpec, c.words, "gitignore")
		})
	}
	t.Run("pipe", func(t *testing.T) {
		for pipe, hint := range map[string]string{"lib/pipe": "\nremove it, or name it in .gitignore", "lib/.gitignore": "\nmake it a file, or remove it"} {
			folder := tree(t, project)
			if err := syscall.Mkfifo(filepath.Join(folder, pipe), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Pack(t.Context(), folder, "")
			wantError(t, err, step.InvalidSpec, pipe+" is neither", hint)
		}
	})
	t.Run("socket", func(t *testing.T) {
		folder := tree(t, map[string]string{"a": ""})
		t.Chdir(folder) // a socket's name is short
		l, err := net.Listen("unix", "s")
		if err != nil {
			t.Fatal(err)
		}
		closeLater(t, l)
		_, err = Pack(t.Context(), folder, "")
		wantError(t, err, step.InvalidSpec, "s is neither")
	})
	_, err := Pack(t.Context(), filepath.Join(t.TempDir(), "none"), "")
	wantError(t, err, step.NotFound, "none")
	_, err = Pack(t.Context(), filepath.Join(tree(t, project), "main.c"), "")
	wantError(t, err, step.InvalidSpec, "main.c")
}

// growing changes a file as soon as its header is written.
type growing struct {
	path string
	size int64
	done bool
}

func (g *growing) Write(b []byte) (int, error) {
	if !g.done {
		g.done = true
		if err := os.Truncate(g.path, g.size); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

func TestPackSeesAFileChange(t *testing.T) {
	for name, size := range map[string]int64{"grows": 9 << 20, "shrinks": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			folder := tree(t, map[string]string{"a": ""})
			path := filepath.Join(folder, "a")
			if err := os.Truncate(path, 8<<20); err != nil {
				t.Fatal(err)
			}
			_, err := pack(t.Context(), folder, "", &growing{path: path, size: size})
			if err == nil || !strings.Contains(err.Error(), "a changed while") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Memory must not grow with the source.
func TestPackStreams(t *testing.T) {
	folder := tree(t, map[string]string{"a": ""})
	if err := os.Truncate(filepath.Join(folder, "a"), 256<<20); err != nil {
		t.Fatal(err)
	}
	r := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := pack(t.Context(), folder, "", io.Discard); err != nil {
				b.Fatal(err)
			}
		}
	})
	if got := r.AllocedBytesPerOp(); got > 2<<20 {
		t.Errorf("%d bytes allocated for a file of 256 MiB", got)
	}
}

func closeLater(t testing.TB, c io.Closer) {
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}
