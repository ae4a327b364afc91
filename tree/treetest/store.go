package treetest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/morgana-deploy/morgana/step"
)

// Store is a step.Store in a folder, which several processes may share.
type Store string

// Put implements [step.Store].
func (s Store) Put(ctx context.Context, r io.ReadSeeker) (step.Artifact, error) {
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return step.Artifact{}, err
	}
	data, err := io.ReadAll(r)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return step.Artifact{}, err
	}
	sum := sha256.Sum256(data)
	a := step.Artifact{SHA256: hex.EncodeToString(sum[:]), Size: int64(len(data))}
	a.URI = "file://" + filepath.Join(string(s), a.SHA256)
	// By another name first: somebody may be reading the same artifact.
	f, err := os.CreateTemp(string(s), ".put-*")
	if err != nil {
		return a, err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return a, err
	}
	return a, os.Rename(f.Name(), filepath.Join(string(s), a.SHA256))
}

// Open implements [step.Store].
func (s Store) Open(_ context.Context, a step.Artifact) (io.ReadCloser, error) {
	f, err := os.Open(filepath.Join(string(s), a.SHA256))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &step.Error{Kind: step.NotFound, Op: "open artifact", Err: err}
	}
	return f, err
}

// Fetch implements [step.Store].
func (s Store) Fetch(ctx context.Context, a step.Artifact, path string) error {
	f, err := s.Open(ctx, a)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}
