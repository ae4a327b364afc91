// Package store keeps artifacts in a folder or an S3 bucket. The key of an artifact is
// its SHA-256: "sha256/ab/ab12...". It implements [step.Store].
//
// Artifacts appear atomically, and every read verifies their bytes. So readers and
// writers on several hosts need no lock and no database.
//
// Readers never see the leftovers of a crash. In a folder these are files
// "<digest>.<hex>.tmp" beside the artifact, which [Open] removes once their writer is
// gone. In a bucket they are unfinished multipart uploads, which a lifecycle rule
// (AbortIncompleteMultipartUpload) removes.
package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

// Store is an open store. Make one with [Open].
type Store struct {
	// base is the URL that artifact URIs start with: "s3://bucket". It has no
	// parameters, since these may differ between hosts.
	base string
	// folder is the folder of a file:// store; empty for an s3:// store.
	folder string
	bucket *blob.Bucket
	// uploader does the uploads of an s3:// store; nil otherwise.
	uploader *transfermanager.Client
}

var _ step.Store = (*Store)(nil)

// Close closes the store. Its readers must be closed before.
func (s *Store) Close() error {
	return s.fail("close store "+s.base, s.bucket.Close())
}

// Put implements [step.Store]. If r differs between the two passes, it returns an
// error and stores nothing.
func (s *Store) Put(ctx context.Context, r io.ReadSeeker) (step.Artifact, error) {
	op := "put an artifact into " + s.base
	a, used, err := s.find(ctx, r)
	if err != nil {
		return step.Artifact{}, s.fail(op, err)
	}
	// An artifact that cannot be renewed is stored again.
	if !used.IsZero() && (time.Since(used) < renewAfter || s.renew(ctx, a.SHA256) == nil) {
		return a, nil
	}
	// The sweep of another process's Open may remove the file before it is locked.
	for range sweeps {
		if err = s.write(ctx, a, r); !errors.Is(err, errSwept) {
			break
		}
	}
	if err != nil {
		return step.Artifact{}, s.fail(op, err)
	}
	return a, nil
}

// Find returns the artifact that Put would return, and whether the store has it. It
// stores nothing.
func (s *Store) Find(ctx context.Context, r io.ReadSeeker) (a step.Artifact, have bool, err error) {
	a, used, err := s.find(ctx, r)
	return a, !used.IsZero(), s.fail("look for an artifact in "+s.base, err)
}

// find returns the artifact of the bytes of r, and when it was used last, the zero time if
// the store does not have it.
func (s *Store) find(ctx context.Context, r io.ReadSeeker) (a step.Artifact, used time.Time, err error) {
	sum, size, err := digest(ctx, r)
	if err != nil {
		return a, used, err
	}
	found, err := s.bucket.Attributes(ctx, key(sum))
	if err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return a, used, err
	}
	if err == nil && found.Size == size {
		used = found.ModTime
	}
	return step.Artifact{URI: s.uri(sum), SHA256: sum, Size: size}, used, nil
}

// sweeps is how many times one Put calls write.
const sweeps = 5

var (
	errChanged = errors.New("the content changed while it was being stored")
	// errSwept says that a sweep removed a new file before it was locked.
	errSwept = errors.New("the file was removed while it was being written")
)

// write is Put's second pass. The writer's Close makes the artifact. If ctx is
// cancelled before, nothing is left.
func (s *Store) write(ctx context.Context, a step.Artifact, r io.ReadSeeker) error {
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return err
	}
	whole, cancel := context.WithCancel(ctx)
	defer cancel()
	var file *os.File
	w, err := s.bucket.NewWriter(whole, key(a.SHA256), &blob.WriterOptions{
		ContentType: "application/octet-stream",
		BeforeWrite: func(as func(any) bool) error {
			if as(&file) { // a file:// store
				// The lock marks the file as being written. On a file
				// system without locks sweep removes nothing.
				if errors.Is(files.Lock(file), files.ErrLocked) {
					return errSwept
				}
			}
			// The bucket's own uploader does not retry parts, and does not remove
			// the parts of a cancelled upload.
			var u *transfermanager.Client
			if as(&u) {
				*u = *s.uploader
			}
			return nil
		},
	})
	if err != nil {
		return err
	}
	h := sha256.New()
	n, err := files.Copy(whole, io.MultiWriter(w, h), io.LimitReader(r, a.Size+1))
	if err == nil && (n != a.Size || hexSum(h) != a.SHA256) {
		err = errChanged
	}
	if err == nil && file != nil {
		// Later Puts trust the name and size, so both must survive a power cut.
		err = file.Sync()
	}
	if err != nil {
		cancel()
	}
	if closed := w.Close(); err == nil {
		err = closed
	}
	switch {
	case file != nil && errors.Is(err, fs.ErrNotExist):
		return errSwept
	case err != nil && ctx.Err() != nil:
		return ctx.Err() // err may be one of a layer below
	case err != nil:
		return err
	case file != nil:
		return files.Sync(filepath.Dir(s.path(a.SHA256)))
	}
	return nil
}

// Entry is an artifact in the store.
type Entry struct {
	step.Artifact
	// Used is when it was used last, to within a day.
	Used time.Time
}

// List yields every artifact in the store, in no particular order. It stops after the
// first error.
func (s *Store) List(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		list := s.bucket.List(&blob.ListOptions{Prefix: "sha256/"})
		for {
			obj, err := list.Next(ctx)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(Entry{}, s.fail("list "+s.base, err))
				return
			}
			m := keyForm.FindStringSubmatch(obj.Key)
			if m == nil {
				continue // a leftover of a crash
			}
			if !yield(Entry{step.Artifact{URI: s.uri(m[1]), SHA256: m[1], Size: obj.Size}, obj.ModTime}, nil) {
				return
			}
		}
	}
}

var (
	digestForm = regexp.MustCompile(`^[0-9a-f]{64}$`)
	keyForm    = regexp.MustCompile(`^sha256/[0-9a-f]{2}/([0-9a-f]{64})$`)
)

func key(sum string) string { return "sha256/" + sum[:2] + "/" + sum }

func (s *Store) uri(sum string) string { return s.base + "/" + key(sum) }

// digest returns the hex SHA-256 and the size of all of r.
func digest(ctx context.Context, r io.ReadSeeker) (sum string, size int64, err error) {
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return "", 0, err
	}
	h := sha256.New()
	size, err = files.Copy(ctx, h, r)
	return hexSum(h), size, err
}

func hexSum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// belongs checks that the URI and the digest of a are of one artifact of this store.
func (s *Store) belongs(a step.Artifact) error {
	if !digestForm.MatchString(a.SHA256) {
		return &step.Error{Kind: step.InvalidSpec, Err: fmt.Errorf("%q is not a SHA-256 in hex", a.SHA256)}
	}
	if a.URI == s.uri(a.SHA256) {
		return nil
	}
	other, ok := strings.CutSuffix(a.URI, "/"+key(a.SHA256))
	if !ok || other == s.base {
		return step.Invalid("", "", "artifact %q does not have digest %s in its name", a.URI, a.SHA256)
	}
	return &step.Error{Kind: step.NotFound,
		Err:  fmt.Errorf("the artifact is in store %s, and this is store %s", other, s.base),
		Hint: "give the worker and the starter the same MORGANA_STORE"}
}
