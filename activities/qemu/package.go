package qemu

import (
	"bytes"
	"context"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

// Package gives the kernel itself and machine.json, the options with their
// defaults written out: what changes the machine changes the digest, and
// nothing else does. It is pure. Unsupported if QEMU cannot load the kernel.
func (t *Target) Package(ctx context.Context, k step.Kernel) (step.Image, error) {
	const op = "package for qemu"
	if _, err := image.Supports(Kind, k.ABIs); err != nil {
		return step.Image{}, during(op, err)
	}
	s, err := read(k.Spec.Options)
	if err != nil {
		return step.Image{}, during(op, err)
	}
	options, err := s.normal()
	if err != nil {
		return step.Image{}, during(op, err)
	}
	config, err := t.site.Store.Put(ctx, bytes.NewReader(options))
	if err != nil {
		return step.Image{}, during(op, err)
	}
	files := []step.File{{Name: kernelFile, Artifact: k.File}, {Name: recordFile, Artifact: config}}
	return step.Image{Spec: k.Spec, Digest: step.DigestOf(files), Format: "kernel", Files: files}, nil
}
