package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"slices"
	"strings"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/step"
)

// Check refuses, in seconds and creating nothing: options that are wrong, or a machine type
// or processor that this QEMU does not have (InvalidSpec); a kernel that QEMU or GRUB
// cannot load, or a host without QEMU, UEFI firmware, the tools for a disk, the KVM asked
// for or enough memory (Unsupported); a disk or bridge that is not there (NotFound); a disk
// or tap that the worker may not have (Unauthorized); a port, disk or tap that others hold
// (Conflict). The spec returned has Host, Alone, and all options written out.
func (t *Target) Check(ctx context.Context, spec step.Spec) (step.Spec, error) {
	const op = "check qemu target"
	if _, err := t.machines.Of(spec.Tags); err != nil {
		return spec, step.During(op, err)
	}
	s, err := complete(spec.Options)
	if err != nil {
		return spec, step.During(op, err)
	}
	for _, check := range []func() error{
		func() error { _, err := s.starts(spec.Origin.ABIs); return err },
		func() error { return s.Complete(ctx, spec) },
		func() error { return s.checkDevices(spec.Origin) },
		func() error { return checkMemory(s.Memory) },
		func() error { _, err := t.accelerate(ctx, s); return err },
		func() error { return s.checkBoot(ctx) },
		func() error { return t.machines.CheckDisks(ctx, spec.Tags, given(s.Disks)) },
		func() error { return s.checkTaps(t.machines, spec.Tags) },
		func() error { return t.checkPorts(ctx, spec.Tags, s.forwards) },
	} {
		if err := check(); err != nil {
			return spec, step.During(op, err)
		}
	}
	spec.Host = t.site.Host
	if spec.Options, err = json.Marshal(s.Options); err == nil {
		spec.Alone, err = t.machines.Alone(spec.Tags)
	}
	return spec, err
}

// checkDevices refuses options that do not give a Solo5 kernel its devices, as far as its
// source tells them.
func (s *settings) checkDevices(from step.Origin) (err error) {
	if !slices.Contains(from.ABIs, image.Solo5Virtio) {
		return nil
	}
	m := &manifest{}
	for _, name := range from.Networks {
		m.devices = append(m.devices, image.Device{Name: name, Type: image.NetBasic})
	}
	for _, name := range from.Blocks {
		m.devices = append(m.devices, image.Device{Name: name, Type: image.BlockBasic})
	}
	if len(from.Networks) > 0 {
		_, err = m.bind(image.NetBasic, "network", s.networkNames())
		err = s.blameNetwork(err)
	}
	if len(from.Blocks) > 0 && err == nil {
		_, err = m.bind(image.BlockBasic, "disk", s.diskNames())
	}
	return err
}

// checkBoot checks that this host can make the boot disk and start it.
func (s *settings) checkBoot(ctx context.Context) error {
	if !s.disk() {
		return nil
	}
	if s.Via == viaUEFI {
		if _, err := findFirmware(s.Firmware); err != nil {
			return err
		}
	}
	return disk.Missing(ctx, s.layout())
}

func (s *settings) layout() disk.Layout {
	if s.Via == viaUEFI {
		return disk.UEFI
	}
	return disk.BIOS
}

// program finds QEMU.
func program(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	e := &step.Error{Kind: step.Unsupported, Err: fmt.Errorf("%s is not installed", name), Hint: qemuFix}
	if name == defaultQEMU {
		return "", e
	}
	e.Field, e.Hint = "qemu", "correct it, or leave it out for "+defaultQEMU
	switch {
	case !strings.Contains(name, "/"):
	case errors.Is(err, fs.ErrNotExist):
		e.Err = fmt.Errorf("this host has no %s", name)
	case errors.Is(err, fs.ErrPermission):
		e.Err = fmt.Errorf("the worker may not run %s", name)
	default:
		e.Err = fmt.Errorf("the worker cannot run %s: %w", name, cause(err))
	}
	return "", e
}
