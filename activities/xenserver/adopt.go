package xenserver

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/morgana-deploy/morgana/step"
)

// find finds the rollout's VM or makes it. VM.create takes no token, so two calls at once
// make two VMs. Then each call tries to write the UUID of its VM to the VDI under the next
// number of [keyVM]. Only one call succeeds; its VM is the rollout's, and the others are
// removed. A number whose VM was destroyed is followed by the next.
func (b *boot) find(ctx context.Context) error {
	err := b.p.call(ctx, &b.vdi, "VDI.get_by_uuid", b.r.ID)
	for err == nil {
		var taken bool
		if taken, err = b.claim(ctx); taken {
			return err
		}
	}
	if is(err, "UUID_INVALID", "HANDLE_INVALID") {
		return b.noVDI()
	}
	return err
}

// noVDI returns the error of a VDI that was destroyed.
func (b *boot) noVDI(left ...string) error {
	return &step.Error{Kind: step.NotFound, Err: fmt.Errorf("the pool has no VDI %s", b.r.ID), Hint: "deploy again", Left: left}
}

// claim takes the rollout's VM. It returns false if another call has just chosen another.
func (b *boot) claim(ctx context.Context) (taken bool, err error) {
	disk, err := one[vdiRecord](ctx, b.p, "VDI", b.vdi)
	if err != nil {
		return false, err
	}
	chosen, next := b.chosen(disk.OtherConfig)
	// This list has the chosen VM: it was made before it was chosen.
	vms, err := b.p.vms(ctx, func(t step.Tags) bool { return t == b.r.Spec.Tags })
	if err != nil {
		return false, err
	}
	var vm ref // the VM of a call that was cut off, or that goes on
	var rec vmRecord
	for r, is := range vms {
		if have := is.OtherConfig[keyDigest]; have != b.r.Digest {
			return false, &step.Error{Kind: step.Conflict, Hint: "deploy again", Err: fmt.Errorf("the VM %s has image %s, not %s", is.UUID, have, b.r.Digest)}
		}
		switch {
		case is.UUID == chosen:
			b.vm, b.rec, taken = r, is, true
		case rec.UUID == "" || is.UUID < rec.UUID:
			vm, rec = r, is
		}
	}
	if taken {
		delete(vms, b.vm)
		return true, b.discard(ctx, vms)
	}
	if vm == "" {
		if vm, err = b.create(ctx); err != nil {
			return false, err
		}
		rec, err = one[vmRecord](ctx, b.p, "VM", vm)
	}
	if err == nil && rec.OtherConfig[keyUUID] == "" {
		err = b.p.set(ctx, "VM", vm, keyUUID, rec.UUID)
	}
	if is(err, "HANDLE_INVALID") { // another call has chosen another, or the rollout is destroyed
		return false, nil
	}
	if err != nil {
		return false, err
	}
	err = b.p.call(ctx, nil, "VDI.add_to_other_config", b.vdi, next, rec.UUID)
	switch {
	case is(err, "MAP_DUPLICATE_KEY"):
		return false, nil
	case is(err, "HANDLE_INVALID"): // Destroy has removed the VDI, and did not see this VM
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardTimeout)
		defer cancel()
		if b.discard(ctx, map[ref]vmRecord{vm: rec}) != nil {
			return false, b.noVDI("VM " + rec.UUID)
		}
		return false, b.noVDI()
	}
	b.vm, b.rec, b.created = vm, rec, err == nil
	return err == nil, err
}

// chosen returns the UUID of the rollout's VM, "" if there is none yet, and the key of the
// next.
func (b *boot) chosen(otherConfig map[string]string) (uuid, next string) {
	last := 0
	for key, value := range otherConfig {
		if text, ok := strings.CutPrefix(key, keyVM+b.folder+":"); ok {
			if n, err := strconv.Atoi(text); err == nil && n > last {
				last, uuid = n, value
			}
		}
	}
	return uuid, fmt.Sprintf("%s%s:%d", keyVM, b.folder, last+1)
}

// create makes a VM, which is halted.
func (b *boot) create(ctx context.Context) (vm ref, err error) {
	affinity := null
	if b.s.Affinity != "" {
		if affinity, err = b.p.named(ctx, "host", "affinity", b.s.Affinity); err != nil {
			return vm, err
		}
	}
	step.Report(ctx, step.Progress{Note: "making the VM"})
	err = b.p.call(ctx, &vm, "VM.create", b.s.vm(b.r.Spec.Tags, b.r.Digest, affinity))
	return vm, err
}

// discard removes VMs that were not chosen.
func (b *boot) discard(ctx context.Context, vms map[ref]vmRecord) error {
	for r := range vms {
		if err := unless(b.p.call(ctx, nil, "VM.destroy", r), "HANDLE_INVALID"); err != nil {
			return err
		}
	}
	return nil
}

// dress gives the VM its disk and its network interfaces. Another call may give them too.
func (b *boot) dress(ctx context.Context) error {
	if len(b.rec.VBDs) == 0 {
		if err := unless(b.p.call(ctx, nil, "VBD.create", b.s.vbd(b.vm, b.vdi)), "DEVICE_ALREADY_EXISTS"); err != nil {
			return err
		}
	}
	nics, err := b.p.nics(ctx, b.s)
	if err != nil {
		return err
	}
	for i := len(b.rec.VIFs); i < len(nics); i++ {
		vif := newVIF{VM: b.vm, Device: strconv.Itoa(i), Network: nics[i].network, MAC: nics[i].mac, MTU: nics[i].mtu}
		if err := unless(b.p.call(ctx, nil, "VIF.create", vif), "DEVICE_ALREADY_EXISTS"); err != nil {
			return err
		}
	}
	return nil
}
