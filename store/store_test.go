package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"github.com/morgana-deploy/morgana/step"
)

func openFile(t *testing.T) (*Store, string) {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "a store")
	s, err := Open(t.Context(), folder)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, folder
}

func content(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b) // never fails
	return b
}

func put(t *testing.T, s *Store, b []byte) step.Artifact {
	t.Helper()
	a, err := s.Put(t.Context(), bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// filesIn lists every file under folder, relative to it.
func filesIn(t *testing.T, folder string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(folder, path) // path starts with folder
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// wantError checks kind and that text and hint hold these words.
func wantError(t *testing.T, err error, kind step.Kind, words ...string) {
	t.Helper()
	var e *step.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want a *step.Error", err)
	}
	if e.Kind != kind {
		t.Errorf("kind %q, want %q: %v", e.Kind, kind, e)
	}
	if e.Op == "" {
		t.Errorf("no op: %v", e)
	}
	text := e.Error() + "\n" + e.Hint
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("no %q in:\n%s", w, text)
		}
	}
	if strings.Count(text, "\n") > 1 {
		t.Errorf("more than a line:\n%s", text)
	}
}

// anyStore runs a test on each kind of store.
func anyStore(t *testing.T, test func(t *testing.T, s *Store)) {
	t.Run("file", func(t *testing.T) { s, _ := openFile(t); test(t, s) })
	t.Run("s3", func(t *testing.T) { test(t, newS3(t).open(t)) })
}

func TestPutOpenFetch(t *testing.T) {
	anyStore(t, func(t *testing.T, s *Store) {
		for _, n := range []int{0, 1, 511, 512, 300_000, 20 << 20} {
			want := content(n)
			r := bytes.NewReader(want)
			_, _ = r.Seek(int64(n/2), io.SeekStart) // Put starts over
			a, err := s.Put(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(want)
			if a.SHA256 != hex.EncodeToString(sum[:]) || a.Size != int64(n) || !strings.HasSuffix(a.URI, "/sha256/"+a.SHA256[:2]+"/"+a.SHA256) {
				t.Fatalf("%d bytes: artifact %+v", n, a)
			}
			o, err := s.Open(t.Context(), a)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(iotest.HalfReader(o))
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes: read %d, %v", n, len(got), err)
			}
			if err := o.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "out")
			if err := os.WriteFile(path, []byte("before"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := s.Fetch(t.Context(), a, path); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes: fetched %d, %v", n, len(got), err)
			}
		}
		n := 0
		for a, err := range s.List(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if a.URI != s.uri(a.SHA256) {
				t.Errorf("listed %+v", a)
			}
			n++
		}
		if n != 6 {
			t.Errorf("listed %d, want 6", n)
		}
	})
}

func TestFolderIsPrivateAndHasOnlyArtifacts(t *testing.T) {
	s, folder := openFile(t)
	t.Setenv("TMPDIR", "/nowhere") // a temp file there would fail
	a := put(t, s, content(1000))
	if got := filesIn(t, folder); len(got) != 1 || got[0] != key(a.SHA256) {
		t.Errorf("files %q, want only %s", got, key(a.SHA256))
	}
	for _, dir := range []string{"", "sha256", filepath.Dir(key(a.SHA256))} {
		if info, err := os.Stat(filepath.Join(folder, dir)); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%q: mode %v, %v, want 0700", dir, info.Mode(), err)
		}
	}
}

func TestSameBytesTwiceWriteNothing(t *testing.T) {
	s, folder := openFile(t)
	a := put(t, s, content(1000))
	path := filepath.Join(folder, key(a.SHA256))
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if b := put(t, s, content(1000)); b != a {
		t.Errorf("%+v, then %+v", a, b)
	}
	after, err := os.Stat(path)
	if err != nil || !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) {
		t.Errorf("written again (%v)", err)
	}

	// Of the wrong size it is not the artifact, and is replaced.
	if err := os.Truncate(path, 10); err != nil {
		t.Fatal(err)
	}
	put(t, s, content(1000))
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content(1000)) {
		t.Errorf("not repaired: %d bytes, %v", len(got), err)
	}
}

func TestPutAtOnce(t *testing.T) {
	anyStore(t, func(t *testing.T, s *Store) {
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				a, err := s.Put(t.Context(), bytes.NewReader(content(100_000+i%2)))
				if err != nil {
					t.Error(err)
					return
				}
				if err := s.Fetch(t.Context(), a, filepath.Join(t.TempDir(), "out")); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}

// passes calls second when the second reading begins and each time it goes on.
type passes struct {
	*bytes.Reader
	starts int
	second func()
}

func (p *passes) Seek(offset int64, whence int) (int64, error) {
	p.starts++
	return p.Reader.Seek(offset, whence)
}

func (p *passes) Read(b []byte) (int, error) {
	if p.starts == 2 {
		p.second()
	}
	return p.Reader.Read(b)
}

func TestCancelledPutLeavesNothing(t *testing.T) {
	anyStore(t, func(t *testing.T, s *Store) {
		for _, c := range []struct {
			name  string
			after int
		}{{"at once", 0}, {"in the middle", 20}, {"at the end", 80}} {
			t.Run(c.name, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				reads := 0
				r := &passes{Reader: bytes.NewReader(content(20 << 20)), second: func() {
					if reads++; reads > c.after {
						cancel()
					}
				}}
				_, err := s.Put(ctx, r)
				wantError(t, err, "", "put an artifact", "context canceled")
				if !errors.Is(err, context.Canceled) {
					t.Errorf("not context.Canceled: %v", err)
				}
				wantEmpty(t, s)
			})
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Put(ctx, strings.NewReader("x")); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

// wantEmpty looks at all that is in the store, behind its back where it can.
func wantEmpty(t *testing.T, s *Store) {
	t.Helper()
	for a, err := range s.List(t.Context()) {
		t.Errorf("left artifact %+v, %v", a, err)
	}
	var client *s3.Client
	if s.bucket.As(&client) {
		out, err := client.ListMultipartUploads(t.Context(), &s3.ListMultipartUploadsInput{Bucket: aws.String("morgana")})
		var none smithy.APIError
		if errors.As(err, &none) && none.ErrorCode() == "NoSuchUpload" {
			err, out = nil, &s3.ListMultipartUploadsOutput{} // gofakes3's way to say none
		}
		if err != nil {
			t.Error(err)
		} else if len(out.Uploads) != 0 {
			t.Errorf("left %d unfinished uploads", len(out.Uploads))
		}
	}
	if s.folder != "" {
		if got := filesIn(t, s.folder); len(got) != 0 {
			t.Errorf("left %q", got)
		}
	}
}

func TestContentThatChangesIsNotStored(t *testing.T) {
	anyStore(t, func(t *testing.T, s *Store) {
		for _, c := range []struct {
			name   string
			second []byte
		}{
			{"other bytes", content(400_001)[:400_000]}, {"shorter", content(400_000)[:399_999]},
			{"longer", append(content(400_000), 'x')}, {"empty", nil},
		} {
			t.Run(c.name, func(t *testing.T) {
				r := &passes{Reader: bytes.NewReader(content(400_000))}
				r.second = func() {
					r.starts++ // once
					r.Reset(c.second)
				}
				_, err := s.Put(t.Context(), r)
				wantError(t, err, "", "changed while")
				wantEmpty(t, s)
			})
		}
	})
}

func TestReadErrorIsGivenAndLeavesNothing(t *testing.T) {
	s, _ := openFile(t)
	broken := errors.New("the disk is on fire")
	r := &failing{passes{Reader: bytes.NewReader(content(1 << 20))}, broken}
	_, err := s.Put(t.Context(), r)
	wantError(t, err, "", "the disk is on fire")
	if !errors.Is(err, broken) {
		t.Errorf("the cause is lost: %v", err)
	}
	wantEmpty(t, s)
}

type failing struct {
	passes
	err error
}

func (f *failing) Read(b []byte) (int, error) {
	if f.starts == 2 && f.Len() < 500_000 {
		return 0, f.err
	}
	return f.Reader.Read(b)
}

func closeLater(t testing.TB, c io.Closer) {
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Find says what Put would do and stores nothing.
func TestFind(t *testing.T) {
	s, folder := openFile(t)
	b := content(1000)
	a, have, err := s.Find(t.Context(), bytes.NewReader(b))
	if err != nil || have || len(filesIn(t, folder)) > 0 {
		t.Fatalf("before: %+v %t %v", a, have, err)
	}
	if made := put(t, s, b); made != a {
		t.Errorf("Find says %+v, Put makes %+v", a, made)
	}
	if again, have, err := s.Find(t.Context(), bytes.NewReader(b)); err != nil || !have || again != a {
		t.Errorf("after: %+v %t %v", again, have, err)
	}
}
