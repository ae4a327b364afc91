package xen

import (
	"bytes"
	"context"
	"io"
	"sync"
	"time"
)

// talk is a verb that runs while its caller reads the output and writes the input.
type talk struct {
	in    *io.PipeWriter
	out   chan []byte
	said  []byte        // output that line has not returned yet
	heard chan struct{} // closed at the end of the first line
	once  sync.Once
	ended chan struct{}
	err   error // set before ended is closed; all output has been read by then
	own   context.Context
}

// talk starts a verb. When ctx ends, the verb is not stopped at once but after its first
// line of output, or after patience. Until that line it creates a resource that a later
// call must be able to find.
func (d *dom0) talk(ctx context.Context, patience time.Duration, verb string, args ...string) (k *talk, stop func()) {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r, w := io.Pipe()
	k = &talk{in: w, out: make(chan []byte), heard: make(chan struct{}), ended: make(chan struct{}), own: own}
	unwatch := context.AfterFunc(ctx, func() {
		select {
		case <-k.heard:
		case <-k.ended:
		case <-time.After(patience):
		}
		cancel()
	})
	go func() {
		k.err = d.run(own, r, k, verb, args...)
		_ = r.Close() // a write fails from now on
		close(k.ended)
		cancel()
	}()
	return k, func() {
		if unwatch() {
			cancel()
		}
	}
}

// Write takes the verb's output.
func (k *talk) Write(p []byte) (int, error) {
	if bytes.IndexByte(p, '\n') >= 0 {
		k.once.Do(func() { close(k.heard) })
	}
	select {
	case k.out <- bytes.Clone(p):
		return len(p), nil
	case <-k.own.Done():
		return 0, k.own.Err()
	}
}

// line returns the next line of output, or the verb's error if the verb has ended.
func (k *talk) line(ctx context.Context) (string, error) {
	for {
		if line, rest, ok := bytes.Cut(k.said, []byte("\n")); ok {
			k.said = rest
			return string(line), nil
		}
		select {
		case p := <-k.out:
			k.said = append(k.said, p...)
		case <-k.ended:
			if k.err == nil {
				return "", io.ErrUnexpectedEOF
			}
			return "", k.err
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// end closes the verb's input and returns the error that the verb ended with.
func (k *talk) end() error {
	_ = k.in.Close()
	for {
		select {
		case <-k.out:
		case <-k.ended:
			return k.err
		}
	}
}
