// Package carrier lets kernels run on machines for whose devices they have no drivers. A
// Linux kernel of a distribution has the drivers, and a small ramdisk runs the kernel: a
// Solo5 kernel in its tender, or a Linux program as MirageOS makes with -t unix. It needs no
// root. See docs/adr/0012.
package carrier

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/morgana-deploy/morgana/carrier/debian"
	"github.com/morgana-deploy/morgana/carrier/ramdisk"
	"github.com/morgana-deploy/morgana/carrier/task"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/tree"
)

// Carriage has the options of a target that has a carrier.
type Carriage struct {
	// Carrier is the system that runs the kernel: "linux", a Linux with drivers for clouds'
	// devices. It runs a Solo5 spt or hvt kernel in its tender, or a Linux program. Default:
	// none, the kernel boots by itself.
	Carrier string `json:"carrier,omitempty" jsonschema:"enum=linux"`
	// Linux is the carrier's Linux kernel: a package of Debian with its version, as
	// "linux-image-6.1.0-50-cloud-amd64=6.1.176-1", that apt on the worker's host knows, or
	// the path of a .deb there. Default: Debian's newest cloud kernel.
	Linux string `json:"linux,omitempty"`
	// Tender is the Solo5 tender on the worker's host: its path, or its name in PATH or in
	// the opam switch. Default: "solo5-spt" or "solo5-hvt", as the kernel wants.
	Tender string `json:"tender,omitempty"`
	// Respawn is whether the carrier starts the kernel again when it ends. Else it powers
	// the machine off.
	Respawn bool `json:"respawn,omitempty"`
}

const (
	// Loader is the carrier's name in package image's table.
	Loader = "carrier"
	// Ramdisk is the name of the ramdisk's file.
	Ramdisk = "ramdisk"
)

// CommandLine is the command line of the carrier's Linux.
const CommandLine = "console=ttyS0,115200 quiet panic=10 random.trust_cpu=on nvme_core.io_timeout=4294967295"

// Carried reports whether the options have a carrier.
func (o Carriage) Carried() bool { return o.Carrier != "" }

// Read refuses options that are wrong on any host: InvalidSpec.
func (o *Carriage) Read() error {
	switch {
	case !o.Carried() && (o.Linux != "" || o.Tender != "" || o.Respawn):
		field := "respawn"
		if o.Linux != "" {
			field = "linux"
		} else if o.Tender != "" {
			field = "tender"
		}
		return step.Invalid(field, "carrier: linux, or leave it out", "it is for a carrier")
	case o.Carried() && o.Carrier != "linux":
		return step.Invalid("carrier", step.OneOf(o.Carrier, "linux"), "unknown carrier %q", o.Carrier)
	case o.Linux != "" && !filepath.IsAbs(o.Linux) && !packageForm.MatchString(o.Linux):
		return step.Invalid("linux", "the absolute path of a .deb, package=version, or leave it out", "%q is no package", o.Linux)
	}
	return nil
}

// Complete fills in Linux, and refuses a host that lacks the parts for a kernel
// (Unsupported) or the package of Linux (NotFound).
func (o *Carriage) Complete(ctx context.Context, spec step.Spec) (err error) {
	if !o.Carried() {
		return nil
	}
	abi, err := image.Supports(Loader, spec.Origin.ABIs)
	if err != nil {
		return err
	}
	if _, err := findInit(); err != nil {
		return err
	}
	if _, err := o.tender(ctx, abi, spec.Toolchain); err != nil {
		return err
	}
	if o.Linux == "" {
		o.Linux, err = Newest(ctx)
	} else if filepath.IsAbs(o.Linux) {
		if _, missing := os.Stat(o.Linux); missing != nil {
			return &step.Error{Kind: step.NotFound, Field: "linux", Hint: ownFix, Err: missing}
		}
	}
	return err
}

// tender finds the tender for a kernel, "" for a Linux program.
func (o Carriage) tender(ctx context.Context, abi string, from step.Recipe) (string, error) {
	if abi == "" || abi == image.LinuxExecutable {
		return "", nil
	}
	return tree.Tender(ctx, cmp.Or(o.Tender, abi), from) // abi is solo5-spt or solo5-hvt
}

// Needs lists the needs of option carrier, met or not.
func Needs(ctx context.Context) []step.Need {
	const purpose = "carrier: linux"
	own := step.Need{For: purpose, What: initProgram, Optional: true}
	if path, err := findInit(); err == nil {
		own.Found = path
	} else {
		own.Fix = initFix
	}
	linux := step.Need{For: purpose, What: "Debian's " + cloudKernel, Optional: true}
	if version, err := Newest(ctx); err == nil {
		linux.Found = version
	} else {
		linux.Why, linux.Fix = err.Error(), ownFix
	}
	return []step.Need{own, linux, tree.TenderNeed(ctx, image.Solo5SPT, "run "+image.Solo5SPT+" kernels by "+purpose)}
}

// Cargo is what is carried.
type Cargo struct {
	// Kernel is the path of the kernel, uncompressed, and Info what its bytes say.
	Kernel string
	Info   image.Info
	// Args is the kernel's command line. The words {address} and {gateway} stand for what
	// DHCP gives to the machine's first interface.
	Args string
	// Interfaces is the number of the machine's network interfaces.
	Interfaces int
	// From is how the kernel is made. The tender may be in its opam switch.
	From step.Recipe
}

// Ship makes the Linux kernel and the ramdisk in a folder, and returns their paths. cache is
// a folder that keeps Debian's packages. The bytes depend only on o, what is carried, the
// package, the tender and the init.
func (o Carriage) Ship(ctx context.Context, cache, folder string, c Cargo) (kernel, ramdisk string, err error) {
	abi, err := image.Supports(Loader, c.Info.ABIs)
	if err != nil {
		return "", "", err
	}
	entries, err := o.programs(ctx, abi, c)
	if err != nil {
		return "", "", err
	}
	names := drivers
	if abi != image.LinuxExecutable {
		names = slices.Concat(names, redirection)
	}
	if abi == image.Solo5HVT {
		names = slices.Concat(names, kvm)
	}
	kernel, modules, err := Kernel(ctx, cache, folder, o.Linux, names)
	if err != nil {
		return "", "", err
	}
	step.Report(ctx, step.Progress{Note: "making the ramdisk"})
	ramdisk = filepath.Join(folder, Ramdisk)
	return kernel, ramdisk, writeRamdisk(ramdisk, append(entries, modules...))
}

// Kernel puts the Linux kernel of a package, as in Carriage.Linux, into a folder. modules are
// entries of a ramdisk: modules of names, if the package has them, each behind its own
// dependencies.
func Kernel(ctx context.Context, cache, folder, deb string, names []string) (kernel string, modules []ramdisk.Entry, err error) {
	if !filepath.IsAbs(deb) {
		if deb, err = debian.Fetch(ctx, cache, deb); err != nil {
			return "", nil, ofLinux(err)
		}
	}
	unpacked, err := os.MkdirTemp(folder, "linux-")
	if err != nil {
		return "", nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(unpacked)) }()
	l, err := unpackDeb(ctx, deb, unpacked)
	if err != nil {
		return "", nil, err
	}
	kernel = filepath.Join(folder, "linux")
	if modules, err = l.choose(ctx, names); err == nil {
		err = os.Rename(l.kernel, kernel)
	}
	return kernel, modules, err
}

// programs returns the entries of the ramdisk except the modules.
func (o Carriage) programs(ctx context.Context, abi string, c Cargo) ([]ramdisk.Entry, error) {
	t := task.Task{Interfaces: c.Interfaces, Respawn: o.Respawn}
	entries, err := program(c.Kernel, task.Kernel[1:], "kernel")
	if abi != image.LinuxExecutable {
		entries, err = []ramdisk.Entry{{Name: task.Kernel[1:], Mode: 0o755, Path: c.Kernel}}, nil
	}
	if err != nil {
		return nil, err
	}
	tender, err := o.tender(ctx, abi, c.From)
	if err != nil {
		return nil, err
	}
	if tender == "" {
		if strings.ContainsAny(c.Args, `'"\`) {
			return nil, step.Invalid("args", "write it without quotes and backslashes", "the arguments of a Linux program are split at blanks")
		}
		t.Args = strings.Fields(c.Args)
	} else {
		with, err := program(tender, abi, "tender")
		if err != nil {
			return nil, err
		}
		entries = append(entries, with...)
		t.Tender = "/" + abi
		if c.Args != "" {
			t.Args = strings.Split(c.Args, " ") // the tender joins them by blanks
		}
		for _, d := range c.Info.Devices {
			if d.Type == image.NetBasic {
				t.Networks = append(t.Networks, d.Name)
			} else {
				t.Blocks = append(t.Blocks, d.Name)
			}
		}
		t.Interfaces = len(t.Networks)
	}
	text, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	init, err := findInit()
	if err != nil {
		return nil, err
	}
	entries = append(entries, ramdisk.Entry{Name: "init", Mode: 0o755, Path: init}, ramdisk.Entry{Name: task.File[1:], Mode: 0o644, Data: text})
	for _, folder := range []string{"dev", "etc", "proc", "sys", "tmp"} {
		entries = append(entries, ramdisk.Entry{Name: folder, Mode: os.ModeDir | 0o755})
	}
	return entries, nil
}

func writeRamdisk(path string, entries []ramdisk.Entry) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	packed := gzip.NewWriter(f)
	buffered := bufio.NewWriter(packed)
	return errors.Join(ramdisk.Write(buffered, entries), buffered.Flush(), packed.Close())
}
