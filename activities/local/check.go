package local

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/tree"
)

// Check refuses, in seconds and creating nothing: options that are wrong (InvalidSpec); a
// kernel that cannot run here, a host without the tender, a working KVM or tun devices
// (Unsupported); a worker that may not make taps (Unauthorized); a bridge or block device
// that is not there (NotFound) or that another machine has (Conflict). Faults that depend
// on a kernel not built yet are left to Package and Boot. The spec returned has Host,
// Alone, and all options written out.
func (t *Target) Check(ctx context.Context, spec step.Spec) (_ step.Spec, err error) {
	defer step.SetOp("check local target", &err)
	if _, err := t.machines.Of(spec.Tags); err != nil {
		return spec, err
	}
	s, err := complete(spec.Options)
	if err != nil {
		return spec, err
	}
	if spec.Options, err = json.Marshal(s.Options); err != nil {
		return spec, err
	}
	if s.ABI, err = image.Supports(Kind, spec.Origin.ABIs); err != nil {
		return spec, err
	}
	switch s.ABI {
	case image.LinuxExecutable:
		err = s.fitNames()
	case image.Solo5SPT, image.Solo5HVT:
		err = s.fitSource(spec.Origin)
	}
	if err != nil {
		return spec, err
	}
	if spec.Origin.Kernel != nil {
		kernel, done, err := t.machines.Kernel(ctx, spec.Tags, *spec.Origin.Kernel)
		switch {
		case step.KindOf(err) == step.NotFound:
			// A plan puts no kernel into the store. Package tells whether it fits.
		case err != nil:
			return spec, err
		default:
			if err := errors.Join(s.fit(kernel.Info), done()); err != nil {
				return spec, err
			}
		}
	}
	if _, err := s.tender(ctx, spec.Toolchain); err != nil {
		return spec, err
	}
	for _, tap := range s.taps(spec.Tags) {
		if err := t.machines.CheckTap(tap); err != nil {
			return spec, err
		}
	}
	if err := t.machines.CheckDisks(ctx, spec.Tags, given(s.Blocks)); err != nil {
		return spec, err
	}
	spec.Host = t.site.Host
	spec.Alone, err = t.alone(ctx, spec.Tags)
	return spec, err
}

// fitSource checks that the options give a Solo5 kernel the devices that its source tells
// of.
func (s *settings) fitSource(from step.Origin) error {
	var devices []image.Device
	var told []string
	for kind, names := range map[string][]string{image.NetBasic: from.Networks, image.BlockBasic: from.Blocks} {
		for _, name := range names {
			devices = append(devices, image.Device{Name: name, Type: kind})
			told = append(told, kind)
		}
	}
	return s.fitSolo5(devices, told...)
}

// alone reports whether this host has nothing of another life of the same deployment.
func (t *Target) alone(ctx context.Context, tags step.Tags) (bool, error) {
	alone, err := t.machines.Alone(tags)
	if !alone || err != nil {
		return false, err
	}
	left, err := t.orphans(ctx, machine.OtherLives(tags))
	return len(left) == 0, err
}

// Needs lists the needs of local machines, met or not.
func (t *Target) Needs(ctx context.Context) []step.Need {
	needs := machine.TapNeeds()
	for _, abi := range []string{image.Solo5SPT, image.Solo5HVT} {
		needs = append(needs, tree.TenderNeed(ctx, abi, "run "+abi+" kernels"))
	}
	kvm := step.Need{For: "run solo5-hvt kernels", What: "KVM", Optional: true}
	why, err := machine.TryKVM()
	if err != nil {
		why = err.Error()
	}
	if why == "" {
		kvm.Found = machine.KVM
	} else {
		kvm.Why, kvm.Fix = why, kvmInstead+"; or "+machine.KVMFix
	}
	return append(needs, kvm)
}
