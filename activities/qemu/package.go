package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/image/disk"
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
func (t *Target) Package(ctx context.Context, k step.Kernel) (step.Image, error) {
	const op = "package for qemu"
	img, err := t.pack(ctx, k)
	if err != nil {
		return step.Image{}, step.During(op, err)
	}
	return img, nil
}

func (t *Target) pack(ctx context.Context, k step.Kernel) (img step.Image, err error) {
	s, err := read(k.Spec.Options)
	if err != nil {
		return img, err
	}
	if _, err := s.starts(k.ABIs); err != nil {
		return img, err // before anything is fetched
	}
	options, err := s.normal()
	if err != nil {
		return img, err
	}
	folder, done, err := t.machines.Scratch(k.Spec.Tags)
	if err != nil {
		return img, err
	}
	defer func() { err = errors.Join(err, done()) }()
	p := &packing{t: t, s: s, k: k, folder: folder}
	if err := p.openKernel(ctx); err != nil {
		return img, err
	}
	if _, err := s.devices(manifestOf(p.info)); err != nil {
		return img, err
	}
	if p.modules, err = s.choose(k); err != nil {
		return img, err
	}
	if err := image.CheckMemory(p.info, s.Memory, p.modules); err != nil {
		return img, err
	}
	format := viaKernel
	var files []step.File
	if s.disk() {
		format = "disk"
		files, err = p.disk(ctx)
	} else {
		files = append([]step.File{{Name: kernelFile, Artifact: p.kernel}}, p.modules...)
	}
	if err != nil {
		return img, err
	}
	if m := manifestOf(p.info); m != nil {
		b, err := m.json()
		if err != nil {
			return img, err
		}
		a, err := t.site.Store.Put(ctx, bytes.NewReader(b))
		if err != nil {
			return img, err
		}
		files = append(files, step.File{Name: manifestFile, Artifact: a})
	}
	return t.machines.Image(ctx, k.Spec, format, options, files...)
}

// packing is one call of Package.
type packing struct {
	t      *Target
	s      settings
	k      step.Kernel
	folder string // for temporary files

	path   string        // of the uncompressed kernel
	kernel step.Artifact // the same
	info   image.Info
	abi    string

	modules []step.File
}

// openKernel fetches the kernel, refuses one that QEMU or GRUB cannot start as the
// options say, and unpacks it if it is compressed.
func (p *packing) openKernel(ctx context.Context) error {
	p.path, p.kernel = filepath.Join(p.folder, kernelFile), p.k.File
	step.Report(ctx, step.Progress{Total: p.kernel.Size, Unit: "bytes", Note: "fetching the kernel"})
	if err := p.t.site.Store.Fetch(ctx, p.k.File, p.path); err != nil {
		return err
	}
	f, err := os.Open(p.path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	if p.info, err = image.Identify(image.Until(ctx, f), p.kernel.Size); err != nil {
		return err
	}
	if err := image.CheckMachine(p.info, "x86_64"); err != nil {
		return err
	}
	if p.abi, err = p.s.starts(p.info.ABIs); err != nil {
		return err
	}
	if p.s.disk() {
		if err := image.CheckGRUB(p.info); err != nil {
			return err
		}
	}
	if p.info.Compression == "" {
		return nil
	}
	return p.unpack(ctx, f)
}

// unpack puts the uncompressed kernel into the store. QEMU's loader unpacks nothing, and
// GRUB not every compression.
func (p *packing) unpack(ctx context.Context, f *os.File) (err error) {
	step.Report(ctx, step.Progress{Note: "unpacking the kernel (" + p.info.Compression + ")"})
	p.path = filepath.Join(p.folder, "plain")
	plain, err := os.Create(p.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	if _, _, err := image.DecompressTo(ctx, plain, f, p.kernel.Size); err != nil {
		return err
	}
	p.kernel, err = p.t.site.Store.Put(ctx, plain)
	return err
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

// choose finds the modules among the files that came with the kernel.
func (s *settings) choose(k step.Kernel) ([]step.File, error) {
	var all []step.File
	for i, name := range s.Modules {
		a, err := k.Companion(fmt.Sprintf("modules[%d]", i), name)
		if err != nil {
			return nil, err
		}
		all = append(all, step.File{Name: name, Artifact: a})
	}
	return all, nil
}

// disk makes the disk and puts it into the store, packed: zeros take no space there.
func (p *packing) disk(ctx context.Context) (files []step.File, err error) {
	boot := disk.Boot{Kernel: p.path, ABI: p.abi, Args: p.s.Args}
	for _, m := range p.modules {
		path := filepath.Join(p.folder, "module-"+m.Name)
		if err := p.t.site.Store.Fetch(ctx, m.Artifact, path); err != nil {
			return nil, err
		}
		boot.Modules = append(boot.Modules, disk.Module{Path: path, Name: m.Name})
	}
	raw := filepath.Join(p.folder, bootDisk)
	step.Report(ctx, step.Progress{Note: "making the disk"})
	if err := disk.Write(ctx, raw, p.s.layout(), boot, p.s.size); err != nil {
		return nil, machine.TooBig(err, p.t.machines.Root(), "size", p.s.Size)
	}
	step.Report(ctx, step.Progress{Note: "storing the disk"})
	a, err := disk.Store(ctx, p.t.site.Store, raw)
	return []step.File{{Name: packedDisk, Artifact: a}}, err
}
