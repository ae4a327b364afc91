package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/morgana-deploy/morgana/carrier"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/step"
)

// Kernel is a kernel that is being packaged, in a scratch folder.
type Kernel struct {
	// Info is what its bytes say. For a compressed kernel it is of the uncompressed one.
	Info image.Info
	// File is the kernel in the store. After Unpack it is the uncompressed one.
	File step.Artifact

	store  step.Store
	cache  string // for the carrier's packages
	folder string
	path   string // of File, on this host
}

// Kernel fetches a kernel into a scratch folder and identifies it; done removes the folder.
func (r *Machines) Kernel(ctx context.Context, tags step.Tags, a step.Artifact) (k *Kernel, done func() error, err error) {
	folder, done, err := r.Scratch(tags)
	if err != nil {
		return nil, nil, err
	}
	k = &Kernel{File: a, store: r.store, cache: filepath.Join(r.root, ".carrier"), folder: folder, path: filepath.Join(folder, "kernel")}
	if err := k.fetch(ctx); err != nil {
		return nil, nil, errors.Join(err, done())
	}
	return k, done, nil
}

func (k *Kernel) fetch(ctx context.Context) error {
	step.Report(ctx, step.Progress{Total: k.File.Size, Unit: "bytes", Note: "fetching the kernel"})
	if err := k.store.Fetch(ctx, k.File, k.path); err != nil {
		return err
	}
	f, err := os.Open(k.path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	k.Info, err = image.Identify(image.Until(ctx, f), k.File.Size)
	return err
}

// Unpack puts the uncompressed kernel into the store. A kernel that is not compressed stays
// as it is.
func (k *Kernel) Unpack(ctx context.Context) (err error) {
	if k.Info.Compression == "" {
		return nil
	}
	step.Report(ctx, step.Progress{Note: "unpacking the kernel (" + k.Info.Compression + ")"})
	packed, err := os.Open(k.path)
	if err != nil {
		return err
	}
	defer packed.Close() //nolint:errcheck // only read
	k.path = filepath.Join(k.folder, "plain")
	plain, err := os.Create(k.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	if _, _, err := image.DecompressTo(ctx, plain, packed, k.File.Size); err != nil {
		return err
	}
	k.File, err = k.store.Put(ctx, plain)
	return err
}

// Carry puts a carrier's Linux in the place of the kernel, which is uncompressed, and
// returns the ramdisk that runs the kernel. It sets c.Kernel and c.Info.
func (k *Kernel) Carry(ctx context.Context, by carrier.Carriage, c carrier.Cargo) (ramdisk step.File, err error) {
	c.Kernel, c.Info = k.path, k.Info
	linux, path, err := by.Ship(ctx, k.cache, k.folder, c)
	if err != nil {
		return step.File{}, err
	}
	k.path = linux
	if k.File, err = k.put(ctx, linux); err != nil {
		return step.File{}, err
	}
	k.Info = image.Info{ABIs: []string{image.LinuxBzImage}, Machine: "x86_64"}
	a, err := k.put(ctx, path)
	return step.File{Name: carrier.Ramdisk, Artifact: a}, err
}

func (k *Kernel) put(ctx context.Context, path string) (step.Artifact, error) {
	f, err := os.Open(path)
	if err != nil {
		return step.Artifact{}, err
	}
	defer f.Close() //nolint:errcheck // only read
	return k.store.Put(ctx, f)
}

// Modules returns the files that came with the kernel k and that the option modules names.
func Modules(k step.Kernel, names []string) ([]step.File, error) {
	var all []step.File
	for i, name := range names {
		a, err := k.Companion(fmt.Sprintf("modules[%d]", i), name)
		if err != nil {
			return nil, err
		}
		all = append(all, step.File{Name: name, Artifact: a})
	}
	return all, nil
}

// Boot is what Disk puts on a boot disk with the kernel.
type Boot struct {
	Layout  disk.Layout
	ABI     string // see disk.Boot
	Args    string
	Modules []step.File
	// Size is the least size in bytes, and Option the same as the user wrote it.
	Size   int64
	Option string
}

// Disk makes a boot disk with the kernel and puts it into the store, packed: zeros take no
// space there. The raw disk is in the scratch folder, at path.
func (k *Kernel) Disk(ctx context.Context, b Boot) (packed step.Artifact, path string, err error) {
	with := disk.Boot{Kernel: k.path, ABI: b.ABI, Args: b.Args}
	for _, m := range b.Modules {
		path := filepath.Join(k.folder, "module-"+m.Name)
		if err := k.store.Fetch(ctx, m.Artifact, path); err != nil {
			return packed, "", err
		}
		with.Modules = append(with.Modules, disk.Module{Path: path, Name: m.Name})
	}
	path = filepath.Join(k.folder, "disk")
	note := "making the disk"
	if b.ABI == image.Solo5Xen {
		note += "; that GRUB starts a Solo5 xen kernel is experimental"
	}
	step.Report(ctx, step.Progress{Note: note})
	if err := disk.Write(ctx, path, b.Layout, with, b.Size); err != nil {
		return packed, "", TooBig(err, k.folder, "size", b.Option)
	}
	step.Report(ctx, step.Progress{Note: "storing the disk"})
	packed, err = disk.Store(ctx, k.store, path)
	return packed, path, err
}
