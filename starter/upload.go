package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/source"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/store"
	"github.com/morgana-deploy/morgana/terminal"
	"github.com/morgana-deploy/morgana/workflows"
)

// prebuilt is a kernel file that exists, with the ABIs that its bytes show.
type prebuilt struct {
	path string
	abis []string
}

// openKernel identifies the project's prebuilt kernel before a server is started. It
// returns nil if the project has none.
func openKernel(p *config.Project) (*prebuilt, error) {
	if p.Kernel == "" {
		return nil, nil
	}
	file, info, err := files.Open(p.Kernel)
	if err != nil {
		return nil, config.Unreadable(p.Kernel, err)
	}
	defer func() { _ = file.Close() }() // read only
	found, err := image.Identify(file, info.Size())
	if err != nil {
		f := workflows.Failure(err)
		f.Op, f.Field = p.Locate("", "kernel"), "toolchain.kernel"
		return nil, f
	}
	return &prebuilt{path: p.Kernel, abis: found.ABIs}, nil
}

// largeSource is the size of a packed source, in bytes, above which a warning is
// printed: each changed source is packed, stored and unpacked anew.
const largeSource = 100 << 20

// putter stores an artifact, or says how it would be stored.
type putter func(ctx context.Context, s *store.Store, r io.ReadSeeker) (step.Artifact, error)

func putInto(ctx context.Context, s *store.Store, r io.ReadSeeker) (step.Artifact, error) {
	return s.Put(ctx, r)
}

// upload puts the source folder, or the prebuilt kernel, into the store. A source in git
// is left to a worker.
func (c *cli) upload(ctx context.Context, settings config.Settings, p *config.Project, kernel *prebuilt, put putter) (step.Origin, error) {
	origin := originOf(ctx, settings, p)
	if p.Git != nil {
		return origin, nil
	}
	s, err := store.Open(ctx, settings.Store)
	if err != nil {
		return origin, err
	}
	defer func() { _ = s.Close() }() // nothing is pending after Put
	ctx, end := c.showProgress(ctx, time.Second, 5*time.Second)
	defer end()
	if kernel != nil {
		file, info, err := files.Open(kernel.path)
		if err != nil {
			return origin, config.Unreadable(kernel.path, err)
		}
		defer func() { _ = file.Close() }() // read only
		a, err := put(ctx, s, reading(ctx, "the kernel", file, info.Size()))
		if err != nil {
			return origin, err
		}
		origin.Kernel, origin.ABIs = &a, kernel.abis
		return origin, nil
	}
	packed, err := source.Pack(ctx, p.Source, p.File)
	if err != nil {
		return origin, err
	}
	defer func() { _ = packed.Close() }() // a temporary file
	if packed.Size > largeSource {
		c.say("warning: the source has %s, its largest file, %s, has %s; name in .gitignore what the build does not need",
			workflows.Size(packed.Size), packed.Largest, workflows.Size(packed.LargestSize))
	}
	a, err := put(ctx, s, reading(ctx, "the source", packed, packed.Size))
	if err != nil {
		return origin, err
	}
	origin.Archive = &a
	return origin, nil
}

// showProgress returns a context whose progress reports are printed on standard error.
// The first one is printed when after has passed, and later ones at intervals of every.
// On a terminal the reports rewrite one line, 20 times as often, and end removes that
// line.
func (c *cli) showProgress(ctx context.Context, after, every time.Duration) (reporting context.Context, end func()) {
	rewrite := isTerminal(c.err)
	if rewrite {
		every /= 20
	}
	shown, next := false, time.Now().Add(after)
	reporting = step.WithReporter(ctx, func(p step.Progress) {
		if time.Now().Before(next) {
			return
		}
		shown, next = true, time.Now().Add(every)
		if !rewrite {
			c.say("%s", progressLine(p))
			return
		}
		_, _ = fmt.Fprintf(c.err, "\r%s\x1b[K", terminal.Clean(progressLine(p)))
	}, nil)
	return reporting, func() {
		if rewrite && shown {
			_, _ = io.WriteString(c.err, "\r\x1b[K")
		}
	}
}

// reader reports how much of it was read. The store reads a file once for its digest, and
// again if it does not have the file.
type reader struct {
	io.ReadSeeker
	ctx   context.Context
	what  string
	seeks int
	step.Progress
}

func reading(ctx context.Context, what string, r io.ReadSeeker, size int64) *reader {
	return &reader{ReadSeeker: r, ctx: ctx, what: what, Progress: step.Progress{Total: size, Unit: "bytes"}}
}

func (r *reader) Read(b []byte) (int, error) {
	n, err := r.ReadSeeker.Read(b)
	r.Done += int64(n)
	step.Report(r.ctx, r.Progress)
	return n, err
}

func (r *reader) Seek(offset int64, whence int) (int64, error) {
	if r.seeks++; r.seeks == 1 {
		r.Note = "reading " + r.what
	} else {
		r.Note = "storing " + r.what
	}
	at, err := r.ReadSeeker.Seek(offset, whence)
	r.Done = at
	return at, err
}
