package image

import (
	"errors"
	"io"
)

const (
	// tailSize is the part of a stream's end that is kept. An ELF file has its
	// section headers and their names there.
	tailSize = 64 << 10
	// maxReplays is how often a stream may be read again. Notes in the order of their offsets
	// need one more reading, notes in segments and sections two.
	maxReplays = 8
)

// replay gives random access to a stream that can only be read from its start. It
// keeps the stream's head, its tail and the piece that was read last.
type replay struct {
	open func() io.Reader
	size int64
	kept [3]piece // head, tail, the piece read last
	r    io.Reader
	at   int64 // of r
	left int   // how often r may be opened again
}

type piece struct {
	at    int64
	bytes []byte
}

// newReplay reads the stream once, to its end.
func newReplay(open func() io.Reader) (*replay, error) {
	s := &replay{open: open, r: open(), left: maxReplays}
	head := make([]byte, headSize)
	n, err := io.ReadFull(s.r, head)
	s.kept[0] = piece{0, head[:n]}
	s.size = int64(n)
	last, block := make([]byte, 0, tailSize), make([]byte, tailSize)
	for err == nil {
		n, err = io.ReadFull(s.r, block)
		s.size += int64(n)
		if err == nil {
			last, block = block, last[:tailSize]
			continue
		}
		tail := append(last[:len(last):len(last)], block[:n]...)
		s.kept[1] = piece{s.size - int64(len(tail)), tail}
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	s.at = s.size
	return s, nil
}

func (s *replay) ReadAt(p []byte, at int64) (int, error) {
	if at < 0 || at >= s.size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), s.size-at)]
	if !s.copyKept(want, at) {
		if err := s.fetch(at, max(len(want), tailSize)); err != nil {
			return 0, err
		}
		copy(want, s.kept[2].bytes)
	}
	if len(want) < len(p) {
		return len(want), io.EOF
	}
	return len(want), nil
}

func (s *replay) copyKept(p []byte, at int64) bool {
	for _, k := range s.kept {
		if from := at - k.at; from >= 0 && from+int64(len(p)) <= int64(len(k.bytes)) {
			copy(p, k.bytes[from:])
			return true
		}
	}
	return false
}

// fetch reads up to n bytes at an offset and keeps them.
func (s *replay) fetch(at int64, n int) error {
	if at < s.at {
		if s.left == 0 {
			return invalid("the ELF headers and notes in this compressed file are scattered all over it", unpack)
		}
		s.left--
		s.r, s.at = s.open(), 0
	}
	skipped, err := io.CopyN(io.Discard, s.r, at-s.at)
	s.at += skipped
	if err != nil {
		return err
	}
	block := make([]byte, min(int64(n), s.size-at))
	got, err := io.ReadFull(s.r, block)
	s.at += int64(got)
	s.kept[2] = piece{at, block[:got]}
	return err
}
