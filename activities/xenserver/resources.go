package xenserver

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/morgana-deploy/morgana/step"
)

// Further keys of other_config.
const (
	// keyUse and a rollout's folder name make the key by which that rollout uses a VDI. A VDI
	// of the same image is not made anew: each rollout that takes it adds its key. Destroy
	// removes a VDI that no other rollout uses.
	keyUse = "morgana:use:"
	// keyVM, a rollout's folder name and a number make the key of a VDI that has the UUID of
	// a VM of that rollout. The VM of the highest number is the rollout's.
	keyVM = "morgana:vm:"
	// keyStart and the reference of a task make the key of a VM which that task starts, or has
	// started. A worker that dies leaves the task, so Destroy removes it.
	keyStart = "morgana:start:"
	// keyReady says how a VM became ready.
	keyReady = "morgana:ready"
)

// set adds a key to the other_config of an object, unless it has the key.
func (p *pool) set(ctx context.Context, class string, of ref, key, value string) error {
	return unless(p.call(ctx, nil, class+".add_to_other_config", of, key, value), "MAP_DUPLICATE_KEY")
}

// users returns the rollouts that use a VDI: its owner if it is half made.
func users(vdi vdiRecord) (all []step.Tags) {
	of, ours := owner(vdi.UUID, vdi.OtherConfig)
	if !ours {
		return nil
	}
	for key := range vdi.OtherConfig {
		if folder, ok := strings.CutPrefix(key, keyUse); ok {
			if of, ok := step.ParseFolder(folder); ok {
				all = append(all, of)
			}
		}
	}
	if len(all) == 0 {
		all = append(all, of)
	}
	return all
}

// importName and a rollout's folder name make the name of the task of an import: a task has
// no other_config when it is created.
const importName = "morgana import "

// importOf returns the rollout whose import has a task, false if none has.
func importOf(task taskRecord) (step.Tags, bool) {
	folder, ok := strings.CutPrefix(task.Name, importName)
	of, named := step.ParseFolder(folder)
	return of, ok && named
}

// The values of a VM's power_state. A VM of another value is waited for.
const (
	halted    = "Halted"
	paused    = "Paused"
	running   = "Running"
	suspended = "Suspended"
)

// vms returns the VMs of rollouts that match.
func (p *pool) vms(ctx context.Context, match func(step.Tags) bool) (map[ref]vmRecord, error) {
	found, err := all[vmRecord](ctx, p, "VM")
	maps.DeleteFunc(found, func(_ ref, vm vmRecord) bool { return !isOurs(vm) || !match(rolloutOf(vm)) })
	return found, err
}

// isOurs reports whether a rollout made a VM. A template or a snapshot may have its keys.
func isOurs(vm vmRecord) bool {
	_, ours := owner(vm.UUID, vm.OtherConfig)
	return ours && !vm.IsTemplate && !vm.IsSnapshot && !vm.IsControlDomain
}

func rolloutOf(vm vmRecord) step.Tags {
	t, _ := owner(vm.UUID, vm.OtherConfig)
	return t
}

// vdis returns the VDIs of which a rollout that matches is an owner or a user.
func (p *pool) vdis(ctx context.Context, match func(step.Tags) bool) (map[ref]vdiRecord, error) {
	found, err := all[vdiRecord](ctx, p, "VDI")
	maps.DeleteFunc(found, func(_ ref, vdi vdiRecord) bool {
		return vdi.IsSnapshot || !slices.ContainsFunc(users(vdi), match)
	})
	return found, err
}

// vm returns the VM of a machine, the null reference if there is none.
func (p *pool) vm(ctx context.Context, m step.Machine) (ref, vmRecord, error) {
	t := m.Registration.Spec.Tags
	if m.ID == "" { // of a rollout whose Boot has not ended
		found, err := p.vms(ctx, t.Match)
		for r, vm := range found {
			return r, vm, err
		}
		return null, vmRecord{}, err
	}
	var r ref
	err := p.call(ctx, &r, "VM.get_by_uuid", m.ID)
	if err != nil {
		return null, vmRecord{}, unless(err, "UUID_INVALID")
	}
	vm, err := one[vmRecord](ctx, p, "VM", r)
	if err != nil || !isOurs(vm) || !t.Match(rolloutOf(vm)) {
		return null, vm, unless(err, "HANDLE_INVALID")
	}
	return r, vm, nil
}

// unless returns err, nil if it is a refusal with one of the codes.
func unless(err error, codes ...string) error {
	if is(err, codes...) {
		return nil
	}
	return err
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// named returns the only object of a class, as "SR", that has this name or UUID. field is the
// option that has it.
func (p *pool) named(ctx context.Context, class, field, given string) (ref, error) {
	what := map[string]string{"SR": "storage repository"}[class]
	if what == "" {
		what = class
	}
	if uuidForm.MatchString(given) {
		var found ref
		err := p.call(ctx, &found, class+".get_by_uuid", given)
		if is(err, "UUID_INVALID") {
			return null, step.Invalid(field, "xe "+strings.ToLower(class)+"-list tells those of the pool", "the pool has no %s %s", what, given)
		}
		return found, err
	}
	var found []ref
	err := p.call(ctx, &found, class+".get_by_name_label", given)
	switch {
	case err != nil:
		return null, err
	case len(found) == 0:
		return null, step.Invalid(field, "xe "+strings.ToLower(class)+"-list tells those of the pool", "the pool has no %s named %q", what, given)
	case len(found) > 1:
		return null, step.Invalid(field, "give its UUID, by xe "+strings.ToLower(class)+"-list", "the pool has %d of %s named %q", len(found), what, given)
	}
	return found[0], nil
}

// nic is one network interface of a VM.
type nic struct {
	network ref
	mac     string
	mtu     int64
}

// nics returns the interfaces that the options ask for.
func (p *pool) nics(ctx context.Context, s settings) (nics []nic, err error) {
	if s.Network == noNetwork {
		return nil, nil
	}
	for i, n := range s.networks {
		field := "network"
		if s.Network == "" {
			field = fmt.Sprintf("networks[%d].network", i)
		}
		r, err := p.named(ctx, "network", field, n.Network)
		if err != nil {
			return nil, err
		}
		rec, err := one[networkRecord](ctx, p, "network", r)
		if err != nil {
			return nil, err
		}
		nics = append(nics, nic{r, n.MAC, integer(rec.MTU)})
	}
	if len(nics) > 0 {
		return nics, nil
	}
	networks, err := all[networkRecord](ctx, p, "network")
	if err != nil {
		return nil, err
	}
	var names []string
	for r, n := range networks {
		if len(n.PIFs) > 0 {
			nics, names = append(nics, nic{r, "", integer(n.MTU)}), append(names, n.Name)
		}
	}
	if len(nics) != 1 {
		slices.Sort(names)
		return nil, step.Invalid("network", "name one, or network: none", "the pool has %d networks with a physical interface (%s)", len(names), strings.Join(names, ", "))
	}
	return nics, nil
}

// reach opens the pool of a spec, even of a spec that Check refuses: an earlier generation
// may have been there. The pool is nil if the options do not name one.
func (t *Target) reach(ctx context.Context, spec step.Spec) (*pool, settings, error) {
	var s settings
	if err := json.Unmarshal(spec.Options, &s.Options); err != nil && len(spec.Options) > 0 {
		return nil, s, nil
	}
	err := s.readPlace()
	if err == nil {
		_, err = s.login()
	}
	if step.KindOf(err) == step.InvalidSpec {
		return nil, s, nil
	}
	var p *pool
	if err == nil {
		p, err = t.connect(ctx, s)
	}
	return p, s, err
}
