package disk

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

const opUnpack = "unpack disk"

// Unpack makes at path the raw disk image that [Pack] wrote to r. The image is sparse and
// synced. The folder must exist; a file at path is replaced once the image is complete. r
// is read to its end.
//
// Memory is bounded, whatever sizes r claims. Errors: Conflict if r is not an archive of
// Pack; NoSpace; no kind if r ends early or fails. An error leaves no file.
func Unpack(ctx context.Context, r io.Reader, path string) (err error) {
	u := unpacker{r: bufio.NewReaderSize(files.Reader(ctx, r), bufSize)}
	// A damaged head is refused before a file is made.
	if err := u.readHead(); err != nil {
		return u.fail(path, err)
	}
	dir, done, err := scratch(path)
	if err != nil {
		return u.fail(path, err)
	}
	defer func() {
		if removed := done(); err == nil {
			err = u.fail(path, removed)
		}
	}()
	f, err := os.OpenFile(filepath.Join(dir, imageName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return u.fail(path, err)
	}
	err = u.write(f)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return u.fail(path, err)
}

// malformed says why an archive is not one of Pack.
type malformed string

func (m malformed) Error() string { return "no packed disk: " + string(m) }

type unpacker struct {
	r      *bufio.Reader
	size   int64 // the disk's
	stored int64 // of the list and the spans
	spans  []span
}

// readHead reads up to the first span.
func (u *unpacker) readHead() error {
	ext := make([]byte, tarBlock)
	if err := u.fill(ext); err != nil {
		return err
	}
	length, err := strconv.ParseInt(strings.TrimRight(string(ext[124:136]), " \x00"), 8, 64)
	if err != nil || length < 1 || length > maxRecords {
		return malformed("it has no extended header")
	}
	rest := make([]byte, roundUp(length, tarBlock)+tarBlock)
	if err := u.fill(rest); err != nil {
		return err
	}
	size, stored, err := parseRecords(string(rest[:length]))
	if err != nil {
		return malformed(err.Error())
	}
	if stored == 0 {
		own := rest[len(rest)-tarBlock:]
		stored, err = strconv.ParseInt(strings.TrimRight(string(own[124:136]), " \x00"), 8, 64)
		if err != nil {
			return malformed("a number is malformed")
		}
	}
	if size <= 0 || size > maxSize || size%sectorSize != 0 {
		return malformed(fmt.Sprintf("%d bytes is no size of a disk", size))
	}
	// Pack writes these numbers in one way only.
	if want, err := tarHead(size, stored); err != nil || !bytes.Equal(want, append(ext, rest...)) {
		return malformed("its headers are not those of one")
	}
	u.size, u.stored = size, stored
	return u.readSpans()
}

func (u *unpacker) readSpans() error {
	count, err := u.number()
	if err != nil {
		return err
	}
	if count < 1 || count > maxSpans+1 {
		return malformed(fmt.Sprintf("a list of %d pieces", count))
	}
	var end, total int64
	for range count {
		at, err := u.number()
		if err != nil {
			return err
		}
		size, err := u.number()
		if err != nil {
			return err
		}
		if at < end || at > u.size || size > u.size-at || size == 0 && at != u.size {
			return malformed("its pieces are not in order")
		}
		if at%grain != 0 && at != u.size || size%grain != 0 && at+size != u.size {
			return malformed("its pieces are not whole blocks")
		}
		if size > 0 {
			u.spans = append(u.spans, span{at, size})
		}
		end = at + size
		total += size
	}
	want := spanText(u.spans, u.size)
	if u.stored != int64(len(want))+total {
		return malformed("its pieces are not as large as it says")
	}
	return u.zeros(padding(int64(len(bytes.TrimRight(want, "\x00")))))
}

// write writes the spans and checks that nothing follows them.
func (u *unpacker) write(f *os.File) error {
	if err := f.Truncate(u.size); err != nil {
		return err
	}
	buf := make([]byte, bufSize)
	for _, s := range u.spans {
		for at, end := s.at, s.at+s.size; at < end; {
			part := buf[:min(bufSize, end-at)]
			if err := u.fill(part); err != nil {
				return err
			}
			if _, err := f.WriteAt(part, at); err != nil {
				return err
			}
			at += int64(len(part))
		}
	}
	if err := u.zeros(padding(u.stored) + 2*tarBlock); err != nil {
		return err
	}
	switch _, err := u.r.ReadByte(); {
	case err == nil:
		return malformed("something follows its end")
	case !errors.Is(err, io.EOF):
		return err
	}
	return f.Sync()
}

func (u *unpacker) fill(buf []byte) error {
	_, err := io.ReadFull(u.r, buf)
	return cutOff(err)
}

func cutOff(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the packed disk is cut off")
	}
	return err
}

// number reads a line of the list of spans.
func (u *unpacker) number() (int64, error) {
	const digits = 14 // of 8 TiB, and the newline
	line := make([]byte, 0, digits)
	for len(line) < digits {
		c, err := u.r.ReadByte()
		if err != nil {
			return 0, cutOff(err)
		}
		if c == '\n' {
			n, err := number(string(line))
			if err != nil {
				return 0, malformed(err.Error())
			}
			return n, nil
		}
		line = append(line, c)
	}
	return 0, malformed("a number is malformed")
}

func (u *unpacker) zeros(n int64) error {
	pad := make([]byte, n)
	if err := u.fill(pad); err != nil {
		return err
	}
	if len(bytes.TrimRight(pad, "\x00")) > 0 {
		return malformed("its padding is not empty")
	}
	return nil
}

func (u *unpacker) fail(path string, err error) error {
	var m malformed
	if errors.As(err, &m) {
		return &step.Error{Kind: step.Conflict, Op: opUnpack, Err: m, Hint: "package it again"}
	}
	return failIn(filepath.Dir(path), opUnpack, err)
}
