package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/morgana-deploy/morgana/carrier"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// Package returns the uncompressed kernel with its modules, or the packed disk that
// boots them, and machine.json. machine.json has the options with their defaults written
// out, so the digest changes if and only if the machine does. Package is pure.
//
// Errors: Unsupported if QEMU, or GRUB, cannot start the kernel. InvalidSpec if a module
// or a device of a Solo5 kernel is missing, or if the memory or the boot disk is too
// small for the kernel and its modules.
func (t *Target) Package(ctx context.Context, k step.Kernel) (img step.Image, err error) {
	defer step.SetOp("package for qemu", &err)
	s, err := read(k.Spec.Options)
	if err != nil {
		return img, err
	}
	if _, err := s.starts(k.ABIs); err != nil {
		return img, err // before anything is fetched
	}
	p := &packing{t: t, s: s}
	var done func() error
	if p.kernel, done, err = t.machines.Kernel(ctx, k.Spec.Tags, k.File); err != nil {
		return img, err
	}
	defer func() { err = errors.Join(err, done()) }()
	if err := p.openKernel(ctx); err != nil {
		return img, err
	}
	manifest := manifestOf(p.kernel.Info)
	if _, err := s.devices(manifest); err != nil {
		return img, err
	}
	if p.modules, err = machine.Modules(k, s.Modules); err != nil {
		return img, err
	}
	if s.Carried() {
		ramdisk, err := p.kernel.Carry(ctx, s.Carriage, carrier.Cargo{Args: s.Args, Interfaces: len(s.networks), From: k.Spec.Toolchain})
		if err != nil {
			return img, err
		}
		p.abi, p.modules = image.LinuxBzImage, []step.File{ramdisk}
	}
	if err := image.CheckMemory(p.kernel.Info, s.Memory, p.modules); err != nil {
		return img, err
	}
	format := viaKernel
	var files []step.File
	if s.disk() {
		format = "disk"
		files, err = p.disk(ctx)
	} else {
		files = append([]step.File{{Name: kernelFile, Artifact: p.kernel.File}}, p.modules...)
	}
	if err != nil {
		return img, err
	}
	if manifest != nil {
		b, err := manifest.json()
		if err != nil {
			return img, err
		}
		a, err := t.site.Store.Put(ctx, bytes.NewReader(b))
		if err != nil {
			return img, err
		}
		files = append(files, step.File{Name: manifestFile, Artifact: a})
	}
	return t.machines.Image(ctx, k.Spec, format, s.Options, files...)
}

// packing is one call of Package.
type packing struct {
	t       *Target
	s       settings
	kernel  *machine.Kernel
	abi     string
	modules []step.File
}

// openKernel refuses a kernel that QEMU or GRUB cannot start as the options say, and
// unpacks it: QEMU's loader unpacks nothing, and GRUB not every compression.
func (p *packing) openKernel(ctx context.Context) (err error) {
	info := p.kernel.Info
	if err := image.CheckMachine(info, "x86_64"); err != nil {
		return err
	}
	if p.abi, err = p.s.starts(info.ABIs); err != nil {
		return err
	}
	if p.s.loader() == "grub" {
		if err := image.CheckGRUB(info); err != nil {
			return err
		}
	}
	return p.kernel.Unpack(ctx)
}

// starts returns the ABI of abis by which the kernel is started with these options, or ""
// if it is not known.
func (s *settings) starts(abis []string) (string, error) {
	abi, err := image.Supports(s.loader(), abis)
	if err != nil {
		return "", err
	}
	switch {
	case abi == "":
	case s.Machine == microvm && abi != image.PVH && abi != image.LinuxBzImage:
		return "", &step.Error{Kind: step.Unsupported, Field: "machine", Hint: "machine: pc, or leave it out",
			Err: fmt.Errorf("a microvm starts PVH and Linux kernels only, not one that is %s", abi)}
	case len(s.Modules) > 1 && !s.disk() && abi != image.Multiboot1:
		return "", &step.Error{Kind: step.Unsupported, Field: "modules", Hint: "make one ramdisk of them, or use via: bios",
			Err: fmt.Errorf("qemu gives a kernel that is %s one ramdisk, not %d", abi, len(s.Modules))}
	}
	return abi, nil
}

// disk makes the disk and puts it into the store.
func (p *packing) disk(ctx context.Context) ([]step.File, error) {
	args, _ := p.s.boots()
	a, _, err := p.kernel.Disk(ctx, machine.Boot{Layout: p.s.layout(), ABI: p.abi, Args: args, Modules: p.modules,
		Size: p.s.size, Option: p.s.Size})
	return []step.File{{Name: packedDisk, Artifact: a}}, err
}
