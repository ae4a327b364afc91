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
	// grain is how finely zeros are looked for. It does not depend on the file
	// system the image lies on, so neither do the packed bytes.
	grain = 4096
	// maxSpans keeps the list of what is not zero in memory, and far under the
	// 1 MiB that archive/tar reads of it.
	maxSpans = 4096
	bufSize  = 256 << 10
)

// span is a part of an image that is not zero.
type span struct{ at, size int64 }

// spanList is what is not zero, in units of a grain. When there are too many
// spans the grain is doubled, so it ends up the smallest that will do.
type spanList struct {
	grain int64
	spans []span // in grains
}

// add takes the grain number n, counted in bytes/4096; n goes up.
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

// join adds a run of grains that begins in the last span, next to it or later.
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

// bytes gives the spans in bytes, cut at the image's end.
func (s *spanList) bytes(size int64) []span {
	all := make([]span, len(s.spans))
	for i, g := range s.spans {
		at := g.at * s.grain
		all[i] = span{at, min(g.size*s.grain, size-at)}
	}
	return all
}

// findSpans looks for what is not zero in an image. Holes are not read.
func findSpans(ctx context.Context, f *os.File, size int64) ([]span, error) {
	list := spanList{grain: grain}
	buf, zero := make([]byte, bufSize), make([]byte, grain)
	for at := int64(0); at < size; {
		from, end, err := nextData(f, at, size)
		if err != nil {
			return nil, err
		}
		for at = max(at, from-from%grain); at < end; {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			n, err := f.ReadAt(buf[:min(bufSize, size-at)], at)
			if err != nil {
				return nil, errChanged(err)
			}
			for block := range blocks(buf[:n]) {
				if data := buf[block:min(block+grain, n)]; !bytes.Equal(data, zero[:len(data)]) {
					list.add(at + int64(block))
				}
			}
			at += int64(n)
		}
		at = max(at, end) // on a grain, or the end
	}
	return list.bytes(size), nil
}

// blocks yields the offsets of the grains of a buffer.
func blocks(buf []byte) func(func(int) bool) {
	return func(yield func(int) bool) {
		for at := 0; at < len(buf); at += grain {
			if !yield(at) {
				return
			}
		}
	}
}

// nextData gives the next data at or after an offset, and where a hole follows.
// Where the file system does not say, all is data.
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
	return min(from, size), min(roundUp(end, grain), size), nil
}

// errChanged says what it means that a file ends early.
func errChanged(err error) error {
	if errors.Is(err, io.EOF) {
		return errShrunk
	}
	return err
}
