package local

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

// Package returns the uncompressed kernel and machine.json: the options with their defaults
// written out, and the kernel's ABI. It refuses a kernel that cannot run here
// (Unsupported). It refuses options that do not fit the kernel: devices other than those of
// its manifest, or another kernel's tender (InvalidSpec).
func (t *Target) Package(ctx context.Context, k step.Kernel) (img step.Image, err error) {
	defer step.SetOp("package for local", &err)
	if _, err := image.Supports(Kind, k.ABIs); err != nil {
		return img, err
	}
	s, err := readOptions(k.Spec.Options)
	if err != nil {
		return img, err
	}
	kernel, done, err := t.machines.Kernel(ctx, k.Spec.Tags, k.File)
	if err != nil {
		return img, err
	}
	defer func() { err = errors.Join(err, done()) }()
	if err := s.fit(kernel.Info); err != nil {
		return img, err
	}
	if k.Spec.Host != "" && k.Spec.Host == t.site.Host { // else Boot looks for it
		if _, err := s.tender(ctx, k.Spec.Toolchain); err != nil {
			return img, err
		}
	}
	if err := kernel.Unpack(ctx); err != nil {
		return img, err
	}
	return t.machines.Image(ctx, k.Spec, s.ABI, s, step.File{Name: kernelFile, Artifact: kernel.File})
}

// fit sets the ABI by which the kernel is started, or says why these options do not fit it.
func (s *settings) fit(info image.Info) error {
	if err := image.CheckMachine(info, processor()); err != nil {
		return err
	}
	abi, err := image.Supports(Kind, info.ABIs)
	if err != nil {
		return err
	}
	if abi == image.LinuxExecutable {
		err = s.fitLinux()
	} else {
		err = s.fitSolo5(info.Devices, image.NetBasic, image.BlockBasic)
	}
	s.ABI = abi
	return err
}

// processor is this host's processor, as package image names it.
func processor() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	}
	return runtime.GOARCH
}

func (s *settings) fitLinux() error {
	const hint = "leave it out: the kernel is a Linux program, which no tender runs"
	if s.Memory != 0 {
		return step.Invalid("memory", hint, "it has no meaning here")
	}
	if s.Tender != "" {
		return step.Invalid("tender", hint, "it has no meaning here")
	}
	return s.fitNames()
}

// fitSolo5 checks that the options give exactly the manifest's devices of the types. The
// tender would refuse others only once it is started.
func (s *settings) fitSolo5(devices []image.Device, types ...string) error {
	for _, kind := range []struct{ what, option, mft, example string }{
		{"network device", "networks", image.NetBasic, "{name: %s, tap: auto}"},
		{"block device", "blocks", image.BlockBasic, "{name: %s, size: 64}"},
	} {
		if !slices.Contains(types, kind.mft) {
			continue
		}
		var has, given []string
		for _, d := range devices {
			if d.Type == kind.mft {
				has = append(has, d.Name)
			}
		}
		given = s.names(map[string]string{"networks": "tap", "blocks": "block"}[kind.option])
		for i, name := range given {
			if !slices.Contains(has, name) {
				return step.Invalid(fmt.Sprintf("%s[%d].name", kind.option, i), deviceHint(name, has, kind.what+" in the kernel's manifest"),
					"the kernel has no %s %q", kind.what, name)
			}
		}
		for _, name := range has {
			if !slices.Contains(given, name) {
				return step.Invalid(kind.option, "add "+fmt.Sprintf(kind.example, name), "the kernel's %s %q is not given", kind.what, name)
			}
		}
	}
	return nil
}
