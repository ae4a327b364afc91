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
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/morgana-deploy/morgana/step"
)

// Image makes an image of files and the machine's options, all of them written
// out: what changes the machine changes the digest, and nothing else does.
func (r *Machines) Image(ctx context.Context, spec step.Spec, format string, options json.RawMessage, files ...step.File) (step.Image, error) {
	config, err := r.store.Put(ctx, bytes.NewReader(options))
	if err != nil {
		return step.Image{}, err
	}
	files = append(files, step.File{Name: RecordFile, Artifact: config})
	return step.Image{Spec: spec, Digest: step.DigestOf(files), Format: format, Files: files}, nil
}

// Scratch makes a folder for work that comes before Register. What a crash
// leaves of it is removed by later work for the same tags, and by Destroy.
func (r *Machines) Scratch(tags step.Tags) (folder string, done func() error, err error) {
	m, err := r.Of(tags)
	if err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(r.root, 0o700); err != nil {
		return "", nil, err
	}
	if err := r.sweep(tags); err != nil {
		return "", nil, err
	}
	made, lock, err := r.scratch(m)
	done = func() error { return errors.Join(os.RemoveAll(made.Path), lock.Close()) }
	if err != nil {
		if made.Path != "" {
			_ = done() // else sweep's
		}
		return "", nil, err
	}
	return made.Path, done, nil
}

// scratch makes a folder under a passing name. The lock it holds keeps sweep
// from taking it for scrap.
func (r *Machines) scratch(m Machine) (Machine, *os.File, error) {
	path, err := os.MkdirTemp(r.root, "."+m.Name()+".")
	if err != nil {
		return Machine{}, nil, err
	}
	made := Machine{path, m.Tags}
	lock, err := os.OpenFile(made.File(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return made, nil, err
	}
	return made, lock, flock(lock)
}

// Prepare completes a machine's folder that is being made: it refuses options
// that are wrong and turns the image's files into what the machine uses. A file
// that it removes is not missed later.
type Prepare func(ctx context.Context, made Machine, options json.RawMessage) error

// Register makes the machine's folder, whole or not at all. One that is there
// with the same digest is adopted. One with another digest is replaced, unless
// its machine runs: Conflict.
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
	if err := os.MkdirAll(r.root, 0o700); err != nil {
		return false, err
	}
	if err := r.sweep(m.Tags); err != nil {
		return false, err
	}
	replace := false
	switch rec, err := m.Record(); {
	case errors.Is(err, errRuin): // as good as another digest
		replace = true
	case step.KindOf(err) == step.NotFound:
	case err != nil:
		return false, err
	case rec.Digest == img.Digest && m.intact(rec):
		return true, nil
	default:
		replace = true
	}
	made, lock, err := r.make(ctx, m, img, prepare)
	if made.Path != "" {
		defer func() {
			_ = os.RemoveAll(made.Path) // gone if all went well; else sweep tries again
			_ = lock.Close()
		}()
	}
	if err != nil {
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
		// Another call was faster; it was told the same, or tells us next time.
		if rec, err := m.Record(); err == nil && rec.Digest == img.Digest {
			return true, nil
		}
	}
	if err != nil {
		return false, err
	}
	return false, syncPath(r.root)
}

// make writes the folder under a passing name.
func (r *Machines) make(ctx context.Context, m Machine, img step.Image, prepare Prepare) (Machine, *os.File, error) {
	config, ok := step.FileNamed(img.Files, RecordFile)
	if !ok {
		return Machine{}, nil, &step.Error{Kind: step.InvalidSpec, Err: fmt.Errorf("the image has no %s", RecordFile),
			Hint: "only images of the " + r.kind + " target can be registered here"}
	}
	options, err := r.readSmall(ctx, config)
	if err != nil {
		return Machine{}, nil, err
	}
	made, lock, err := r.scratch(m)
	for _, f := range img.Files {
		if err == nil && f.Name != RecordFile {
			err = r.fetch(ctx, made, f)
		}
	}
	if err == nil {
		err = prepare(ctx, made, options)
	}
	if err == nil {
		err = made.write(Record{Tags: m.Tags, Digest: img.Digest, Files: map[string]string{}, Options: options}, img.Files)
	}
	if err == nil {
		err = syncTree(made.Path) // for the name it gets will say that it is whole
	}
	return made, lock, err
}

var ownFiles = []string{RecordFile, PidFile, ConsoleFile, readyFile, lockFile}

func (r *Machines) fetch(ctx context.Context, made Machine, f step.File) error {
	if f.Name != filepath.Base(f.Name) || !filepath.IsLocal(f.Name) || slices.Contains(ownFiles, f.Name) {
		return &step.Error{Kind: step.InvalidSpec, Err: fmt.Errorf("the image has a file named %q", f.Name)}
	}
	step.Report(ctx, step.Progress{Total: f.Artifact.Size, Unit: "bytes", Note: "fetching " + f.Name})
	return r.store.Fetch(ctx, f.Artifact, made.File(f.Name))
}

// write writes machine.json, with those of files that are still there.
func (m Machine) write(rec Record, files []step.File) error {
	for _, f := range files {
		if _, err := os.Lstat(m.File(f.Name)); err == nil {
			rec.Files[f.Name] = f.Artifact.SHA256
		}
	}
	b, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return err
	}
	return WriteFile(m.File(RecordFile), append(b, '\n'))
}

func (r *Machines) readSmall(ctx context.Context, a step.Artifact) ([]byte, error) {
	const limit = 1 << 20
	f, err := r.store.Open(ctx, a)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if len(b) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", RecordFile, limit)
	}
	return b, errors.Join(err, f.Close())
}

// intact reports whether the files are what they were: a disk may fail.
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

// discard removes a registration that is to be replaced; adopted is that of
// another call, which was told the same and was faster.
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

// remove takes the folder away under its name first, so that nobody sees half
// of one, and what a crash leaves is known as scrap.
func (m Machine) remove() error {
	scrap, err := os.MkdirTemp(filepath.Dir(m.Path), "."+m.Name()+".")
	if err == nil {
		err = os.Remove(scrap) // a name is wanted, not a folder
	}
	if err == nil {
		err = os.Rename(m.Path, scrap)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, os.RemoveAll(scrap))
}

// sweep removes what interrupted calls for the same tags left.
func (r *Machines) sweep(tags step.Tags) error {
	all, err := r.scrap(tags.Match)
	if err != nil {
		return err
	}
	for _, m := range all {
		lock, err := m.Lock()
		if err != nil {
			continue // being made; without a lock yet, or gone: Destroy's to remove
		}
		if err := errors.Join(os.RemoveAll(m.Path), lock.Close()); err != nil {
			return err
		}
	}
	return nil
}
