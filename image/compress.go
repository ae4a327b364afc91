package image

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"github.com/therootcompany/xz"

	"github.com/morgana-deploy/morgana/step"
)

const (
	// maxKernel is the most bytes that are unpacked of one file.
	maxKernel = 1 << 30
	// maxDictionary bounds the memory for unpacking xz: xz -9 asks for 64 MiB, and
	// a file of a few bytes can ask for 4 GiB.
	maxDictionary = 64 << 20
)

// decompress returns a reader of the plain kernel in r, and its compression. Its
// errors are those of [DecompressTo].
func decompress(r io.ReaderAt, size int64) (plain io.Reader, compression string, err error) {
	f := newFile(r, size)
	head := make([]byte, min(magicSize, f.size()))
	if _, err := f.ReadAt(head, 0); f.err != nil {
		return nil, "", fmt.Errorf("unpack kernel: %w", err)
	}
	p := packing(head)
	if p == nil {
		return f.r, "", nil
	}
	return f.unpack(p), p.name, nil
}

// packer is a compression format.
type packer struct {
	name string
	is   func(head []byte) bool
	open func(io.Reader) (io.Reader, error)
}

// magicSize is the number of bytes that packing needs.
const magicSize = 6

var packers = []packer{
	{"gzip", startsWith("\x1f\x8b"), func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }},
	{"xz", startsWith("\xfd7zXZ\x00"), func(r io.Reader) (io.Reader, error) { return xz.NewReader(r, maxDictionary) }},
	{"bzip2", func(head []byte) bool {
		// A digit follows; text may well begin with "BZh".
		return startsWith("BZh")(head) && len(head) > 3 && head[3] >= '1' && head[3] <= '9'
	}, func(r io.Reader) (io.Reader, error) { return bzip2.NewReader(r), nil }},
}

func startsWith(magic string) func([]byte) bool {
	return func(head []byte) bool { return bytes.HasPrefix(head, []byte(magic)) }
}

// packing returns the compression of the file that begins with head, or nil.
func packing(head []byte) *packer {
	for i := range packers {
		if packers[i].is(head) {
			return &packers[i]
		}
	}
	return nil
}

// unpack returns a reader of the file's unpacked contents.
func (f *file) unpack(p *packer) *unpacked {
	return &unpacked{file: f, packer: p, left: maxKernel + 1}
}

// unpacked reads the contents of a compressed file. Its errors are meant for the
// user.
type unpacked struct {
	file   *file
	packer *packer
	r      io.Reader // nil before the first Read
	left   int64     // the bytes still allowed, plus one
	err    error
}

func (u *unpacked) Read(p []byte) (int, error) {
	if u.r == nil && u.err == nil {
		packed := bufio.NewReaderSize(io.NewSectionReader(u.file, 0, u.file.r.Size()), 64<<10)
		r, err := u.packer.open(packed)
		u.r, u.err = r, u.explain(err)
	}
	if u.err != nil {
		return 0, u.err
	}
	n, err := u.r.Read(p[:min(int64(len(p)), u.left)])
	u.left -= int64(n)
	u.err = u.explain(err)
	if u.left == 0 && u.err == nil {
		u.err = u.explain(errLarge)
	}
	return n, u.err
}

var errLarge = errors.New("it holds more than 1 GiB, too much for a kernel")

func (u *unpacked) explain(err error) error {
	if err == nil || err == io.EOF { //nolint:errorlint // exactly EOF is an io.Reader's good end
		return err
	}
	if u.file.err != nil {
		return fmt.Errorf("unpack kernel: %w", u.file.err)
	}
	e := &step.Error{Kind: step.InvalidSpec, Op: "unpack kernel", Hint: again}
	switch {
	case errors.Is(err, errLarge):
		e.Err, e.Hint = errLarge, unpack
	case errors.Is(err, xz.ErrMemlimit):
		e.Err, e.Hint = errors.New("it wants more memory for unpacking than xz -9 would"), unpack
	case errors.Is(err, xz.ErrOptions), errors.Is(err, xz.ErrUnsupportedCheck):
		e.Err, e.Hint = errors.New("it uses a filter or a checksum of xz that is not known here"), unpack
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, xz.ErrBuf):
		e.Err = fmt.Errorf("the file is damaged or cut off: it ends inside its %s data", u.packer.name)
	default:
		e.Err = fmt.Errorf("the file is damaged or cut off: its %s data is corrupt", u.packer.name)
	}
	return e
}

// identifyPacked identifies the kernel in a compressed file. The contents are too
// large to keep, and headers and notes may be anywhere in them, so they are read
// several times.
func (f *file) identifyPacked(p *packer) (Info, error) {
	contents, err := newReplay(func() io.Reader { return f.unpack(p) })
	if err != nil {
		return Info{}, err
	}
	in := newFile(contents, contents.size)
	info, err := in.identifyPlain()
	if in.err != nil {
		return Info{}, in.err
	}
	if errors.As(err, new(*step.Error)) {
		return Info{}, step.Amend(err, func(e *step.Error) { e.Err = fmt.Errorf("in the %s file: %w", p.name, e.Err) })
	}
	info.Compression = p.name
	return info, err
}
