package disk

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/morgana-deploy/morgana/step"
)

const opPack = "pack disk"

// Pack writes the raw disk image at path to w as a tar archive that holds only
// what is not zero, as 4 KiB blocks (larger ones if there were more than 4096
// pieces), and is as large as that. `tar -xS` and [Unpack] make the image again,
// with its holes, under the name disk.raw. The bytes depend only on the image's.
//
// Memory does not depend on the image's size. Errors: NotFound, InvalidSpec for
// what is no disk (sectors of 512 bytes, at most 8 TiB); an error of w comes as
// it is.
func Pack(ctx context.Context, w io.Writer, path string) error {
	f, err := openDisk(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return packError(err)
	}
	size := info.Size()
	if size <= 0 || size > maxSize || size%sectorSize != 0 {
		return &step.Error{Kind: step.InvalidSpec, Op: opPack, Err: fmt.Errorf("%s has %d bytes, which is no size of a disk", path, size)}
	}
	spans, err := findSpans(ctx, f, size)
	if err != nil {
		return packError(err)
	}
	list := spanText(spans, size)
	stored := int64(len(list))
	for _, s := range spans {
		stored += s.size
	}
	head, err := tarHead(size, stored)
	if err != nil {
		return packError(err)
	}
	out := bufio.NewWriterSize(w, bufSize)
	_, _ = out.Write(head) // Flush gives the error
	_, _ = out.Write(list)
	buf := make([]byte, bufSize)
	for _, s := range spans {
		if err := copySpan(ctx, out, f, s, buf); err != nil {
			return err
		}
	}
	_, _ = out.Write(make([]byte, padding(stored)+2*tarBlock))
	return out.Flush()
}

// Store packs the raw image at path beside it and puts the packed one into a store.
func Store(ctx context.Context, store step.Store, path string) (a step.Artifact, err error) {
	packed, err := os.Create(path + ".tar")
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, packed.Close(), os.Remove(packed.Name())) }()
	if err := Pack(ctx, packed, path); err != nil {
		return a, err
	}
	return store.Put(ctx, packed)
}

func copySpan(ctx context.Context, w io.Writer, f *os.File, s span, buf []byte) error {
	for at, end := s.at, s.at+s.size; at < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.ReadAt(buf[:min(int64(len(buf)), end-at)], at)
		if err != nil {
			return packError(errChanged(err))
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}

func openDisk(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, packError(err)
	}
	if !info.Mode().IsRegular() { // opening a pipe would wait
		return nil, &step.Error{Kind: step.InvalidSpec, Op: opPack, Err: fmt.Errorf("%s is no file", path)}
	}
	f, err := os.Open(path)
	return f, packError(err)
}

func packError(err error) error {
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, fs.ErrNotExist):
		return &step.Error{Kind: step.NotFound, Op: opPack, Err: err}
	}
	return &step.Error{Op: opPack, Err: err}
}
