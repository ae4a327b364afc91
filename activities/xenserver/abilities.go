package xenserver

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// addresses returns the address of option address, or those that the guest's tools tell.
func (p *pool) addresses(ctx context.Context, s settings, vm vmRecord) (all []step.Address, err error) {
	kind := "ip"
	if s.ExpectPort != 0 {
		kind = "tcp"
	}
	if s.Address != "" {
		return []step.Address{{Kind: kind, Address: s.Address, Port: s.ExpectPort}}, nil
	}
	if vm.GuestMetrics == "" || vm.GuestMetrics == null {
		return nil, nil
	}
	guest, err := one[guestRecord](ctx, p, "VM_guest_metrics", vm.GuestMetrics)
	if err != nil {
		return nil, unless(err, "HANDLE_INVALID")
	}
	for _, key := range slices.Sorted(maps.Keys(guest.Networks)) {
		// As "0/ip", "0/ipv4/0", "0/ipv6/0".
		if ip := guest.Networks[key]; strings.Contains(key, "/ip") && ip != "" && !slices.ContainsFunc(all, func(a step.Address) bool { return a.Address == ip }) {
			all = append(all, step.Address{Kind: kind, Address: ip, Port: s.ExpectPort})
		}
	}
	return all, nil
}

// List returns the VMs, VDIs and tasks of rollouts in the pool, half-made ones too. A VDI is
// listed once for each rollout that uses it.
func (t *Target) List(ctx context.Context, spec step.Spec) (found []step.Resource, err error) {
	defer step.SetOp("list pool", &err)
	p, s, err := t.reach(ctx, spec)
	if err != nil || p == nil {
		return nil, err
	}
	wanted := machine.Wanted(spec.Tags)
	add := func(of step.Tags, kind, id string) {
		if wanted(of) {
			found = append(found, step.Resource{Tags: of, Kind: kind, ID: id, Where: s.Host})
		}
	}
	vms, err := p.vms(ctx, wanted)
	if err != nil {
		return nil, err
	}
	for _, vm := range vms {
		add(rolloutOf(vm), "VM", vm.UUID)
	}
	vdis, err := p.vdis(ctx, wanted)
	if err != nil {
		return nil, err
	}
	for _, vdi := range vdis {
		for _, of := range users(vdi) {
			add(of, "VDI", vdi.UUID)
		}
	}
	tasks, err := all[taskRecord](ctx, p, "task")
	for _, task := range tasks {
		if of, ok := importOf(task); ok {
			add(of, "task", task.UUID)
		}
	}
	return found, err
}
