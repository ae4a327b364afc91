package steptest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

// NewStore makes a store in a temporary folder.
func NewStore(t testing.TB) step.Store { return dirStore(t.TempDir()) }

// dirStore keeps each artifact in a file named by its digest.
type dirStore string

func (s dirStore) path(a step.Artifact) string { return filepath.Join(string(s), a.SHA256) }

func (s dirStore) Put(ctx context.Context, r io.ReadSeeker) (step.Artifact, error) {
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return step.Artifact{}, err
	}
	b, err := io.ReadAll(r)
	if err = errors.Join(err, ctx.Err()); err != nil {
		return step.Artifact{}, err
	}
	sum := sha256.Sum256(b)
	a := step.Artifact{SHA256: hex.EncodeToString(sum[:]), Size: int64(len(b))}
	a.URI = "file://" + s.path(a)
	return a, os.WriteFile(s.path(a), b, 0o600)
}

func (s dirStore) read(ctx context.Context, a step.Artifact) ([]byte, error) {
	b, err := os.ReadFile(s.path(a))
	switch sum := sha256.Sum256(b); {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, os.ErrNotExist):
		return nil, &step.Error{Kind: step.NotFound, Op: "open artifact", Err: fmt.Errorf("no artifact %s", a.SHA256)}
	case err == nil && hex.EncodeToString(sum[:]) != a.SHA256:
		return nil, fmt.Errorf("artifact %s has other bytes", a.SHA256)
	}
	return b, err
}

func (s dirStore) Open(ctx context.Context, a step.Artifact) (io.ReadCloser, error) {
	b, err := s.read(ctx, a)
	return io.NopCloser(bytes.NewReader(b)), err
}

func (s dirStore) Fetch(ctx context.Context, a step.Artifact, path string) error {
	b, err := s.read(ctx, a)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".part", b, 0o644); err != nil { //nolint:gosec // the contract's mode
		return err
	}
	return os.Rename(path+".part", path)
}

// stalled is a store that never answers, as behind a broken network.
type stalled struct{}

func (stalled) Put(ctx context.Context, _ io.ReadSeeker) (step.Artifact, error) {
	<-ctx.Done()
	return step.Artifact{}, ctx.Err()
}

func (stalled) Open(ctx context.Context, _ step.Artifact) (io.ReadCloser, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (stalled) Fetch(ctx context.Context, _ step.Artifact, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}
