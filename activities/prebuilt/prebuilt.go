// Package prebuilt is the toolchain of a kernel that exists already. It builds nothing.
package prebuilt

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

// Kind is the name of this toolchain in morgana.yaml.
const Kind = "prebuilt"

// Options of the toolchain: there are none.
type Options struct{}

// Toolchain implements [step.Toolchain]. It is safe for concurrent use.
type Toolchain struct{ site step.Site }

var (
	_ step.Toolchain = (*Toolchain)(nil)
	_ step.Builder   = (*Toolchain)(nil)
)

// New makes the toolchain of a site.
func New(site step.Site) *Toolchain { return &Toolchain{site} }

// Configure checks that the store has the kernel. The error is NotFound if it does not,
// and InvalidSpec if the spec names no kernel. The Source has no Host, so any worker can
// build.
func (t *Toolchain) Configure(ctx context.Context, spec step.Spec) (step.Source, error) {
	src := step.Source{Spec: spec}
	kernel, err := read(spec)
	if err != nil {
		return src, err
	}
	f, err := t.site.Store.Open(ctx, kernel)
	if err != nil {
		return src, step.During("look for the kernel", err)
	}
	_ = f.Close() // nothing was read
	return src, nil
}

// Build finds the kernel's ABIs. A file that is no kernel is InvalidSpec.
func (t *Toolchain) Build(ctx context.Context, src step.Source) (step.Kernel, error) {
	k := step.Kernel{Spec: src.Spec}
	kernel, err := read(src.Spec)
	if err != nil {
		return k, err
	}
	f, err := t.copy(ctx, kernel)
	if err != nil {
		return k, step.During("read the kernel", err)
	}
	defer func() { _ = f.Close() }() // only read
	info, err := image.Identify(image.Until(ctx, f), kernel.Size)
	if err != nil {
		return k, &step.Error{Kind: step.InvalidSpec, Op: "read the kernel", Err: err,
			Hint: "toolchain prebuilt wants the file of a kernel"}
	}
	k.File, k.ABIs = kernel, info.ABIs
	return k, nil
}

// Built returns the kernel of spec, with the ABIs that the spec tells.
func (t *Toolchain) Built(_ context.Context, spec step.Spec) (step.Built, error) {
	kernel, err := read(spec)
	if err != nil {
		return step.Built{}, err
	}
	return step.Built{Kernel: &step.Kernel{Spec: spec, File: kernel, ABIs: spec.Origin.ABIs}}, nil
}

// Clean has nothing to do: nothing is kept.
func (t *Toolchain) Clean(context.Context, step.Spec) (step.Destroyed, error) {
	return step.Destroyed{}, nil
}

// copy returns a file with the artifact's bytes. It has no name, so it is gone with the
// process.
func (t *Toolchain) copy(ctx context.Context, a step.Artifact) (*os.File, error) {
	folder := filepath.Join(t.site.State, Kind)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	in, err := t.site.Store.Open(ctx, a)
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }() // only read
	f, err := os.CreateTemp(folder, "kernel-*")
	if err != nil {
		return nil, err
	}
	err = os.Remove(f.Name())
	if err == nil {
		_, err = io.Copy(f, in)
	}
	if err != nil {
		_ = f.Close() // the first error says more
		return nil, err
	}
	return f, nil
}

func read(spec step.Spec) (step.Artifact, error) {
	var none Options
	if err := step.Decode(spec.Toolchain.Options, &none); err != nil {
		return step.Artifact{}, err
	}
	if spec.Origin.Kernel == nil {
		return step.Artifact{}, step.Invalid("toolchain", "name the kernel's file, or use toolchain command to build one", "%s takes a kernel that exists already, and none is given", Kind)
	}
	return *spec.Origin.Kernel, nil
}
