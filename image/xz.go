package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
	"slices"

	"github.com/ulikunitz/xz/lzma"
)

const (
	xzMagic = "\xfd7zXZ\x00"
	// maxDictionary is what xz -9 asks for.
	maxDictionary = 64 << 20
	// maxDictionaries bounds the work of making them, one for each block.
	maxDictionaries = 4 << 30
)

var errXZ = errors.New("not as The .xz File Format wants it")

// xzReader unpacks an xz file of one stream (The .xz File Format 1.2.1). Package
// lzma unpacks the blocks. What is around them is read here, because package xz
// takes the memory that a block's header asks for: 4 GiB for a few bytes.
type xzReader struct {
	r     io.Reader
	check hash.Hash // of a block; nil if the stream has none
	bytes int       // of the check
	block io.Reader // nil between blocks
	data  *counted  // what block reads
	asked int64     // dictionaries so far
}

func newXZ(r io.Reader) (*xzReader, error) {
	x := &xzReader{r: r}
	head := make([]byte, 12)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(head, []byte(xzMagic)) || !sumIs(head[8:], head[6:8]) {
		return nil, errXZ
	}
	switch binary.BigEndian.Uint16(head[6:]) {
	case 0x00:
	case 0x01:
		x.check, x.bytes = crc32.NewIEEE(), 4
	case 0x04:
		x.check, x.bytes = crc64.New(crc64.MakeTable(crc64.ECMA)), 8
	case 0x0a:
		x.check, x.bytes = sha256.New(), 32
	default:
		return nil, refusal("it uses a checksum of xz that is not known here")
	}
	return x, nil
}

// sumIs reports whether sum is the CRC32 of b.
func sumIs(sum, b []byte) bool { return word(sum, 0) == crc32.ChecksumIEEE(b) }

func (x *xzReader) Read(p []byte) (int, error) {
	for {
		if x.block == nil {
			if err := x.nextBlock(); err != nil {
				return 0, err
			}
		}
		n, err := x.block.Read(p)
		if x.check != nil {
			_, _ = x.check.Write(p[:n]) // a hash's Write has no errors
		}
		if errors.Is(err, io.EOF) {
			err = x.endBlock()
		}
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
	}
}

// nextBlock reads a block's header (section 3.1), or ends the stream with EOF.
func (x *xzReader) nextBlock() error {
	head := make([]byte, 1, 1024)
	if err := x.full(head); err != nil {
		return err
	}
	if head[0] == 0 {
		return x.end()
	}
	head = head[:(int(head[0])+1)*4]
	if err := x.full(head[1:]); err != nil {
		return err
	}
	fields := head[2 : len(head)-4]
	if !sumIs(head[len(head)-4:], head[:len(head)-4]) {
		return errXZ
	}
	const filters, packedSize, plainSize = 0x03, 0x40, 0x80
	flags := head[1]
	for _, size := range []byte{packedSize, plainSize} {
		if flags&size != 0 {
			_, n := binary.Uvarint(fields)
			if n <= 0 {
				return errXZ
			}
			fields = fields[n:]
		}
	}
	if flags&^(filters|packedSize|plainSize) != 0 || len(fields) < 3 {
		return errXZ
	}
	const lzma2 = 0x21
	if flags&filters != 0 || fields[0] != lzma2 || fields[1] != 1 {
		return refusal("it uses a filter of xz other than LZMA2")
	}
	dictionary, err := lzma.DecodeDictCap(fields[2])
	if err != nil {
		return err
	}
	x.asked += dictionary
	if dictionary > maxDictionary || x.asked > maxDictionaries {
		return refusal("it wants more memory for unpacking than xz -9 would")
	}
	x.data = &counted{r: x.r}
	x.block, err = lzma.Reader2Config{DictCap: int(dictionary)}.NewReader2(x.data)
	return err
}

// endBlock reads a block's padding and check.
func (x *xzReader) endBlock() error {
	x.block = nil
	padding := int(-x.data.n & 3)
	tail := make([]byte, padding+x.bytes)
	if err := x.full(tail); err != nil {
		return err
	}
	if len(bytes.Trim(tail[:padding], "\x00")) > 0 {
		return errXZ
	}
	if x.check == nil {
		return nil
	}
	sum := x.check.Sum(nil)
	x.check.Reset()
	if x.bytes <= 8 {
		slices.Reverse(sum) // CRCs are little-endian
	}
	if !bytes.Equal(sum, tail[padding:]) {
		return errXZ
	}
	return nil
}

// end reads the index (section 4), whose first byte is read already, and the
// footer. They say that the stream is whole, and nothing else that is wanted.
func (x *xzReader) end() error {
	const footerSize, magic = 12, "YZ"
	rest, err := io.ReadAll(io.LimitReader(x.r, 1<<20))
	if err != nil {
		return err
	}
	if len(rest) < 4+footerSize || !bytes.HasSuffix(rest, []byte(magic)) {
		return io.ErrUnexpectedEOF
	}
	index, footer := rest[:len(rest)-footerSize], rest[len(rest)-footerSize:]
	body := append([]byte{0}, index[:len(index)-4]...)
	if !sumIs(index[len(index)-4:], body) || !sumIs(footer, footer[4:10]) {
		return errXZ
	}
	return io.EOF
}

// full reads all of p.
func (x *xzReader) full(p []byte) error {
	_, err := io.ReadFull(x.r, p)
	if errors.Is(err, io.EOF) && len(p) > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
