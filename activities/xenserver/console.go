package xenserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

const (
	// keptText is how many bytes of a console a worker keeps. Then it begins anew.
	keptText = 8 << 20
	// overlap is how many bytes show that a console goes on with the text that a worker has.
	overlap = 256
	// tick is the time between two looks at a console.
	tick = 25 * time.Millisecond
)

// lost is the text in the place of text that no worker has kept.
const lost = "\n[text is missing here: no worker read the console, or it printed too much]\n"

// tape is the folder of a VM's console in the worker's state. A pool keeps no text that a guest
// prints. So the worker that boots a VM appends its console to a file from then on. A worker
// that reads the console later, when a user wants to see it, has the text from then on.
// The lock of the file is held as long as the console is read.
func (t *Target) tape(vm vmRecord) machine.Machine {
	return machine.Machine{Path: filepath.Join(t.machines.Root(), "console."+strings.ReplaceAll(vm.UUID, "/", "_"))}
}

// open opens the file of a console, and takes its lock. It is nil if the console is being read.
func open(tape machine.Machine) (*os.File, error) {
	if err := os.MkdirAll(tape.Path, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(tape.File(machine.ConsoleFile), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	if err = files.Lock(f); err != nil {
		err = errors.Join(err, f.Close())
		if errors.Is(err, files.ErrLocked) {
			err = nil
		}
		return nil, err
	}
	return f, nil
}

// isRead reports whether a console is being read.
func isRead(tape machine.Machine) bool {
	f, err := os.OpenFile(tape.File(machine.ConsoleFile), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close() //nolint:errcheck // nothing is written
	return errors.Is(files.Lock(f), files.ErrLocked)
}

// errNoConsole says that a VM has no console of text.
var errNoConsole = errors.New("the pool shows no console of text")

// attach has the console of a VM that runs read, unless it is being read.
func (t *Target) attach(ctx context.Context, p *pool, vm vmRecord) error {
	f, err := open(t.tape(vm))
	if f == nil || err != nil {
		return err
	}
	r, err := p.text(ctx, vm)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	go func() {
		defer f.Close() //nolint:errcheck // a text that was not written is lost
		defer r.Close() //nolint:errcheck // only read
		_ = record(f, r)
	}()
	return nil
}

// text connects to the console of text of a VM. The connection ends with the VM, not with ctx.
func (p *pool) text(ctx context.Context, vm vmRecord) (io.ReadCloser, error) {
	for _, c := range vm.Consoles {
		is, err := one[consoleRecord](ctx, p, "console", c)
		if err != nil {
			return nil, err
		}
		if is.Protocol != "vt100" {
			continue
		}
		long, cancel := context.WithCancel(context.WithoutCancel(ctx))
		stop := context.AfterFunc(ctx, cancel)
		r, err := p.console(long, c)
		if !stop() && err == nil { // ctx was done while it connected
			err = errors.Join(ctx.Err(), r.Close())
		}
		if err != nil {
			cancel()
			return nil, err
		}
		return r, nil
	}
	hint := "give address and expectPort instead of expect; or type: pv, whose console every version has"
	if vm.DomainType == typeHVM {
		hint = "type: pvh or pv; the screen is seen in XenCenter or Xen Orchestra"
	}
	return nil, &step.Error{Kind: step.Unsupported, Hint: hint, Err: fmt.Errorf("%w of the %s VM %s", errNoConsole, vm.DomainType, vm.Name)}
}

// record appends a console to a file until the console ends.
func record(f *os.File, r io.Reader) error {
	buffer := make([]byte, 32<<10)
	for first := true; ; {
		n, ended := r.Read(buffer)
		piece := buffer[:n]
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if first && n > 0 {
			piece, first = follow(f, info.Size(), piece), false
		}
		if info.Size()+int64(len(piece)) > keptText {
			piece, err = append([]byte(lost), piece...), f.Truncate(0)
		}
		if err == nil {
			_, err = f.Write(piece)
		}
		if err = errors.Join(err, ended); err != nil {
			return err
		}
	}
}

// follow returns what of the first piece of a console is not in the file: it may begin with
// the last lines that the VM has printed.
func follow(f *os.File, size int64, piece []byte) []byte {
	last := make([]byte, min(overlap, size))
	if _, err := f.ReadAt(last, size-int64(len(last))); err != nil || size == 0 {
		return piece
	}
	if i := bytes.LastIndex(piece, last); i >= 0 {
		return piece[i+len(last):]
	}
	return append([]byte(lost), piece...)
}

// Console returns a piece of the console, as far as a worker has read it: see
// [Target.tape]. Bytes that are not UTF-8 become U+FFFD. The console of a destroyed VM is NotFound.
func (t *Target) Console(ctx context.Context, from step.ConsoleFrom) (text step.ConsoleText, err error) {
	defer step.SetOp("read console", &err)
	if from.Offset < 0 {
		return text, step.Invalid("offset", "0 or more", "%d is no offset", from.Offset)
	}
	p, _, err := t.reach(ctx, from.Machine.Registration.Spec)
	if err != nil || p == nil {
		return text, err
	}
	deadline := time.Now().Add(time.Duration(from.WaitSeconds) * time.Second)
	var vm vmRecord
	for asked := (time.Time{}); ; {
		if time.Since(asked) > time.Second {
			if vm, err = t.listen(ctx, p, from.Machine); err != nil {
				return text, err
			}
			asked = time.Now()
		}
		over := vm.PowerState == halted && !isRead(t.tape(vm)) // no text comes after this look
		if text.Text, text.Next, err = t.tape(vm).ConsoleAt(from.Offset); err != nil {
			return text, err
		}
		if text.Text != "" || over || !time.Now().Before(deadline) {
			text.Ended = over && text.Text == ""
			return text, nil
		}
		step.Report(ctx, step.Progress{Note: "waiting for the console"})
		if err := step.Pause(ctx, tick); err != nil {
			return text, err
		}
	}
}

// listen looks up the VM of a machine, and has its console read if it runs.
func (t *Target) listen(ctx context.Context, p *pool, m step.Machine) (vmRecord, error) {
	r, vm, err := p.vm(ctx, m)
	if err != nil {
		return vm, err
	}
	if r == null {
		_ = os.RemoveAll(t.tape(vmRecord{UUID: m.ID}).Path) // another worker has destroyed it
		return vm, &step.Error{Kind: step.NotFound, Err: fmt.Errorf("the VM %s does not exist", m.ID), Hint: "it was destroyed; deploy it again"}
	}
	if vm.PowerState == running {
		err = t.attach(ctx, p, vm)
	}
	return vm, err
}
