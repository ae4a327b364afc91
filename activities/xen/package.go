package xen

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

const (
	// xlIn is the template of a domain's configuration that MirageOS makes.
	xlIn = "xl.in"
	// maxXLIn is the largest xl.in accepted, in bytes. MirageOS writes about 1 KiB.
	maxXLIn = 64 << 10
)

// Package returns an image with three parts: the kernel, or a packed boot disk with the
// kernel on it; the files of the domain's ramdisk and disks; and domain.json, the
// domain's configuration. Equal input gives an equal digest. A kernel is unpacked unless
// its loader does that: Xen unpacks gzip.
//
// The error is Unsupported if the kernel cannot start as the options say. It is
// InvalidSpec if a file is missing, or if a network or block device of the xl.in is not
// bound.
func (t *Target) Package(ctx context.Context, k step.Kernel) (img step.Image, err error) {
	defer step.SetOp("package for xen", &err)
	s, err := read(k.Spec.Options)
	if err != nil {
		return img, err
	}
	if _, err := s.chooseStart(k.ABIs, ""); err != nil {
		return img, err // before anything is fetched
	}
	p := &packing{store: t.site.Store, s: s, k: k}
	var done func() error
	if p.kernel, done, err = t.machines.Kernel(ctx, k.Spec.Tags, k.File); err != nil {
		return img, err
	}
	defer func() { err = errors.Join(err, done()) }()
	if err := p.openKernel(ctx); err != nil {
		return img, err
	}
	format, files := viaKernel, []step.File{{Name: kernelFile, Artifact: p.kernel.File}}
	if s.disk() {
		format = viaDisk
		if files, err = p.disk(ctx); err != nil {
			return img, err
		}
	}
	with, err := p.files()
	if err != nil {
		return img, err
	}
	config, err := json.MarshalIndent(p.d, "", "  ")
	if err != nil {
		return img, err
	}
	a, err := t.site.Store.Put(ctx, bytes.NewReader(config))
	if err != nil {
		return img, err
	}
	files = slices.Concat(files, with, []step.File{{Name: domainFile, Artifact: a}})
	return step.Image{Spec: k.Spec, Digest: step.DigestOf(files), Format: format, Files: files}, nil
}

type packing struct {
	store  step.Store
	s      settings
	k      step.Kernel
	kernel *machine.Kernel
	how    start
	d      domain
}

// openKernel sets how and d, and unpacks the kernel if its loader does not.
func (p *packing) openKernel(ctx context.Context) error {
	info := p.kernel.Info
	if err := image.CheckMachine(info, "x86_64"); err != nil {
		return err
	}
	template, err := p.template(ctx)
	if err != nil {
		return err
	}
	if p.how, err = p.s.chooseStart(info.ABIs, template.domainType()); err != nil {
		return err
	}
	hvm := p.how.Type == typeHVM
	if hvm {
		if err := image.CheckGRUB(info); err != nil {
			return err
		}
	}
	if p.d, err = p.s.domain(p.how, template); err != nil {
		return err
	}
	if p.how.Type != typePV { // a pv kernel has virtual addresses
		if err := image.CheckMemory(info, p.d.Memory, nil); err != nil {
			return err
		}
	}
	if info.Compression == "gzip" && !hvm {
		return nil
	}
	return p.kernel.Unpack(ctx)
}

// template reads the xl.in that came with the kernel, nil if none did.
func (p *packing) template(ctx context.Context) (*template, error) {
	a, ok := step.FileNamed(p.k.Files, xlIn)
	if !ok {
		return nil, nil
	}
	if a.Size > maxXLIn {
		return nil, step.Invalid("", "", "%s has %d bytes, which is no configuration of a domain", xlIn, a.Size)
	}
	r, err := p.store.Open(ctx, a)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	return readTemplate(string(b))
}

// files returns the ramdisk and the disks that came with the kernel, each once.
func (p *packing) files() ([]step.File, error) {
	var all []step.File
	add := func(field, name string) (step.Artifact, error) {
		a, err := p.k.Companion(field, name)
		if _, have := step.FileNamed(all, name); err == nil && !have {
			all = append(all, step.File{Name: name, Artifact: a})
		}
		return a, err
	}
	for i, name := range p.s.Modules {
		if p.s.disk() {
			break // the modules are on the boot disk
		}
		if _, err := add(fmt.Sprintf("modules[%d]", i), name); err != nil {
			return nil, err
		}
	}
	for i, d := range p.s.Disks {
		if d.File == "" {
			continue
		}
		field := fmt.Sprintf("disks[%d].file", i)
		a, err := add(field, d.File)
		if err != nil {
			return nil, err
		}
		if raw := d.Format == "" || d.Format == "raw"; raw && (a.Size == 0 || a.Size%512 != 0) {
			return nil, step.Invalid(field, "a disk has sectors of 512 bytes: truncate -s %512 "+d.File, "%s has %d bytes, which is no size of a disk", d.File, a.Size)
		}
	}
	return all, nil
}

// disk makes the boot disk and puts it into the store.
func (p *packing) disk(ctx context.Context) ([]step.File, error) {
	modules, err := machine.Modules(p.k, p.s.Modules)
	if err != nil {
		return nil, err
	}
	a, _, err := p.kernel.Disk(ctx, machine.Boot{Layout: p.s.layout(p.how.Type), ABI: p.how.abi, Args: p.d.Args, Modules: modules,
		Size: p.s.size, Option: p.s.Size})
	return []step.File{{Name: packedDisk, Artifact: a}}, err
}
