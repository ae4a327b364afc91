package disk

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// grain is the size of the blocks that are compared with zeros. It does not depend on
	// the image's file system, so that the packed bytes do not depend on it.
	grain = 4096
	// maxSpans limits the list of spans. archive/tar reads at most 1 MiB of it.
	maxSpans = 4096
	bufSize  = 256 << 10
)

// span is a part of an image that is not zero.
type span struct{ at, size int64 }

// spanList is the list of spans, in units of a grain. Whenever there are too many spans
// the grain is doubled, so it is the smallest grain that gives few enough.
type spanList struct {
	grain int64
	spans []span // in grains
}

// add adds the grain that holds the offset at. Offsets must increase.
func (s *spanList) add(at int64) {
	s.join(at/s.grain, 1)
	for len(s.spans) > maxSpans {
		s.grain *= 2
		old := s.spans
		s.spans = s.spans[:0]
		for _, o := range old {
			first, end := o.at/2, ceil(o.at+o.size, 2)
			s.join(first, end-first)
		}
	}
}

// join adds a run of grains. It must begin in the last span or behind it.
func (s *spanList) join(at, size int64) {
	if n := len(s.spans); n > 0 {
		last := &s.spans[n-1]
		if end := last.at + last.size; at <= end {
			last.size = max(end, at+size) - last.at
			return
		}
	}
	s.spans = append(s.spans, span{at, size})
}

// bytes returns the spans in bytes, cut off at the image's end.
func (s *spanList) bytes(size int64) []span {
	all := make([]span, len(s.spans))
	for i, g := range s.spans {
		at := g.at * s.grain
		all[i] = span{at, min(g.size*s.grain, size-at)}
	}
	return all
}

// findSpans finds the parts of an image that are not zero. It does not read holes.
func findSpans(ctx context.Context, f *os.File, size int64) ([]span, error) {
	list := spanList{grain: grain}
	err := eachBlock(ctx, f, size, grain, func(at int64, _ []byte) error {
		list.add(at)
		return nil
	})
	return list.bytes(size), err
}

// Blocks calls each for every block of the raw image at path that is not all zeros, in
// order. The block size is a multiple of 4096; the image's last block may be shorter. Holes
// are not read. data is valid only until each returns. Blocks returns the image's size.
func Blocks(ctx context.Context, path string, block int, each func(index int64, data []byte) error) (size int64, err error) {
	f, err := openDisk(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return 0, packError(err)
	}
	return info.Size(), eachBlock(ctx, f, info.Size(), block, func(at int64, data []byte) error { return each(at/int64(block), data) })
}

// eachBlock calls each for every block of f that is not all zeros.
func eachBlock(ctx context.Context, f *os.File, size int64, block int, each func(at int64, data []byte) error) error {
	buf, zero := make([]byte, block*max(1, bufSize/block)), make([]byte, block)
	for at := int64(0); at < size; {
		from, end, err := nextData(f, at, size)
		if err != nil {
			return err
		}
		for at = max(at, from-from%int64(block)); at < end; {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := f.ReadAt(buf[:min(int64(len(buf)), size-at)], at)
			if err != nil {
				return errChanged(err)
			}
			for i := 0; i < n; i += block {
				if data := buf[i:min(i+block, n)]; !bytes.Equal(data, zero[:len(data)]) {
					if err := each(at+int64(i), data); err != nil {
						return err
					}
				}
			}
			at += int64(n)
		}
	}
	return nil
}

// nextData returns the next range of data at or after an offset. On a file system
// that does not know holes everything is data.
func nextData(f *os.File, at, size int64) (from, end int64, err error) {
	from, err = unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // nothing but a hole
		return size, size, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return at, size, nil
	case err != nil:
		return 0, 0, os.NewSyscallError("lseek", err)
	}
	end, err = unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, os.NewSyscallError("lseek", err)
	}
	return min(from, size), min(end, size), nil
}

// errChanged explains the early end of a file.
func errChanged(err error) error {
	if errors.Is(err, io.EOF) {
		return errShrunk
	}
	return err
}
