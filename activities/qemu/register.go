package qemu

import (
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
	"syscall"

	"github.com/morgana-deploy/morgana/step"
)

// Register makes the machine's folder, whole or not at all. One that is there
// with the same digest is adopted. One with another digest is replaced, unless
// its machine runs: Conflict.
func (t *Target) Register(ctx context.Context, img step.Image) (step.Registration, error) {
	m, err := t.machine(img.Spec.Tags)
	if err != nil {
		return step.Registration{}, during("register", err)
	}
	adopted, err := t.register(ctx, m, img)
	if err != nil {
		return step.Registration{}, during("register "+m.name(), err)
	}
	return step.Registration{Spec: img.Spec, Digest: img.Digest, ID: m.path, Adopted: adopted}, nil
}

func (t *Target) register(ctx context.Context, m machine, img step.Image) (adopted bool, err error) {
	if err := os.MkdirAll(t.root(), 0o700); err != nil {
		return false, err
	}
	if err := t.sweep(m.tags); err != nil {
		return false, err
	}
	replace := false
	switch rec, err := m.record(); {
	case step.KindOf(err) == step.NotFound:
	case err != nil: // unreadable: as good as another digest
		replace = true
	case rec.Digest == img.Digest && m.intact(rec):
		return true, nil
	default:
		replace = true
	}
	made, lock, err := t.make(ctx, m, img)
	if made.path != "" {
		defer func() {
			_ = os.RemoveAll(made.path) // gone if all went well; else sweep tries again
			_ = lock.Close()
		}()
	}
	if err != nil {
		return false, err
	}
	if replace {
		if err := t.discard(m, img.Digest); err != nil {
			return false, err
		}
	}
	err = os.Rename(made.path, m.path)
	if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, fs.ErrExist) {
		// Another call was faster; it was told the same, or tells us next time.
		if rec, err := m.record(); err == nil && rec.Digest == img.Digest {
			return true, nil
		}
	}
	return false, err
}

// make writes the folder under a passing name. The lock it holds keeps sweep
// from taking it for scrap.
func (t *Target) make(ctx context.Context, m machine, img step.Image) (machine, *os.File, error) {
	kernel, ok := step.FileNamed(img.Files, kernelFile)
	config, ok2 := step.FileNamed(img.Files, recordFile)
	if !ok || !ok2 {
		return machine{}, nil, failed(step.InvalidSpec, "", "only images of the qemu target can be registered here",
			"the image has no %s and %s", kernelFile, recordFile)
	}
	options, err := t.readSmall(ctx, config)
	if err != nil {
		return machine{}, nil, err
	}
	if _, err := read(options); err != nil {
		return machine{}, nil, err
	}
	path, err := os.MkdirTemp(t.root(), "."+m.name()+".")
	if err != nil {
		return machine{}, nil, err
	}
	made := machine{path, m.tags}
	lock, err := os.OpenFile(made.file(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = flock(lock)
	}
	if err == nil {
		step.Report(ctx, step.Progress{Total: kernel.Size, Unit: "bytes", Note: "fetching the kernel"})
		err = t.site.Store.Fetch(ctx, kernel, made.file(kernelFile))
	}
	var b []byte
	if err == nil {
		b, err = json.MarshalIndent(record{m.tags, img.Digest, kernel.SHA256, options}, "", "  ")
	}
	if err == nil {
		err = writeFile(made.file(recordFile), append(b, '\n'))
	}
	return made, lock, err
}

func (t *Target) readSmall(ctx context.Context, a step.Artifact) ([]byte, error) {
	const limit = 1 << 20
	r, err := t.site.Store.Open(ctx, a)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if len(b) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", recordFile, limit)
	}
	return b, errors.Join(err, r.Close())
}

// intact reports whether the kernel is what it was: after a power cut it may not be.
func (m machine) intact(rec record) bool {
	f, err := os.Open(m.file(kernelFile))
	if err != nil {
		return false
	}
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	return errors.Join(err, f.Close()) == nil && hex.EncodeToString(sum.Sum(nil)) == rec.Kernel
}

// discard removes a registration that is to be replaced.
func (t *Target) discard(m machine, digest string) error {
	lock, err := m.lock()
	if errors.Is(err, errHeld) {
		return failed(step.Conflict, "", "destroy it first, or deploy a new generation",
			"a machine of another image runs under this name, digest wanted %.12s", digest)
	}
	if err != nil && step.KindOf(err) != step.NotFound {
		return err
	}
	err = m.remove()
	if lock != nil {
		err = errors.Join(err, lock.Close())
	}
	return err
}

// remove takes the folder away under its name first, so that nobody sees half
// of one, and what a crash leaves is known as scrap.
func (m machine) remove() error {
	scrap, err := os.MkdirTemp(filepath.Dir(m.path), "."+m.name()+".")
	if err == nil {
		err = os.Remove(scrap) // a name is wanted, not a folder
	}
	if err == nil {
		err = os.Rename(m.path, scrap)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, os.RemoveAll(scrap))
}

// sweep removes what interrupted calls for the same tags left.
func (t *Target) sweep(tags step.Tags) error {
	all, err := t.scrap(tags.Match)
	if err != nil {
		return err
	}
	for _, m := range all {
		lock, err := m.lock()
		if err != nil {
			continue // being made; without a lock yet, or gone: Destroy's to remove
		}
		if err := errors.Join(os.RemoveAll(m.path), lock.Close()); err != nil {
			return err
		}
	}
	return nil
}
