package xenserver

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// packedDisk is the boot disk in an image, as package disk packs it.
const packedDisk = "disk.tar"

// Package returns an image of the packed boot disk and of machine.json, which has the options
// of the VM: the digest changes if and only if the VM does. It sets option type in the image's
// Spec if that was auto. Package does not ask the pool.
//
// Errors: Unsupported if no VM of the pool's types boots the kernel. InvalidSpec if a module
// is missing, or the disk or the memory is too small.
func (t *Target) Package(ctx context.Context, k step.Kernel) (img step.Image, err error) {
	defer func() { err = image.WithoutVia(err) }()
	defer step.SetOp("package for xenserver", &err)
	s, err := read(k.Spec.Options)
	if err != nil {
		return img, err
	}
	if _, _, err := s.choose(k.ABIs); err != nil {
		return img, err // before anything is fetched
	}
	modules, err := machine.Modules(k, s.Modules)
	if err != nil {
		return img, err
	}
	kernel, done, err := t.machines.Kernel(ctx, k.Spec.Tags, k.File)
	if err != nil {
		return img, err
	}
	defer func() { err = errors.Join(err, done()) }()
	abi, err := s.settle(kernel.Info, modules)
	if err != nil {
		return img, err
	}
	if kernel.Info.Compression != "gzip" || s.Type == typeHVM { // Xen unpacks gzip, and GRUB not every compression
		if err := kernel.Unpack(ctx); err != nil {
			return img, err
		}
	}
	args := s.Args
	if s.Type != typeHVM { // they are the VM's PV_args
		args = ""
	}
	packed, _, err := kernel.Disk(ctx, machine.Boot{Layout: layout(s.Type), ABI: abi, Args: args, Modules: modules, Size: s.size, Option: s.Size})
	if err != nil {
		return img, err
	}
	if k.Spec.Options, err = json.Marshal(s.Options); err != nil {
		return img, err
	}
	// The way to the pool is not a part of the VM.
	s.Host, s.Profile, s.Fingerprint, s.CA, s.Format = "", "", "", "", ""
	return t.machines.Image(ctx, k.Spec, "disk", s.Options, step.File{Name: packedDisk, Artifact: packed})
}

// settle sets Type for a kernel, and refuses a kernel that the loader of its VM cannot start.
func (s *settings) settle(info image.Info, modules []step.File) (abi string, err error) {
	if err := image.CheckMachine(info, "x86_64"); err != nil {
		return "", err
	}
	if s.Type, abi, err = s.choose(info.ABIs); err != nil {
		return "", err
	}
	s.Types = nil
	if s.Type == typeHVM {
		if err := image.CheckGRUB(info); err != nil {
			return "", err
		}
	} else if err := s.checkRamdisk(); err != nil {
		return "", err
	}
	if s.Type == typePV { // the kernel has virtual addresses
		return abi, nil
	}
	return abi, image.CheckMemory(info, s.Memory, modules)
}

// checkRamdisk refuses modules that pygrub does not pass on.
func (s *settings) checkRamdisk() error {
	if len(s.Modules) > 1 {
		return step.Invalid("modules", "make one ramdisk of them, or type: hvm", "pygrub gives a kernel one ramdisk, not %d", len(s.Modules))
	}
	return nil
}
