package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// agedFile makes the file of an artifact old.
func agedFile(t *testing.T, s *Store, a step.Artifact) {
	t.Helper()
	old := time.Now().Add(-30 * 24 * time.Hour)
	if err := os.Chtimes(s.path(a.SHA256), old, old); err != nil {
		t.Fatal(err)
	}
}

func used(t *testing.T, s *Store) (at time.Time) {
	t.Helper()
	for e, err := range s.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		at = e.Used
	}
	return at
}

// Put and Open renew an old artifact, and Remove leaves what was used since.
func TestRemove(t *testing.T) {
	s, _ := openFile(t)
	week := time.Now().Add(-7 * 24 * time.Hour)
	b := content(1000)
	a := put(t, s, b)
	for _, use := range []struct {
		name string
		do   func()
	}{
		{"Put", func() { put(t, s, b) }},
		{"Open", func() {
			r, err := s.Open(t.Context(), a)
			if err != nil {
				t.Fatal(err)
			}
			_ = r.Close() // nothing was read
		}},
	} {
		agedFile(t, s, a)
		if use.do(); used(t, s).Before(week) {
			t.Errorf("%s did not renew it", use.name)
		}
		if removed, err := s.Remove(t.Context(), a, week); removed || err != nil {
			t.Errorf("after %s: removed %t, %v", use.name, removed, err)
		}
	}
	agedFile(t, s, a)
	for _, want := range []bool{true, false} {
		if removed, err := s.Remove(t.Context(), a, week); removed != want || err != nil {
			t.Errorf("removed %t, %v; want %t", removed, err, want)
		}
	}
	if _, err := s.Open(t.Context(), a); step.KindOf(err) != step.NotFound {
		t.Errorf("open of a removed artifact: %v", err)
	}
	wantEmpty(t, s)
}

// An artifact that Put returned is there, whatever Remove does at the same time.
func TestRemoveWhileItIsPut(t *testing.T) {
	s, folder := openFile(t)
	week := time.Now().Add(-7 * 24 * time.Hour)
	b := content(100)
	a := put(t, s, b)
	taken := 0
	for range 150 {
		agedFile(t, s, a)
		var both sync.WaitGroup
		both.Go(func() { put(t, s, b) })
		both.Go(func() {
			removed, err := s.Remove(t.Context(), a, week)
			if err != nil {
				t.Error(err)
			}
			if removed {
				taken++
			}
		})
		both.Wait()
		if left := filesIn(t, folder); len(left) != 1 || strings.HasSuffix(left[0], ".tmp") {
			t.Fatalf("the store has %q", left)
		}
	}
	t.Logf("removed first %d times of 150", taken)
}

// An artifact that Put stored again is there, although a slow Remove has opened the file
// that another Remove has removed.
func TestTwoRemovesWhileItIsPut(t *testing.T) {
	s, folder := openFile(t)
	week := time.Now().Add(-7 * 24 * time.Hour)
	b := content(100)
	a := put(t, s, b)
	agedFile(t, s, a)
	slow, err := os.OpenFile(s.path(a.SHA256), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = slow.Close() }() // nothing was written
	if removed, err := s.Remove(t.Context(), a, week); !removed || err != nil {
		t.Fatalf("removed %t, %v", removed, err)
	}
	put(t, s, b)
	if removed, err := removeOpened(slow, s.path(a.SHA256), week); removed || err != nil {
		t.Errorf("the slow one removed %t, %v", removed, err)
	}
	if left := filesIn(t, folder); len(left) != 1 || strings.HasSuffix(left[0], ".tmp") {
		t.Errorf("the store has %q", left)
	}
	if removed, err := s.Remove(t.Context(), a, time.Now().Add(time.Hour)); !removed || err != nil {
		t.Fatalf("removed %t, %v", removed, err)
	}
	if removed, err := removeOpened(slow, s.path(a.SHA256), week); removed || err != nil {
		t.Errorf("of an artifact that is gone: removed %t, %v", removed, err)
	}
}

// TestRemove in a bucket.
func TestRemoveS3(t *testing.T) {
	f := newS3(t)
	s := f.open(t)
	b := content(1000)
	a := put(t, s, b)
	if removed, err := s.Remove(t.Context(), a, time.Now().Add(-time.Hour)); removed || err != nil {
		t.Errorf("a young one: removed %t, %v", removed, err)
	}
	first := used(t, s)
	time.Sleep(1100 * time.Millisecond) // S3's times are whole seconds
	if err := s.renew(t.Context(), a.SHA256); err != nil || !used(t, s).After(first) {
		t.Errorf("renew: %v; used %v, then %v", err, first, used(t, s))
	}
	r, err := s.Open(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if _, err := got.ReadFrom(r); err != nil || !bytes.Equal(got.Bytes(), b) {
		t.Errorf("renewed bytes: %v", err)
	}
	_ = r.Close() // read to its end
	if removed, err := s.Remove(t.Context(), a, time.Now().Add(time.Hour)); !removed || err != nil {
		t.Errorf("removed %t, %v", removed, err)
	}
	if err := s.renew(t.Context(), a.SHA256); step.KindOf(err) != step.NotFound {
		t.Errorf("renew of a removed artifact: %v", err)
	}
	wantEmpty(t, s)
}

func TestOpenSweepsLeftovers(t *testing.T) {
	s, folder := openFile(t)
	a := put(t, s, []byte("x"))
	in := func(name string) string { return filepath.Join(folder, filepath.Dir(key(a.SHA256)), name) }
	left, foreign := in(a.SHA256+".18a0.tmp"), in("notes.tmp")
	for _, path := range []string{left, foreign} {
		if err := os.WriteFile(path, []byte("y"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for _, err := range s.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("listed %d, want the artifact alone", n)
	}
	again, err := Open(t.Context(), folder)
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, again)
	for path, want := range map[string]bool{left: false, foreign: true, in(a.SHA256): true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: there %v, want %v", filepath.Base(path), err == nil, want)
		}
	}
}

// A sweep that comes while a file is written leaves it alone; if one comes
// before the file is locked, the Put begins anew, but not for ever.
func TestSweepDuringPut(t *testing.T) {
	s, folder := openFile(t)
	half := func(do func()) *passes {
		r := &passes{Reader: bytes.NewReader(content(2 << 20))}
		r.second = func() {
			if r.Len() < 1<<20 {
				do()
			}
		}
		return r
	}
	swept := false
	if _, err := s.Put(t.Context(), half(func() { sweep(t.Context(), folder); swept = true })); err != nil || !swept {
		t.Errorf("put: %v; swept %v", err, swept)
	}
	if err := os.RemoveAll(filepath.Join(folder, "sha256")); err != nil {
		t.Fatal(err)
	}
	wipe := func() {
		for _, name := range filesIn(t, folder) {
			if err := os.Remove(filepath.Join(folder, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	var each *passes
	each = half(func() {
		wipe()
		each.starts = 1 // the next pass is a second one again
	})
	_, err := s.Put(t.Context(), each)
	if !errors.Is(err, errSwept) || step.KindOf(err).Final() {
		t.Errorf("put of a file that is swept each time: %v, kind %q", err, step.KindOf(err))
	}
	a, err := s.Put(t.Context(), half(wipe))
	if err != nil {
		t.Fatalf("put of a file that was swept once: %v", err)
	}
	if got := filesIn(t, folder); len(got) != 1 || filepath.Base(got[0]) != a.SHA256 {
		t.Errorf("the store has %q", got)
	}
}
