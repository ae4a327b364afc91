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
	into := func(ctx context.Context, r io.ReadSeeker) (step.Artifact, error) { return put(ctx, s, r) }
	if kernel != nil {
		file, info, err := files.Open(kernel.path)
		if err != nil {
			return origin, config.Unreadable(kernel.path, err)
		}
		defer func() { _ = file.Close() }() // read only
		a, err := source.PutKernel(ctx, into, file, info.Size())
		if err != nil {
			return origin, err
		}
		origin.Kernel, origin.ABIs = &a, kernel.abis
		return origin, nil
	}
	a, packed, err := source.Put(ctx, into, p.Source, p.File)
	if err != nil {
		return origin, err
	}
	if packed.Size > largeSource {
		c.say("warning: the source has %s, its largest file, %s, has %s; name in .gitignore what the build does not need",
			workflows.Size(packed.Size), packed.Largest, workflows.Size(packed.LargestSize))
	}
	origin.Archive = &a
	origin.Commit, origin.Changed = commitOf(ctx, p.Source)
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
