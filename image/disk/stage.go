package disk

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

// content is the folders and files of the disk's file system.
type content struct {
	dirs  []string // parents first, without a leading /
	files []staged
}

// staged is a file of the disk. Its content is the file at path, or text if path is
// empty. field is the option that names the file, for errors.
type staged struct {
	name              string // as "boot/kernel"
	size              int64
	field, path, text string
}

// maxFile is the largest file of FAT32. GRUB has no memory for larger ones anyway.
const maxFile = 4<<30 - 1

var (
	errShrunk = errors.New("the file became smaller while it was read")
	errGrown  = errors.New("the file became larger while it was read")
)

// stage lists the content. It reads no file.
func (w *work) stage(l Layout, b Boot, t texts) error {
	w.sum = sha256.New()
	_, _ = fmt.Fprintf(w.sum, "morgana disk 2 %s\n", l) // a hash does not fail
	w.dirs = []string{"boot", "boot/grub"}
	if l == UEFI {
		w.dirs = append(w.dirs, "EFI", "EFI/BOOT")
	}
	if err := w.stageFile("kernel", b.Kernel, kernelPath[1:]); err != nil {
		return err
	}
	for i, path := range modulePaths(b.Modules) {
		if err := w.stageFile(moduleField(i), b.Modules[i].Path, path[1:]); err != nil {
			return err
		}
	}
	w.stageText("boot/grub/grub.cfg", t.grub)
	if t.menu != "" {
		w.stageText("boot/grub/menu.lst", t.menu)
	}
	return nil
}

func (w *work) stageText(name, text string) {
	w.files = append(w.files, staged{name: name, size: int64(len(text)), text: text})
}

func (w *work) stageFile(field, path, name string) error {
	f := staged{name: name, field: field, path: path}
	if path == "" {
		return f.blame(errors.New("no file given"))
	}
	info, err := os.Stat(path)
	if err != nil {
		return f.blame(err)
	}
	if !info.Mode().IsRegular() { // opening a pipe would wait
		return f.blame(fmt.Errorf("%s is no file", path))
	}
	if f.size = info.Size(); f.size > maxFile {
		return f.blame(fmt.Errorf("%s has %d bytes, and GRUB loads less than 4 GiB", path, f.size))
	}
	w.files = append(w.files, f)
	return nil
}

func (f staged) blame(err error) error {
	e := &step.Error{Kind: step.InvalidSpec, Op: opWrite, Field: f.field, Err: err}
	if errors.Is(err, fs.ErrNotExist) {
		e.Kind = step.NotFound
	}
	return e
}

// copy writes a file to its place and adds it to the sum. The file is read once, so
// the sum is of the bytes written.
func (w *work) copy(ctx context.Context, to io.Writer, f staged) error {
	var from io.Reader = strings.NewReader(f.text)
	if f.path != "" {
		in, err := os.Open(f.path)
		if err != nil {
			return f.blame(err)
		}
		defer func() { _ = in.Close() }() // only read
		from = in
	}
	size, err := files.Copy(ctx, io.MultiWriter(to, w.sum), from)
	switch {
	case errors.Is(err, errGrown), err == nil && size > f.size:
		return f.blame(errGrown)
	case err == nil && size < f.size:
		return f.blame(errShrunk)
	}
	_, _ = fmt.Fprintf(w.sum, "\n%d %s\n", size, f.name)
	return w.fail(opWrite, err)
}

// identity returns an identifier that depends only on the layout and the files that
// were copied.
func (w *work) identity(purpose string) (id [16]byte) {
	sum := sha256.Sum256(append(w.sum.Sum(nil), purpose...))
	copy(id[:], sum[:])
	id[6] = id[6]&0x0f | 0x80 // RFC 9562: version 8, custom
	id[8] = id[8]&0x3f | 0x80
	return id
}

// serial is an identity of 32 bits.
func (w *work) serial() uint32 {
	id := w.identity("serial")
	return binary.BigEndian.Uint32(id[:4])
}
