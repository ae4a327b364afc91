package store

import (
	"bytes"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkPut puts 64 MiB that the store does not have. "x-copy" is how often
// as long that takes as hashing and copying them to a file and syncing it,
// which is the least a store could do; "x-copy-nosync" is the same without the
// sync.
func BenchmarkPut(b *testing.B) {
	const size = 64 << 20
	data := content(size)
	dir := b.TempDir()
	s, err := Open(b.Context(), filepath.Join(dir, "store"))
	if err != nil {
		b.Fatal(err)
	}
	closeLater(b, s)
	b.SetBytes(size)
	var whole, synced, plain time.Duration
	for i := 0; b.Loop(); i++ {
		data[0], data[1] = byte(i), byte(i>>8) // new each time

		start := time.Now()
		a, err := s.Put(b.Context(), bytes.NewReader(data))
		if err != nil {
			b.Fatal(err)
		}
		whole += time.Since(start)

		b.StopTimer()
		start = time.Now()
		f, err := os.Create(filepath.Join(dir, "plain"))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.MultiWriter(f, sha256.New()), bytes.NewReader(data)); err != nil {
			b.Fatal(err)
		}
		plain += time.Since(start)
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
		synced += time.Since(start)
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		if err := os.Remove(s.path(a.SHA256)); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(whole)/float64(synced), "x-copy")
	b.ReportMetric(float64(whole)/float64(plain), "x-copy-nosync")
}

// BenchmarkPutAgain puts 64 MiB that the store has; "x-sha256" compares it with
// hashing them.
func BenchmarkPutAgain(b *testing.B) {
	const size = 64 << 20
	data := content(size)
	s, err := Open(b.Context(), b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	closeLater(b, s)
	if _, err := s.Put(b.Context(), bytes.NewReader(data)); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	var whole, plain time.Duration
	for b.Loop() {
		start := time.Now()
		if _, err := s.Put(b.Context(), bytes.NewReader(data)); err != nil {
			b.Fatal(err)
		}
		whole += time.Since(start)
		b.StopTimer()
		start = time.Now()
		sha256.Sum256(data)
		plain += time.Since(start)
		b.StartTimer()
	}
	b.ReportMetric(float64(whole)/float64(plain), "x-sha256")
}
