package machine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

// Image makes an image. It has the files parts, and a file with the options, in which
// every default is written out. The digest depends on these alone.
func (r *Machines) Image(ctx context.Context, spec step.Spec, format string, options any, parts ...step.File) (step.Image, error) {
	b, err := json.Marshal(options)
	if err != nil {
		return step.Image{}, err
	}
	config, err := r.store.Put(ctx, bytes.NewReader(b))
	if err != nil {
		return step.Image{}, err
	}
	parts = append(parts, step.File{Name: RecordFile, Artifact: config})
	return step.Image{Spec: spec, Digest: step.DigestOf(parts), Format: format, Files: parts}, nil
}

// ContentDigest returns the digest of an image without the options of its machine. Rollouts
// that differ in these alone have the same content.
func ContentDigest(img step.Image) string {
	return step.DigestOf(slices.DeleteFunc(slices.Clone(img.Files), func(f step.File) bool { return f.Name == RecordFile }))
}

// Scratch makes a folder for work that comes before Register; done removes it. Scratch
// also removes the folders that killed workers left, whatever their tags.
func (r *Machines) Scratch(tags step.Tags) (folder string, done func() error, err error) {
	m, err := r.Of(tags)
	if err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(r.root, 0o700); err != nil {
		return "", nil, err
	}
	return files.Scratch(r.root, "."+m.Name()+".", func(name string) bool {
		_, scrap := scrapTags(name)
		return scrap
	})
}

// Prepare is a target's part of Register: it completes the folder that Register has made.
// It refuses wrong options, and makes the files that the machine uses from the image's
// files. It may remove files of the image.
type Prepare func(ctx context.Context, made Machine, options json.RawMessage) error

// Register makes the machine's folder, whole or not at all. If there is a folder with the
// same digest, it is adopted. A folder with another digest is replaced, but is Conflict
// while its machine runs.
func (r *Machines) Register(ctx context.Context, img step.Image, prepare Prepare) (step.Registration, error) {
	if err := img.Valid(); err != nil {
		return step.Registration{}, step.During("register", err)
	}
	m, err := r.Of(img.Spec.Tags)
	if err != nil {
		return step.Registration{}, step.During("register", err)
	}
	adopted, err := r.register(ctx, m, img, prepare)
	if err != nil {
		return step.Registration{}, step.During("register "+m.Name(), err)
	}
	return step.Registration{Spec: img.Spec, Digest: img.Digest, ID: m.Path, Adopted: adopted}, nil
}

func (r *Machines) register(ctx context.Context, m Machine, img step.Image, prepare Prepare) (adopted bool, err error) {
	replace := false
	switch rec, err := m.Record(); {
	case errors.Is(err, errRuin): // treated as another digest
		replace = true
	case step.KindOf(err) == step.NotFound:
	case err != nil:
		return false, err
	case rec.Digest == img.Digest && m.intact(rec):
		return true, nil
	default:
		replace = true
	}
	path, done, err := r.Scratch(m.Tags)
	if err != nil {
		return false, err
	}
	defer done() //nolint:errcheck // gone if all went well; else the next Scratch tries again
	made := Machine{path, m.Tags}
	if err := r.make(ctx, made, img, prepare); err != nil {
		return false, err
	}
	if replace {
		adopted, err := r.discard(m, img.Digest)
		if adopted || err != nil {
			return adopted, err
		}
	}
	err = os.Rename(made.Path, m.Path)
	if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, fs.ErrExist) {
		// Another call was faster. With another digest this call fails and is retried.
		if rec, err := m.Record(); err == nil && rec.Digest == img.Digest {
			return true, nil
		}
	}
	if err != nil {
		return false, err
	}
	return false, files.Sync(r.root)
}

// make fills the folder, which still has its scratch name.
func (r *Machines) make(ctx context.Context, made Machine, img step.Image, prepare Prepare) error {
	options, err := r.Part(ctx, img, RecordFile)
	if err == nil {
		err = os.WriteFile(made.File(lockFile), nil, 0o600)
	}
	for _, f := range img.Files {
		if err == nil && f.Name != RecordFile {
			err = r.fetch(ctx, made, f)
		}
	}
	if err == nil {
		err = prepare(ctx, made, options)
	}
	if err == nil {
		err = made.write(Record{Tags: made.Tags, Digest: img.Digest, Files: map[string]string{}, Options: options}, img.Files)
	}
	if err == nil {
		err = files.SyncTree(made.Path) // before the rename marks it as whole
	}
	return err
}

// OwnFiles are the names of the package's files in a machine's folder.
var OwnFiles = []string{RecordFile, PidFile, ConsoleFile, readyFile, lockFile}

func (r *Machines) fetch(ctx context.Context, made Machine, f step.File) error {
	if f.Name != filepath.Base(f.Name) || !filepath.IsLocal(f.Name) || slices.Contains(OwnFiles, f.Name) {
		return step.Invalid("", "", "the image has a file named %q", f.Name)
	}
	step.Report(ctx, step.Progress{Total: f.Artifact.Size, Unit: "bytes", Note: "fetching " + f.Name})
	return r.store.Fetch(ctx, f.Artifact, made.File(f.Name))
}

// write writes rec to machine.json, with the digests of the parts that are still there.
func (m Machine) write(rec Record, parts []step.File) error {
	for _, f := range parts {
		if _, err := os.Lstat(m.File(f.Name)); err == nil {
			rec.Files[f.Name] = f.Artifact.SHA256
		}
	}
	b, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return err
	}
	return files.Write(m.File(RecordFile), append(b, '\n'))
}

// Part reads a file of an image, at most 1 MiB. InvalidSpec if the image does not have it.
func (r *Machines) Part(ctx context.Context, img step.Image, name string) ([]byte, error) {
	const limit = 1 << 20
	a, ok := step.FileNamed(img.Files, name)
	if !ok {
		return nil, step.Invalid("", "only images of the "+r.kind+" target can be registered here", "the image has no %s", name)
	}
	f, err := r.store.Open(ctx, a)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if len(b) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return b, errors.Join(err, f.Close())
}

// intact reports whether the lock file is there and the files still have their digests: a
// disk may fail.
func (m Machine) intact(rec Record) bool {
	if _, err := os.Lstat(m.File(lockFile)); err != nil {
		return false
	}
	for name, digest := range rec.Files {
		if !hasDigest(m.File(name), digest) {
			return false
		}
	}
	return true
}

func hasDigest(path, digest string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	return errors.Join(err, f.Close()) == nil && hex.EncodeToString(sum.Sum(nil)) == digest
}

// discard removes a registration that is to be replaced; Conflict while its machine runs.
// adopted reports that another call has already replaced it by one with the wanted
// digest.
func (r *Machines) discard(m Machine, digest string) (adopted bool, err error) {
	lock, err := m.Lock()
	if errors.Is(err, ErrHeld) {
		return false, &step.Error{Kind: step.Conflict, Hint: "destroy it first, or deploy a new generation",
			Err: fmt.Errorf("a machine of another image runs under this name, digest wanted %.12s", digest)}
	}
	if err != nil && step.KindOf(err) != step.NotFound {
		return false, err
	}
	if lock != nil {
		defer func() { err = errors.Join(err, lock.Close()) }()
	}
	if rec, err := m.Record(); err == nil && rec.Digest == digest && m.intact(rec) {
		return true, nil
	}
	return false, m.remove()
}

// remove renames the folder and then removes it. So no other call sees half a folder. If
// this call is cut off, the name marks the rest as scrap.
func (m Machine) remove() error {
	scrap := fmt.Sprintf("%s/.%s.%d", filepath.Dir(m.Path), m.Name(), rand.Uint64())
	err := os.Rename(m.Path, scrap)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, os.RemoveAll(scrap))
}
