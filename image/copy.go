package image

import (
	"context"
	"io"

	"github.com/morgana-deploy/morgana/files"
)

// DecompressTo writes the plain kernel in r, a file of size bytes, to w. It returns
// the file's compression, "gzip", "xz", "bzip2" or "" for a plain file, and the number
// of bytes written. When ctx is done it stops with ctx's error and a part of the
// kernel in w.
//
// The error is InvalidSpec if the file is damaged or cut off, or if its contents
// exceed 1 GiB. Errors of reading r and of w are returned unchanged.
func DecompressTo(ctx context.Context, w io.Writer, r io.ReaderAt, size int64) (compression string, n int64, err error) {
	plain, compression, err := decompress(r, size)
	if err != nil {
		return "", 0, err
	}
	// A small file may unpack to a gigabyte, so ctx is also checked between blocks of output.
	n, err = files.Copy(ctx, w, plain)
	return compression, n, err
}

// Until returns a reader of r that fails with ctx's error once ctx is done. It makes
// [Identify] stop early: a compressed kernel may be large, and is read several times.
func Until(ctx context.Context, r io.ReaderAt) io.ReaderAt { return untilReaderAt{ctx, r} }

type untilReaderAt struct {
	ctx context.Context
	r   io.ReaderAt
}

func (u untilReaderAt) ReadAt(p []byte, off int64) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.ReadAt(p, off)
}
