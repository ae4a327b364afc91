package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

func TestFetchModeFollowsUmask(t *testing.T) {
	s, _ := openFile(t)
	a := put(t, s, []byte("x"))
	path := filepath.Join(t.TempDir(), "out")
	defer syscall.Umask(syscall.Umask(0o027))
	if err := s.Fetch(t.Context(), a, path); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, %v, want 0640", info.Mode(), err)
	}
}

func TestDamageIsSeen(t *testing.T) {
	good := content(100_000)
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	for name, c := range map[string]struct {
		bytes []byte
		words string
	}{
		"flipped bit": {flipped, "another digest"},
		"truncated":   {good[:99_999], "ends after 99999 of 100000 bytes"},
		"longer":      {append(bytes.Clone(good), 0), "longer than 100000 bytes"},
		"empty":       {nil, "ends after 0 of 100000 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			s, folder := openFile(t)
			a := put(t, s, good)
			if err := os.WriteFile(filepath.Join(folder, key(a.SHA256)), c.bytes, 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := s.Open(t.Context(), a)
			if err != nil {
				t.Fatal(err)
			}
			closeLater(t, r)
			_, err = io.Copy(io.Discard, r)
			wantError(t, err, step.Conflict, "read artifact "+a.SHA256[:12], c.words, "remove file://")
			if _, again := r.Read(make([]byte, 1)); !errors.Is(again, err) {
				t.Errorf("the next read says %v", again)
			}
			// Who reads exactly Size bytes must not get the wrong ones either.
			// (Of a longer file the first Size bytes are the right ones.)
			if name == "flipped bit" {
				r, err := s.Open(t.Context(), a)
				if err != nil {
					t.Fatal(err)
				}
				closeLater(t, r)
				if _, err := io.ReadFull(r, make([]byte, a.Size)); step.KindOf(err) != step.Conflict {
					t.Errorf("ReadFull: %v", err)
				}
			}
			out := t.TempDir()
			err = s.Fetch(t.Context(), a, filepath.Join(out, "f"))
			wantError(t, err, step.Conflict, c.words)
			if got := filesIn(t, out); len(got) != 0 {
				t.Errorf("left %q", got)
			}
		})
	}
}

func TestFetchFails(t *testing.T) {
	s, folder := openFile(t)
	a := put(t, s, content(1<<20))
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "full", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(dir, "old")
	if err := os.WriteFile(old, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "none", "f")
	wantError(t, s.Fetch(t.Context(), a, missing), step.NotFound, "no such file", filepath.Dir(missing))
	wantError(t, s.Fetch(t.Context(), a, filepath.Join(dir, "full")), step.Conflict, "full")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Fetch(ctx, a, old); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	other := a
	other.SHA256 = strings.Repeat("0", 64)
	other.URI = s.uri(other.SHA256)
	wantError(t, s.Fetch(t.Context(), other, old), step.NotFound, "not in store file://", "MORGANA_STORE")
	if got, err := os.ReadFile(old); err != nil || string(got) != "old" {
		t.Errorf("the file there before is now %q, %v", got, err)
	}
	if got := filesIn(t, dir); len(got) != 1 {
		t.Errorf("left %q", got)
	}
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	wantError(t, s.Fetch(t.Context(), a, old), step.NotFound)
}

func TestArtifactsOfOthersAreRefused(t *testing.T) {
	s, _ := openFile(t)
	a := put(t, s, []byte("x"))
	k := key(a.SHA256)
	for name, c := range map[string]struct {
		a     step.Artifact
		kind  step.Kind
		words []string
	}{
		"another folder": {step.Artifact{URI: "file:///srv/there/" + k, SHA256: a.SHA256, Size: 1}, step.NotFound,
			[]string{"store file:///srv/there,", s.base, "worker and the starter the same MORGANA_STORE"}},
		"a bucket":  {step.Artifact{URI: "s3://there/" + k, SHA256: a.SHA256, Size: 1}, step.NotFound, []string{"s3://there", s.base}},
		"no digest": {step.Artifact{URI: a.URI, Size: 1}, step.InvalidSpec, []string{`""`}},
		"a path":    {step.Artifact{URI: a.URI, SHA256: "../../../../etc/passwd", Size: 1}, step.InvalidSpec, []string{"passwd"}},
		"digests differ": {step.Artifact{URI: s.uri(strings.Repeat("0", 64)), SHA256: a.SHA256, Size: 1}, step.InvalidSpec,
			[]string{a.SHA256}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Open(t.Context(), c.a)
			wantError(t, err, c.kind, c.words...)
			wantError(t, s.Fetch(t.Context(), c.a, filepath.Join(t.TempDir(), "f")), c.kind, c.words...)
		})
	}
}

func TestReadIsCancelled(t *testing.T) {
	s, _ := openFile(t)
	a := put(t, s, content(1<<20))
	ctx, cancel := context.WithCancel(t.Context())
	r, err := s.Open(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, r)
	if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.ReadAll(r); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
