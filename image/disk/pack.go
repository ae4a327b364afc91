package disk

import (
	"context"
	"io"
)

// Pack is being written.
func Pack(ctx context.Context, w io.Writer, path string) error { panic("not yet") }

// Unpack is being written.
func Unpack(ctx context.Context, r io.Reader, path string) error { panic("not yet") }
