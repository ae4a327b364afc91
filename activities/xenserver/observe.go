package xenserver

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// Observe asks the pool for the VM's state. A VM that shut itself down is Ended until it is
// destroyed, as one that somebody halted. It is no success if a host has failed meanwhile, which
// halts its VMs too. One that crashed is paused, and Ended.
func (t *Target) Observe(ctx context.Context, m step.Machine) (h step.Health, err error) {
	defer step.SetOp("observe VM", &err)
	h.State = step.Gone
	p, s, err := t.reach(ctx, m.Registration.Spec)
	if err != nil || p == nil {
		return h, err
	}
	vm, there, err := p.watch.vm(ctx, p, m)
	if err != nil || !there {
		return h, err
	}
	switch vm.PowerState {
	case halted:
		h = step.Health{State: step.Ended, How: "shut down", Success: true}
		if status := machine.Solo5Failure(machine.Tail(t.tape(vm).File(machine.ConsoleFile))); status != "" {
			h.How, h.Success = status, false
		} else if h.Success, err = p.outlived(ctx, vm); err == nil && !h.Success {
			h.How = "halted; its host may have failed"
		}
	case paused:
		h = step.Health{State: step.Ended, How: crashed}
	default:
		h.State = step.Running
		h.Addresses, err = p.addresses(ctx, s, vm)
	}
	return h, err
}

// outlived reports whether the hosts of the pool have run since a VM was started. Nothing tells
// which of them a halted VM was on.
func (p *pool) outlived(ctx context.Context, vm vmRecord) (bool, error) {
	began, err := one[vmMetricsRecord](ctx, p, "VM_metrics", vm.Metrics)
	if err != nil {
		return false, unless(err, "HANDLE_INVALID")
	}
	since, err := time.Parse("20060102T15:04:05Z", strings.ReplaceAll(began.StartTime, "-", ""))
	if err != nil {
		return false, nil //nolint:nilerr // a time that cannot be read proves nothing
	}
	hosts, err := all[hostRecord](ctx, p, "host")
	if err != nil {
		return false, err
	}
	metrics, err := all[hostMetricsRecord](ctx, p, "host_metrics")
	for _, h := range hosts {
		booted, _ := strconv.ParseFloat(h.OtherConfig["boot_time"], 64) // 0 if the host does not tell it
		if !metrics[h.Metrics].Live || booted > float64(since.Unix()) {
			return false, err
		}
	}
	return err == nil, err
}

// watch has the pool's VMs that rollouts made, as the last event.from of a worker told. That
// call tells only what has changed since the call before: looks at a thousand VMs at the same
// time cost two calls.
type watch struct {
	turn    chan struct{} // is full while the rest is used
	session string        // of the last call
	token   string        // of the last call, "" before the first
	began   time.Time     // when the last call began
	vms     map[ref]vmRecord
}

// batch is the result of event.from.
type batch struct {
	Token  string `xmlrpc:"token"`
	Events []struct {
		Operation string   `xmlrpc:"operation"`
		Ref       ref      `xmlrpc:"ref"`
		Snapshot  vmRecord `xmlrpc:"snapshot"`
	} `xmlrpc:"events"`
}

// vm returns the VM of a machine as it is now, false if there is none.
func (w *watch) vm(ctx context.Context, p *pool, m step.Machine) (vm vmRecord, there bool, err error) {
	asked := time.Now()
	select {
	case w.turn <- struct{}{}:
		defer func() { <-w.turn }()
	case <-ctx.Done():
		return vm, false, explained(unreachable(p.first, ctx.Err()))
	}
	if !w.began.After(asked) {
		if err := w.update(ctx, p); err != nil {
			return vm, false, err
		}
	}
	for _, vm := range w.vms {
		if (m.ID == "" || m.ID == vm.UUID) && m.Registration.Spec.Match(rolloutOf(vm)) {
			return vm, true, nil
		}
	}
	return vm, false, nil
}

// update asks for what has changed since the last call, or for all.
func (w *watch) update(ctx context.Context, p *pool) error {
	began := time.Now()
	changes, err := w.ask(ctx, p)
	if err != nil {
		w.token = ""
		return err
	}
	if w.token == "" {
		w.vms = map[ref]vmRecord{}
	}
	w.began, w.token = began, changes.Token
	for _, e := range changes.Events {
		if e.Operation != "del" && isOurs(e.Snapshot) {
			w.vms[e.Ref] = e.Snapshot
		} else {
			delete(w.vms, e.Ref)
		}
	}
	return nil
}

// ask calls event.from. With another session it asks for all: xapi may have restarted, or another
// host may be the master, which neither knows what was destroyed before nor counts changes as before.
func (w *watch) ask(ctx context.Context, p *pool) (changes batch, err error) {
	for {
		v, err := p.enter(ctx)
		if err != nil {
			return changes, err
		}
		if v.session != w.session {
			w.session, w.token = v.session, ""
		}
		changes = batch{}
		err = p.call(ctx, &changes, "event.from", []string{"vm"}, w.token, 0.0)
		if w.token == "" || err != nil && code(err) == "" {
			return changes, err
		}
		if now, _ := p.enter(ctx); err == nil && now == v {
			return changes, nil
		}
		w.token = "" // the pool has forgotten it, or the session had ended
	}
}
