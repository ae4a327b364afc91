package image

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// zeros is a gzip file that holds n bytes of zeros and is a thousandth as long.
func zeros(t *testing.T, n int64) []byte {
	t.Helper()
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(w, io.LimitReader(zeroReader{}, n))
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestDecompressTo(t *testing.T) {
	const n = 3 << 20
	packed := zeros(t, n)
	var out bytes.Buffer
	compression, written, err := DecompressTo(t.Context(), &out, bytes.NewReader(packed), int64(len(packed)))
	if err != nil || compression != "gzip" || written != n || !bytes.Equal(out.Bytes(), make([]byte, n)) {
		t.Errorf("got %q, %d bytes, said to be %d (%v)", compression, out.Len(), written, err)
	}
	out.Reset()
	compression, written, err = DecompressTo(t.Context(), &out, bytes.NewReader(packed), 100)
	if step.KindOf(err) != step.InvalidSpec || compression != "gzip" || written > n {
		t.Errorf("of one that is cut off: %q, %d (%v)", compression, written, err)
	}
	plain := []byte("a kernel as it is")
	out.Reset()
	compression, written, err = DecompressTo(t.Context(), &out, bytes.NewReader(plain), int64(len(plain)))
	if err != nil || compression != "" || written != int64(len(plain)) || !bytes.Equal(out.Bytes(), plain) {
		t.Errorf("of one that is not packed: %q, %q, %d (%v)", out.Bytes(), compression, written, err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close() //nolint:errcheck // nothing is in it
	if _, _, err := DecompressTo(t.Context(), full, bytes.NewReader(packed), int64(len(packed))); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("to a full disk: %v", err)
	}
}

// slowly takes what it is given and cancels at the first byte.
type slowly struct {
	cancel func()
	n      int64
}

func (s *slowly) Write(p []byte) (int, error) {
	s.cancel()
	s.n += int64(len(p))
	return len(p), nil
}

// The whole file is read by then, so only the output can be cut off.
func TestDecompressToIsCancelled(t *testing.T) {
	const n = 16 << 20
	packed := zeros(t, n)
	ctx, cancel := context.WithCancel(t.Context())
	w := &slowly{cancel: cancel}
	if _, written, err := DecompressTo(ctx, w, bytes.NewReader(packed), int64(len(packed))); !errors.Is(err, context.Canceled) || written != w.n || w.n > 1<<20 {
		t.Errorf("wrote %d bytes, said to be %d (%v)", w.n, written, err)
	}
	if _, _, err := DecompressTo(ctx, w, bytes.NewReader([]byte("plain")), 5); !errors.Is(err, context.Canceled) {
		t.Errorf("of one that is not packed: %v", err)
	}
}

// endsAt is a file during whose reading ctx ends.
type endsAt struct {
	io.ReaderAt
	after  int
	cancel func()
}

func (e *endsAt) ReadAt(p []byte, off int64) (int, error) {
	if e.after--; e.after == 0 {
		e.cancel()
	}
	return e.ReaderAt.ReadAt(p, off)
}

func TestIdentifyIsCancelled(t *testing.T) {
	packed := zeros(t, 256<<20)
	ctx, cancel := context.WithCancel(t.Context())
	began := time.Now()
	_, err := Identify(Until(ctx, &endsAt{bytes.NewReader(packed), 3, cancel}), int64(len(packed)))
	if !errors.Is(err, context.Canceled) || step.KindOf(err) != "" {
		t.Errorf("got %v after %s", err, time.Since(began))
	}
}
