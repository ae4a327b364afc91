package store

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

// Open implements [step.Store]. If the bytes do not match, the reader returns an error
// in the place of the last bytes. So a caller that has read a.Size bytes, but not EOF,
// has verified bytes.
func (s *Store) Open(ctx context.Context, a step.Artifact) (io.ReadCloser, error) {
	op := "open artifact " + short(a)
	if err := s.belongs(a); err != nil {
		return nil, s.fail(op, err)
	}
	r, err := s.bucket.NewReader(ctx, key(a.SHA256), nil)
	if err == nil && time.Since(r.ModTime()) >= renewAfter {
		// Other errors do not matter: a reader may lack the permission to write.
		if renewed := s.renew(ctx, a.SHA256); step.KindOf(renewed) == step.NotFound {
			_ = r.Close() // not read
			return nil, s.missing(op)
		}
	}
	if gcerrors.Code(err) == gcerrors.NotFound {
		return nil, s.missing(op)
	}
	if err != nil {
		return nil, s.fail(op, err)
	}
	return &verified{ctx: ctx, store: s, want: a, blob: r, hash: sha256.New()}, nil
}

func (s *Store) missing(op string) error {
	return &step.Error{Kind: step.NotFound, Op: op, Err: fmt.Errorf("it is not in store %s", s.base),
		Hint: "deploy again to make it anew; on several hosts, check that MORGANA_STORE is one shared place"}
}

// verified reads an artifact and verifies its size and digest.
type verified struct {
	ctx   context.Context
	store *Store
	want  step.Artifact
	blob  *blob.Reader
	hash  hash.Hash
	n     int64
	err   error // sticky, io.EOF included
}

func (v *verified) Read(p []byte) (int, error) {
	if v.err != nil || len(p) == 0 {
		return 0, v.err
	}
	n, err := files.Reader(v.ctx, v.blob).Read(p)
	v.hash.Write(p[:n])
	v.n += int64(n)
	switch {
	case v.n > v.want.Size:
		v.err = v.corrupt("it is longer than %d bytes", v.want.Size)
	case v.n == v.want.Size && (n > 0 || errors.Is(err, io.EOF)) && hexSum(v.hash) != v.want.SHA256:
		v.err = v.corrupt("its bytes have another digest")
	case errors.Is(err, io.EOF) && v.n < v.want.Size:
		v.err = v.corrupt("it ends after %d of %d bytes", v.n, v.want.Size)
	case errors.Is(err, io.EOF):
		v.err = err
		return n, err
	case err != nil:
		v.err = v.store.fail("read artifact "+short(v.want), err)
	default:
		return n, nil
	}
	return 0, v.err
}

func (v *verified) Close() error {
	return v.store.fail("close artifact "+short(v.want), v.blob.Close())
}

// corrupt returns a final error: another read gives the same bytes.
func (v *verified) corrupt(format string, args ...any) error {
	return &step.Error{Kind: step.Conflict, Op: "read artifact " + short(v.want), Err: fmt.Errorf(format, args...),
		Hint: fmt.Sprintf("remove %s and deploy again", v.want.URI)}
}

// Fetch implements [step.Store]. The folder of path must exist. A failed or cancelled
// Fetch leaves no temporary file in it.
func (s *Store) Fetch(ctx context.Context, a step.Artifact, path string) (err error) {
	op := fmt.Sprintf("fetch artifact %s to %s", short(a), path)
	r, err := s.Open(ctx, a)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // only read from

	folder := filepath.Dir(path)
	// Not os.CreateTemp, whose files have mode 0600 whatever the umask.
	temp := filepath.Join(folder, ".fetch-"+rand.Text())
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return failIn(folder, op, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temp) // missing if the rename succeeded
		}
	}()
	_, err = files.Copy(ctx, f, r)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err == nil {
		err = files.Sync(folder)
	}
	return failIn(folder, op, err)
}

func (s *Store) path(sum string) string { return filepath.Join(s.folder, filepath.FromSlash(key(sum))) }

// short returns the first 12 digits of the digest.
func short(a step.Artifact) string {
	if len(a.SHA256) < 12 {
		return a.SHA256
	}
	return a.SHA256[:12]
}
