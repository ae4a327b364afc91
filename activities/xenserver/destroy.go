package xenserver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// busy is how long a VDI may be in use after its VM was destroyed or its import was cut off, and
// a VM by another call.
const busy = 2 * time.Minute

// Destroy halts and destroys the VMs whose tags match. Then each VDI loses its use by these
// rollouts; one that no rollout uses any more is destroyed, and so are the tasks of imports.
// With KeepImage VDIs and tasks stay. A VM that cannot be destroyed, as one whose
// blocked_operations forbid it, is in Error.Left with its VDI; the rest is removed.
func (t *Target) Destroy(ctx context.Context, what step.Removal) (_ step.Destroyed, err error) {
	defer step.SetOp(fmt.Sprintf("destroy %s.%s", what.Spec.App, what.Spec.Target), &err)
	d := &destroy{t: t, what: what}
	if last, ok := step.Resume(ctx); ok {
		_ = json.Unmarshal(last.State, &d.done.Removed) // without it the report lacks what an earlier try removed
	}
	if err = d.run(ctx); err == nil {
		err = step.Leaving(d.err, d.left)
	}
	return d.done, err
}

// destroy is one call of Destroy.
type destroy struct {
	t    *Target
	p    *pool
	what step.Removal
	done step.Destroyed
	left []string
	err  error // the first one
}

func (d *destroy) run(ctx context.Context) (err error) {
	spec := d.what.Spec
	// Without app and target the tags would match other deployments.
	if err := errors.Join(step.CheckName("app", spec.App), step.CheckName("target", spec.Target)); err != nil {
		return err
	}
	if d.p, _, err = d.t.reach(ctx, spec); err != nil || d.p == nil {
		return err
	}
	left, err := d.vms(ctx, nil)
	if err != nil || d.what.KeepImage {
		return cmp.Or(err, ctx.Err())
	}
	if err := d.tasks(ctx); err != nil {
		return err
	}
	vdis, err := d.p.vdis(ctx, d.what.Match)
	if err != nil {
		return err
	}
	for _, vdi := range slices.Sorted(maps.Keys(vdis)) {
		d.vdi(ctx, vdi, vdis[vdi])
	}
	// A Boot that goes on may have made a VM after the first look. It makes none without its VDI.
	_, err = d.vms(ctx, left)
	return cmp.Or(err, ctx.Err())
}

// vms destroys the VMs but those of left. It returns those that are left.
func (d *destroy) vms(ctx context.Context, left map[ref]vmRecord) (map[ref]vmRecord, error) {
	vms, err := d.p.vms(ctx, d.what.Match)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(vms, func(vm ref, _ vmRecord) bool { _, known := left[vm]; return known })
	if err := d.moved(ctx, vms); err != nil {
		return nil, err
	}
	for _, vm := range slices.Sorted(maps.Keys(vms)) {
		step.Report(ctx, step.Progress{Note: "destroying " + vms[vm].Name})
		d.note(ctx, "VM "+vms[vm].UUID, d.vm(ctx, vm, vms[vm]))
		_ = os.RemoveAll(d.t.tape(vms[vm]).Path) // a console that stays does no harm
	}
	return vms, nil
}

// moved gives the VDIs of VMs their own UUIDs as [keyUUID]. One that a user has moved to another
// SR has another UUID than before.
func (d *destroy) moved(ctx context.Context, vms map[ref]vmRecord) error {
	var vbds []ref
	for _, vm := range vms {
		vbds = append(vbds, vm.VBDs...)
	}
	if len(vbds) == 0 {
		return nil
	}
	vdis, err := all[vdiRecord](ctx, d.p, "VDI")
	if err != nil {
		return err
	}
	for vdi, rec := range vdis {
		before := rec.OtherConfig[keyUUID]
		_, made := owner(before, rec.OtherConfig)
		if !made || before == "" || before == rec.UUID || !slices.ContainsFunc(rec.VBDs, func(vbd ref) bool { return slices.Contains(vbds, vbd) }) {
			continue
		}
		if err := d.p.call(ctx, nil, "VDI.remove_from_other_config", vdi, keyUUID); err != nil {
			return err
		}
		if err := d.p.set(ctx, "VDI", vdi, keyUUID, rec.UUID); err != nil {
			return err
		}
	}
	return nil
}

// note records that a resource was removed or that it was not. A resource that another call
// has removed is neither.
func (d *destroy) note(ctx context.Context, what string, err error) {
	switch {
	case err == nil:
		d.done.Removed = append(d.done.Removed, what)
		state, _ := json.Marshal(d.done.Removed) // strings
		step.Report(ctx, step.Progress{Note: "destroyed " + what, State: state})
	case !is(err, "HANDLE_INVALID") && ctx.Err() == nil:
		d.left = append(d.left, what)
		if d.err == nil {
			d.err = err
		}
	}
}

// vm halts a VM, destroys the tasks of its starts, and destroys it. A start that was cut off may
// have it run after it was halted.
func (d *destroy) vm(ctx context.Context, vm ref, rec vmRecord) error {
	for key := range rec.OtherConfig {
		if task, ok := strings.CutPrefix(key, keyStart); ok {
			// One that goes on is only marked. A second mark is refused.
			if err := unless(d.p.call(ctx, nil, "task.destroy", ref(task)), "HANDLE_INVALID", "MAP_DUPLICATE_KEY", foreignTask); err != nil {
				return err
			}
		}
	}
	for again := false; ; again = true {
		err := d.p.stop(ctx, vm, rec.Name)
		if err == nil {
			err = d.p.whenFree(ctx, busy, "VM.destroy", vm, "VM "+rec.Name)
		}
		if again || !is(err, "VM_BAD_POWER_STATE") {
			return err
		}
	}
}

// stop halts a VM without asking its guest. A halted one stays so. The call is no task, which
// would be left if the answer with its reference were lost.
func (p *pool) stop(ctx context.Context, vm ref, name string) error {
	return unless(p.whenFree(ctx, busy, "VM.hard_shutdown", vm, "VM "+name), "VM_BAD_POWER_STATE")
}

// whenFree calls a method of an object again and again, up to a limit, as long as another call
// uses the object. It looks for other operations first: xapi waits up to two hours for their end.
// VM.hard_shutdown ends all others but its own kind.
func (p *pool) whenFree(ctx context.Context, limit time.Duration, method string, of ref, name string) error {
	end := time.Now().Add(limit)
	class, _, _ := strings.Cut(method, ".")
	for pause := 100 * time.Millisecond; ; pause = min(pause*3/2, 5*time.Second) {
		var others map[string]string
		err := p.call(ctx, &others, class+".get_current_operations", of)
		for _, operation := range others {
			if method == "VM.hard_shutdown" && operation != "hard_shutdown" {
				continue
			}
			err = explained(&apiError{"OTHER_OPERATION_IN_PROGRESS", []string{class + "." + operation}})
		}
		if err == nil {
			err = p.call(ctx, nil, method, of)
		}
		if !is(err, "VDI_IN_USE", "OTHER_OPERATION_IN_PROGRESS") || time.Now().After(end) {
			return err
		}
		step.Report(ctx, step.Progress{Note: name + " is busy with another operation"})
		if err := step.Pause(ctx, pause); err != nil {
			return err
		}
	}
}

// foreignTask is the code by which a pool refuses to destroy a task whose session has ended. Only a
// pool operator may. The pool removes the task after a day.
const foreignTask = "RBAC_PERMISSION_DENIED"

// tasks destroys the tasks of imports that were cut off.
func (d *destroy) tasks(ctx context.Context) error {
	tasks, err := all[taskRecord](ctx, d.p, "task")
	if err != nil {
		return err
	}
	for r, task := range tasks {
		if of, ok := importOf(task); ok && d.what.Match(of) {
			if err := d.p.abandon(ctx, r); !is(err, foreignTask) {
				d.note(ctx, "task "+task.UUID, err)
			}
		}
	}
	return nil
}

// vdi ends the use of a VDI by the rollouts, and destroys it if it has no other user.
func (d *destroy) vdi(ctx context.Context, vdi ref, rec vdiRecord) {
	what := "VDI " + rec.UUID
	if slices.ContainsFunc(users(rec), func(u step.Tags) bool { return !d.what.Match(u) }) {
		d.note(ctx, "the use of "+what, d.disuse(ctx, vdi, rec))
		return
	}
	step.Report(ctx, step.Progress{Note: "destroying " + rec.Name})
	d.note(ctx, what, d.free(ctx, vdi, rec.Name))
}

// disuse removes the keys of the rollouts from a VDI.
func (d *destroy) disuse(ctx context.Context, vdi ref, rec vdiRecord) error {
	for key := range rec.OtherConfig {
		folder, ok := strings.CutPrefix(key, keyUse)
		if !ok {
			if folder, ok = strings.CutPrefix(key, keyVM); ok {
				folder, _, _ = strings.Cut(folder, ":")
			}
		}
		if of, parsed := step.ParseFolder(folder); !ok || !parsed || !d.what.Match(of) {
			continue
		}
		if err := d.p.call(ctx, nil, "VDI.remove_from_other_config", vdi, key); err != nil {
			return err
		}
	}
	return nil
}

// free destroys a VDI. It is in use for a moment after its VM was destroyed, and until the
// pool has noticed that its import was cut off.
func (d *destroy) free(ctx context.Context, vdi ref, name string) error {
	limit := busy
	if len(d.left) > 0 { // a VM may have it
		limit = 0
	}
	return d.p.whenFree(ctx, limit, "VDI.destroy", vdi, "VDI "+name)
}
