package xenserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

const (
	// silence is how long a silent VM without options expect and expectPort must run to be
	// ready.
	silence = time.Second
	// patience is how long another worker may take to get a VM ready that runs. Then it is
	// started anew: nobody may have read the text that shows that it is ready.
	patience = 10 * time.Second
	// consoleDelay is how long after the start of a VM the pool may not show its console yet.
	consoleDelay = 5 * time.Second
	// maxStarts is how many times one call starts the VM. Somebody else halts it each time.
	maxStarts = 3
)

// crashed says why a VM that has run is paused. See newVM.AfterCrash.
const crashed = "crashed, or was paused"

// Boot makes the rollout's VM, or adopts it, starts it, and waits until it is ready. A VM
// that ran to its end is not started again: it is returned as Ended if it was ready, else the
// error is BootFailed. A VM that runs and has not been ready is started anew if its console
// has to match: see patience. So is one that is paused and that this call did not start: it
// may have crashed.
func (t *Target) Boot(ctx context.Context, r step.Registration) (m step.Machine, err error) {
	defer step.SetOp("boot", &err)
	b := &boot{t: t, r: r, began: time.Now()}
	if b.s, err = read(r.Spec.Options); err != nil {
		return m, err
	}
	if b.folder, err = r.Spec.Folder(); err != nil {
		return m, err
	}
	if b.p, err = t.connect(ctx, b.s); err != nil {
		return m, err
	}
	if err := b.find(ctx); err != nil {
		return m, err
	}
	b.tape, b.match = t.tape(b.rec), machine.NewMatch(b.s.expect)
	if err := b.run(ctx); err != nil {
		return m, err
	}
	m = step.Machine{Registration: r, ID: b.rec.UUID, Ready: b.how, Adopted: !b.created, Ended: b.rec.PowerState != running}
	if m.Ended {
		m.Ready += "; the VM has ended"
		return m, nil
	}
	m.Addresses, err = b.p.addresses(ctx, b.s, b.rec)
	return m, err
}

// boot is one call of Boot.
type boot struct {
	t      *Target
	p      *pool
	s      settings
	r      step.Registration
	folder string

	vm, vdi ref
	rec     vmRecord // of the VM when it was last looked at
	created bool     // this call made the VM the rollout's
	how     string   // how the VM became ready

	began  time.Time       // the last start, or that of this call
	starts int             // how many times this call started it
	idle   time.Time       // when this call first saw it paused by another start
	ran    bool            // this call has seen the VM run since
	whole  bool            // this call unpaused it
	tape   machine.Machine // its console
	deaf   error           // why its console is not read
	heard  bool            // its console has been read
	at     int64           // up to where match has read it
	match  *machine.Match
	found  time.Time // when match found option expect, or any text without it
}

// run looks at the VM until it is ready. It looks at its console more often.
func (b *boot) run(ctx context.Context) error {
	pause := 2 * tick
	for next := b.began; ; {
		if found := !b.found.IsZero(); !time.Now().Before(next) || b.hear() && !found {
			ready, err := b.look(ctx)
			if ready || err != nil {
				return err
			}
			next, pause = time.Now().Add(pause), min(pause*3/2, time.Second)
		}
		event, unmet := b.waits()
		if time.Since(b.began) > b.s.timeout {
			return b.failed("%s within %s", unmet, b.s.timeout)
		}
		step.Report(ctx, step.Progress{Note: fmt.Sprintf("waiting for %s (%s)", event, time.Since(b.began).Round(time.Second))})
		if err := step.Pause(ctx, tick); err != nil {
			return err
		}
	}
}

// look looks at the VM once, and starts it if it has not run yet. It reports whether the VM
// is ready, or was.
func (b *boot) look(ctx context.Context) (ready bool, err error) {
	rec, err := one[vmRecord](ctx, b.p, "VM", b.vm)
	if is(err, "HANDLE_INVALID") {
		return false, fmt.Errorf("the VM %s was destroyed meanwhile", b.rec.Name) // the next try makes another
	}
	if err != nil {
		return false, err
	}
	b.rec = rec
	if b.how = b.rec.OtherConfig[keyReady]; b.how != "" {
		return true, nil
	}
	switch b.rec.PowerState {
	case halted:
		switch {
		case b.ran:
			return b.outcome(ctx, "has ended")
		case len(b.rec.CurrentOperations) > 0: // another worker starts it, or the answer of a start was lost
			return false, b.keep(ctx)
		case b.starts == maxStarts:
			return false, b.failed("the VM was halted %d times before it was ready", b.starts)
		}
		return false, b.start(ctx)
	case paused:
		switch {
		case b.ran && b.whole: // see newVM.AfterCrash
			return b.outcome(ctx, crashed)
		case b.starts > 0 && !b.ran:
			return false, b.unpause(ctx)
		case b.idle.IsZero():
			b.idle = time.Now()
		case time.Since(b.idle) > b.t.patience: // it crashed, or another worker died before it unpaused it
			return false, b.stop(ctx)
		}
	case running:
		return b.probe(ctx)
	case suspended:
		return false, &step.Error{Kind: step.Conflict, Err: fmt.Errorf("the VM %s is suspended", b.rec.Name), Hint: "resume it, or destroy this rollout"}
	}
	return false, nil
}

// start starts the VM so that it is paused.
func (b *boot) start(ctx context.Context) error {
	if err := b.dress(ctx); err != nil {
		return err
	}
	if err := b.fits(ctx); err != nil {
		return err
	}
	// The text of an earlier start would match. A reader of that start ends with it.
	if err := os.Truncate(b.tape.File(machine.ConsoleFile), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	step.Report(ctx, step.Progress{Note: "starting " + b.rec.Name})
	var task ref
	err := b.p.call(ctx, &task, "Async.VM.start", b.vm, true, false)
	if err == nil {
		if err = b.p.set(ctx, "VM", b.vm, keyStart+string(task), ""); err == nil {
			_, err = b.p.await(ctx, task, nil)
		}
		if err != nil { // the end of ctx, too
			b.p.discard(ctx, task)
		}
	}
	if err == nil {
		b.starts, b.began = b.starts+1, time.Now()
	}
	if err == nil || is(err, "VM_BAD_POWER_STATE", "OTHER_OPERATION_IN_PROGRESS") { // another worker started it
		return ctx.Err()
	}
	// A task may say that it failed while the VM runs. If the answer was lost the start may go on.
	if vm, wrong := one[vmRecord](ctx, b.p, "VM", b.vm); wrong == nil && (vm.PowerState != halted || code(err) == "" && len(vm.CurrentOperations) > 0) {
		b.starts, b.rec = b.starts+1, vm
		return b.keep(ctx)
	}
	if is(err, "NO_HOSTS_AVAILABLE") {
		err = cmp.Or(b.fits(ctx), err)
	}
	return err
}

// keep writes the tasks that start the VM to it, as start does.
func (b *boot) keep(ctx context.Context) error {
	for task, operation := range b.rec.CurrentOperations {
		if operation == "start" {
			if err := b.p.set(ctx, "VM", b.vm, keyStart+task, ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// fits returns the reasons if no host of the pool can run the VM. VM.start does not tell them.
// The error is final only if the reasons of all hosts are.
func (b *boot) fits(ctx context.Context) error {
	hosts, err := all[hostRecord](ctx, b.p, "host")
	if err != nil {
		return err
	}
	refs := slices.SortedFunc(maps.Keys(hosts), func(a, b ref) int { return cmp.Compare(hosts[a].Name, hosts[b].Name) })
	var why step.Error
	var reasons []string
	for _, r := range refs {
		err := b.p.call(ctx, nil, "VM.assert_can_boot_here", b.vm, r)
		if code(err) == "" {
			return err
		}
		var refused *step.Error
		if errors.As(err, &refused) {
			if len(reasons) == 0 || why.Kind.Final() && !refused.Kind.Final() {
				why = step.Error{Kind: refused.Kind, Field: refused.Field, Hint: refused.Hint}
			}
			err = refused.Err
		}
		reasons = append(reasons, fmt.Sprintf("%s: %v", hosts[r].Name, err))
	}
	why.Err = fmt.Errorf("no host of the pool can run %s: %s", b.rec.Name, strings.Join(reasons, "; "))
	return &why
}

// unpause has the VM run. Its console is read at once: xapi shows that of no paused VM.
func (b *boot) unpause(ctx context.Context) error {
	err := b.p.call(ctx, nil, "VM.unpause", b.vm)
	if is(err, "VM_BAD_POWER_STATE", "OTHER_OPERATION_IN_PROGRESS") { // another worker did it, or a user is at it
		return nil
	}
	if err != nil {
		return err
	}
	b.ran, b.whole, b.began = true, true, time.Now()
	return b.listen(ctx)
}

// listen has the VM's console read. If the pool does not show it yet, the next call tries
// again.
func (b *boot) listen(ctx context.Context) error {
	if !b.heard && !b.whole {
		b.at = b.tape.Printed() // the text may be that of an earlier start
	}
	if b.deaf = b.t.attach(ctx, b.p, b.rec); b.deaf == nil {
		b.heard = true
		return nil
	}
	if b.heard { // the VM has just ended, or its host does not answer
		return ctx.Err()
	}
	soon := b.rec.DomainType != typeHVM && time.Since(b.began) < consoleDelay
	if errors.Is(b.deaf, errNoConsole) && (b.s.expect == nil || soon) || !step.KindOf(b.deaf).Final() {
		return ctx.Err()
	}
	return b.deaf
}

// hear reports whether the console has what makes the VM ready.
func (b *boot) hear() bool {
	if !b.heard {
		return false
	}
	for {
		text, next, err := b.tape.ConsoleAt(b.at)
		if text == "" || err != nil {
			break
		}
		b.match.Add([]byte(text))
		b.at = next
	}
	if b.match.Found() && b.found.IsZero() {
		b.found = time.Now()
	}
	return b.match.Found()
}

// probe reports whether a VM that runs is ready.
func (b *boot) probe(ctx context.Context) (ready bool, err error) {
	if !b.ran {
		b.ran, b.began = true, time.Now()
	}
	if err := b.listen(ctx); err != nil {
		return false, err
	}
	heard := b.hear()
	if status := machine.Solo5Failure(b.match.Tail()); status != "" {
		return false, b.failed("the kernel ended: %s", status)
	}
	switch {
	case heard && b.match.Solo5() && time.Since(b.found) < machine.Settled:
		return false, nil
	case b.s.expect != nil && !heard:
		if !b.whole && time.Since(b.began) > b.t.patience {
			return false, b.stop(ctx)
		}
		return false, nil
	case b.s.ExpectPort != 0:
		if !machine.Connects(ctx, b.s.Address, b.s.ExpectPort) {
			return false, ctx.Err()
		}
	case !heard && time.Since(b.began) < silence:
		return false, nil
	}
	return true, b.finish(ctx, heard)
}

// stop halts a VM that is to be started anew.
func (b *boot) stop(ctx context.Context) error {
	step.Report(ctx, step.Progress{Note: "starting " + b.rec.Name + " anew"})
	err := b.p.stop(ctx, b.vm, b.rec.Name)
	b.ran, b.idle, b.heard, b.at, b.match, b.found = false, time.Time{}, false, 0, machine.NewMatch(b.s.expect), time.Time{}
	return err
}

// outcome reports whether a VM that does not run any more was ready. how says how it ended.
func (b *boot) outcome(ctx context.Context, how string) (ready bool, err error) {
	for end := time.Now().Add(2 * time.Second); isRead(b.tape) && time.Now().Before(end); { // its last text comes
		if err := step.Pause(ctx, tick); err != nil {
			return false, err
		}
	}
	heard := b.hear()
	if status := machine.Solo5Failure(b.match.Tail()); status != "" {
		return false, b.failed("the kernel ended: %s", status)
	}
	if b.s.ExpectPort != 0 || b.s.expect != nil && !heard || how == crashed && !heard {
		_, unmet := b.waits()
		return false, b.failed("the VM %s and %s", how, unmet)
	}
	return true, b.finish(ctx, heard)
}

// finish records with the VM how it became ready.
func (b *boot) finish(ctx context.Context, heard bool) error {
	b.how = machine.Met(b.s.expect, b.s.ExpectPort)
	switch {
	case b.how == "" && heard:
		b.how = "console printed"
	case b.how == "":
		b.how = "ran"
	}
	return b.p.set(ctx, "VM", b.vm, keyReady, b.how)
}

// failed returns an error of kind BootFailed with the console's last lines as hint.
func (b *boot) failed(format string, args ...any) error {
	hint := ""
	switch text := b.match.Tail(); {
	case text != "":
		hint = "the console's last lines:\n" + text
	case b.heard:
		hint = "the console is empty: the kernel printed nothing"
	case b.deaf != nil && !errors.Is(b.deaf, errNoConsole):
		hint = "the console cannot be read: " + b.deaf.Error()
	}
	return machine.BootFailed(hint, format, args...)
}

// waits names the event for which the VM is not ready yet. unmet says that it did not come.
func (b *boot) waits() (event, unmet string) {
	switch {
	case !b.ran:
	case b.s.expect != nil && b.found.IsZero():
		return fmt.Sprintf("the console to match %q", b.s.expect), fmt.Sprintf("its console did not match %q", b.s.expect)
	case b.s.ExpectPort != 0:
		return fmt.Sprintf("port %d", b.s.ExpectPort), fmt.Sprintf("the worker could not connect to its port %d", b.s.ExpectPort)
	}
	return "the VM to run", "the VM did not run"
}
