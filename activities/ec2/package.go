package ec2

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"

	"github.com/morgana-deploy/morgana/carrier"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// Package returns an image of the packed boot disk, of the list of its blocks, of ami.json,
// and of machine.json, which has the options of the instance: the digest changes if and only
// if the instance does. Package is pure.
//
// Errors: Unsupported if GRUB or pv-grub cannot start the kernel. InvalidSpec if a module
// is missing or the disk is too small.
func (t *Target) Package(ctx context.Context, k step.Kernel) (img step.Image, err error) {
	defer func() { err = image.WithoutVia(err) }()
	defer step.SetOp("package for ec2", &err)
	s, err := read(k.Spec.Options)
	if err != nil {
		return img, err
	}
	loader := s.loader(k.Spec.Origin.ABIs)
	if _, err := image.Supports(loader, k.ABIs); err != nil {
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
	a := ami{Architecture: "x86_64", Virtualization: s.Virtualization, BootMode: s.BootMode, Layout: s.layout(),
		KernelID: s.KernelID, Encrypted: s.Encrypted}
	if s.Backing == backingBundle {
		a.Backing = s.Backing
	}
	if err := image.CheckMachine(kernel.Info, a.Architecture); err != nil {
		return img, err
	}
	abi, err := image.Supports(loader, kernel.Info.ABIs)
	if err != nil {
		return img, err
	}
	if err := lackingDevice(kernel.Info, s.Carried()); err != nil {
		return img, err
	}
	if loader == "grub" || loader == image.GRUBOnXen {
		if err := image.CheckGRUB(kernel.Info); err != nil {
			return img, err
		}
	}
	if err := kernel.Unpack(ctx); err != nil {
		return img, err
	}
	args := s.Args
	if s.Carried() {
		ramdisk, err := kernel.Carry(ctx, s.Carriage, carrier.Cargo{Args: args, Interfaces: 1, From: k.Spec.Toolchain})
		if err != nil {
			return img, err
		}
		abi, args, modules = image.LinuxBzImage, carrier.CommandLine, []step.File{ramdisk}
	}
	packed, path, err := kernel.Disk(ctx, machine.Boot{Layout: a.Layout, ABI: abi, Args: args, Modules: modules, Size: s.size, Option: s.Size})
	if err != nil {
		return img, err
	}
	list, size, err := blocksOf(ctx, path)
	if err != nil {
		return img, err
	}
	a.Size = size
	config, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return img, err
	}
	files := []step.File{{Name: packedDisk, Artifact: packed}}
	for _, f := range []struct {
		name string
		data []byte
	}{{blocksFile, list.text()}, {amiFile, config}} {
		put, err := t.site.Store.Put(ctx, bytes.NewReader(f.data))
		if err != nil {
			return img, err
		}
		files = append(files, step.File{Name: f.name, Artifact: put})
	}
	s.Profile, s.Endpoint, s.Helper = "", "", Helper{} // the way to the account is not a part of the instance
	return t.machines.Image(ctx, k.Spec, "disk", s.Options, files...)
}

// rootDevice returns the name of the root device. pv-grub of a whole disk looks for a
// partition's name, that of a partitioned disk for a disk's.
func (a *ami) rootDevice() string {
	switch a.Layout {
	case disk.Whole:
		return "/dev/sda1"
	case disk.Partition:
		return "/dev/sda"
	}
	return "/dev/xvda"
}

// gibibytes returns the size of the snapshot's volume.
func (a *ami) gibibytes() int64 { return (a.Size + gibi - 1) / gibi }
