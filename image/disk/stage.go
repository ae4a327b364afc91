package disk

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// content is what will be on the disk's file system. It lies in the folder root
// of the work folder.
type content struct {
	dirs  []string // parents first, without a leading /
	files []staged
	sum   [sha256.Size]byte // of all of it, and of the layout
}

type staged struct {
	name string // as "boot/kernel"
	size int64
}

const (
	rootName = "root"
	// maxFile is what FAT32 holds, and more than GRUB finds memory for.
	maxFile = 4<<30 - 1
)

// stage copies everything that goes on the disk, so that it is read once and
// what is summed is what is written.
func (w *work) stage(ctx context.Context, l Layout, b Boot, t texts) error {
	w.dirs = []string{"boot", "boot/grub"}
	if l == UEFI {
		w.dirs = append(w.dirs, "EFI", "EFI/BOOT")
	}
	for _, dir := range append([]string{""}, w.dirs...) {
		path := filepath.Join(w.dir, rootName, dir)
		// The umask has no say in what is on the disk.
		if err := errors.Join(os.Mkdir(path, 0o755), os.Chmod(path, 0o755)); err != nil {
			return w.fail(opWrite, err)
		}
	}
	sum := sha256.New()
	_, _ = fmt.Fprintf(sum, "morgana disk 1 %s\n", l) // a hash does not fail
	if err := w.stageFile(ctx, sum, "kernel", b.Kernel, kernelPath[1:]); err != nil {
		return err
	}
	for i, path := range modulePaths(b.Modules) {
		if err := w.stageFile(ctx, sum, moduleField(i), b.Modules[i].Path, path[1:]); err != nil {
			return err
		}
	}
	if err := w.stageText(sum, "boot/grub/grub.cfg", t.grub); err != nil {
		return err
	}
	if t.menu != "" {
		if err := w.stageText(sum, "boot/grub/menu.lst", t.menu); err != nil {
			return err
		}
	}
	sum.Sum(w.sum[:0])
	return nil
}

// stageFile copies the file that an option names.
func (w *work) stageFile(ctx context.Context, sum hash.Hash, field, path, name string) error {
	blame := func(err error) error {
		e := &step.Error{Kind: step.InvalidSpec, Op: opWrite, Field: field, Err: err}
		if errors.Is(err, fs.ErrNotExist) {
			e.Kind = step.NotFound
		}
		return e
	}
	if path == "" {
		return blame(errors.New("no file given"))
	}
	info, err := os.Stat(path)
	if err != nil {
		return blame(err)
	}
	if !info.Mode().IsRegular() { // opening a pipe would wait
		return blame(fmt.Errorf("%s is no file", path))
	}
	if info.Size() > maxFile {
		return blame(fmt.Errorf("%s has %d bytes, and GRUB loads less than 4 GiB", path, info.Size()))
	}
	in, err := os.Open(path)
	if err != nil {
		return blame(err)
	}
	defer func() { _ = in.Close() }() // only read
	out, err := os.Create(w.staged(name))
	if err != nil {
		return w.fail(opWrite, err)
	}
	size, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(out, sum)}, contextReader{ctx, in}, make([]byte, 256<<10))
	return w.finish(sum, out, name, size, err)
}

func (w *work) stageText(sum hash.Hash, name, text string) error {
	out, err := os.Create(w.staged(name))
	if err != nil {
		return w.fail(opWrite, err)
	}
	size, err := io.WriteString(io.MultiWriter(out, sum), text)
	return w.finish(sum, out, name, int64(size), err)
}

// finish closes a file that was staged, and enters it in the content.
func (w *work) finish(sum hash.Hash, out *os.File, name string, size int64, err error) error {
	if err == nil {
		err = out.Chmod(0o644)
	}
	if closed := out.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = w.date(name)
	}
	if err != nil {
		return w.fail(opWrite, err)
	}
	_, _ = fmt.Fprintf(sum, "\n%d %s\n", size, name)
	w.files = append(w.files, staged{name, size})
	return nil
}

func (w *work) date(name string) error {
	return os.Chtimes(w.staged(name), time.Unix(epoch, 0), time.Unix(epoch, 0))
}

func (w *work) staged(name string) string { return filepath.Join(w.dir, rootName, name) }

// identity gives an identifier that only depends on the content.
func (w *work) identity(purpose string) (id [16]byte) {
	sum := sha256.Sum256(append(w.sum[:len(w.sum):len(w.sum)], purpose...))
	copy(id[:], sum[:])
	id[6] = id[6]&0x0f | 0x80 // RFC 9562: version 8, made in a way of our own
	id[8] = id[8]&0x3f | 0x80
	return id
}

// serial is an identity of 32 bits.
func (w *work) serial() uint32 {
	id := w.identity("serial")
	return binary.BigEndian.Uint32(id[:4])
}

func uuid(id [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// contextReader ends a copy when it is cancelled.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
