package qemu

import (
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
		return step.Image{}, step.During(op, err)
	}
	s, err := read(k.Spec.Options)
	if err != nil {
		return step.Image{}, step.During(op, err)
	}
	options, err := s.normal()
	if err != nil {
		return step.Image{}, step.During(op, err)
	}
	img, err := t.room.Image(ctx, k.Spec, "kernel", options, step.File{Name: kernelFile, Artifact: k.File})
	if err != nil {
		return step.Image{}, step.During(op, err)
	}
	return img, nil
}
