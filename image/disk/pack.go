package disk

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

const opPack = "pack disk"

// Pack writes the raw disk image at path to w as a sparse tar archive: it holds only
// the blocks that are not zero. A block has 4 KiB, or more if there would be over
// 4096 runs of blocks. `tar -xS` and [Unpack] make the image again, with its holes,
// named disk.raw. The archive depends on the image's bytes only.
//
// Memory does not depend on the image's size. Errors: NotFound; InvalidSpec for a
// file that is no disk (sectors of 512 bytes, at most 8 TiB). Errors of w are
// returned unchanged.
func Pack(ctx context.Context, w io.Writer, path string) error {
	f, err := openDisk(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	p, err := packOf(ctx, f)
	if err != nil {
		return err
	}
	_, err = files.Copy(ctx, w, p.reader())
	return err
}

// Store packs the raw image at path into a store. The archive is generated while the
// store reads it, so no copy of it is made on this host.
func Store(ctx context.Context, store step.Store, path string) (step.Artifact, error) {
	f, err := openDisk(path)
	if err != nil {
		return step.Artifact{}, err
	}
	defer func() { _ = f.Close() }() // only read
	p, err := packOf(ctx, f)
	if err != nil {
		return step.Artifact{}, err
	}
	return store.Put(ctx, p.reader())
}

// packed is the archive of a disk. Its parts are in memory or on the disk.
type packed struct {
	parts []part
	size  int64
}

type part struct {
	from     io.ReaderAt
	off      int64 // in from
	at, size int64 // in the archive
}

// packOf finds the parts of a disk's archive.
func packOf(ctx context.Context, f *os.File) (*packed, error) {
	size, err := diskSize(f, maxSize)
	if err != nil {
		return nil, err
	}
	spans, err := findSpans(ctx, f, size)
	if err != nil {
		return nil, packError(err)
	}
	list := spanText(spans, size)
	stored := int64(len(list))
	for _, s := range spans {
		stored += s.size
	}
	head, err := tarHead(size, stored)
	if err != nil {
		return nil, packError(err)
	}
	p := &packed{}
	p.addBytes(append(head, list...))
	for _, s := range spans {
		p.add(f, s.at, s.size)
	}
	p.addBytes(make([]byte, padding(stored)+2*tarBlock))
	return p, nil
}

func (p *packed) addBytes(b []byte) { p.add(bytes.NewReader(b), 0, int64(len(b))) }

func (p *packed) add(from io.ReaderAt, off, size int64) {
	p.parts = append(p.parts, part{from, off, p.size, size})
	p.size += size
}

func (p *packed) reader() *io.SectionReader { return io.NewSectionReader(p, 0, p.size) }

func (p *packed) ReadAt(buf []byte, at int64) (n int, err error) {
	i, _ := slices.BinarySearchFunc(p.parts, at, func(s part, at int64) int { return cmp.Compare(s.at+s.size, at+1) })
	for ; i < len(p.parts) && n < len(buf); i++ {
		s := p.parts[i]
		skip := at + int64(n) - s.at
		want := buf[n:][:min(int64(len(buf)-n), s.size-skip)]
		got, err := s.from.ReadAt(want, s.off+skip)
		n += got
		if got < len(want) {
			return n, packError(errChanged(err))
		}
	}
	if n < len(buf) {
		return n, io.EOF
	}
	return n, nil
}

func openDisk(path string) (*os.File, error) {
	f, _, err := files.Open(path)
	return f, packError(err)
}

// diskSize returns the size of a disk. It refuses a file that is none, or larger than most.
func diskSize(f *os.File, most int64) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, packError(err)
	}
	size := info.Size()
	if size <= 0 || size > most || size%sectorSize != 0 {
		return 0, &step.Error{Kind: step.InvalidSpec, Op: opPack, Err: fmt.Errorf("%s has %d bytes, which is no size of a disk", f.Name(), size)}
	}
	return size, nil
}

func packError(err error) error {
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, fs.ErrNotExist):
		return &step.Error{Kind: step.NotFound, Op: opPack, Err: err}
	case errors.Is(err, files.ErrNotRegular):
		return &step.Error{Kind: step.InvalidSpec, Op: opPack, Err: err}
	}
	return &step.Error{Op: opPack, Err: err}
}
