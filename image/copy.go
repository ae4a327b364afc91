package image

import (
	"context"
	"io"

	"github.com/morgana-deploy/morgana/files"
)

// DecompressTo writes the plain kernel of a file that is size bytes long to w,
// and says how it was packed, as [Decompress] does, and how many bytes it wrote.
// It ends soon after ctx does, with ctx's error; what it wrote until then is no
// kernel. Other errors are those of Decompress and of w, as they are.
func DecompressTo(ctx context.Context, w io.Writer, r io.ReaderAt, size int64) (compression string, n int64, err error) {
	plain, compression, err := Decompress(r, size)
	if err != nil {
		return "", 0, err
	}
	// A few bytes of a file may be a gigabyte unpacked, so ctx is asked for each
	// piece that comes out as well; and w must not take over the copying.
	n, err = files.Copy(ctx, w, plain)
	return compression, n, err
}

// Until gives r until ctx is done, and then ctx's error. With it [Identify] and
// [Decompress] can be cancelled: what they look into may be compressed, large,
// and read several times.
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
