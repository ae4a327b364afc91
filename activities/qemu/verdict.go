package qemu

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/morgana-deploy/morgana/machine"
)

// Ended decides whether a machine that ran to its end was ready.
func (b *boot) Ended(ctx context.Context) (string, bool, error) {
	_, err := os.Lstat(b.m.File(machine.PidFile))
	if !errors.Is(err, fs.ErrNotExist) || b.m.Printed() == 0 {
		return "", false, nil
	}
	how, ok := b.m.Ready()
	if !ok && b.s.ExpectPort == 0 {
		if status := failure(b.m.Machine); status != "" {
			return "", true, machine.BootFailed(b.consoleTail(ctx), "the kernel ended: %s", status)
		}
		if b.s.expect == nil {
			how, ok = "console printed", true
		} else if matched, err := b.console.Matched(); err != nil {
			return "", true, err
		} else if matched {
			how, ok = fmt.Sprintf("console matched %q", b.s.Expect), true
		}
		if ok {
			if err := b.m.SetReady(how); err != nil {
				return "", true, err
			}
		}
	}
	if !ok {
		return "", true, machine.BootFailed(b.consoleTail(ctx), "the machine ended and %s", b.unmet())
	}
	return how + "; the machine has ended", true, nil
}

// Held has nothing to do: QEMU has no children.
func (b *boot) Held(context.Context) error { return nil }

// failure returns how the machine failed, "" if it did not: the text by which a Solo5 kernel
// reports it, or QEMU's reason to end, unless the guest powered off. A kernel that ends by
// the device isa-debug-exit gives no reason.
func failure(m machine.Machine) string {
	if said := machine.Solo5Failure(machine.Tail(m.File(machine.ConsoleFile))); said != "" {
		return said
	}
	for line := range strings.Lines(machine.Tail(m.File(eventsFile))) {
		var e struct {
			Event string
			Data  struct{ Reason string }
		}
		if json.Unmarshal([]byte(line), &e) != nil || e.Event != "SHUTDOWN" { // the first line may be cut
			continue
		}
		switch e.Data.Reason {
		case "guest-shutdown":
		case "guest-reset":
			return "reset, by a reboot or a triple fault"
		default:
			return "qemu: " + e.Data.Reason
		}
	}
	return ""
}

// Died returns the error for a QEMU that was killed, or that ended without a console.
func (b *boot) Died(ctx context.Context) error {
	said := machine.Tail(b.m.File(logFile))
	_, err := os.Lstat(b.m.File(machine.PidFile))
	switch {
	case err == nil:
		return machine.BootFailed(strings.TrimSpace(said+"\n"+b.consoleTail(ctx)), "qemu was killed")
	case said != "":
		first, _, _ := strings.Cut(said, "\n")
		return machine.BootFailed("qemu said:\n"+said, "%s", strings.TrimPrefix(first, "qemu-system-x86_64: "))
	default:
		return machine.BootFailed(b.consoleTail(ctx), "the machine ended at once")
	}
}

// consoleTail returns the console's last lines for an error's hint.
func (b *boot) consoleTail(ctx context.Context) string {
	return cmp.Or(b.t.machines.ConsoleTail(ctx, b.m.Machine), "the console is empty: the kernel printed nothing on the first serial port (COM1)")
}

// Late returns the error for a machine that is not ready in time.
func (b *boot) Late(ctx context.Context) error {
	if status, err := b.m.status(ctx); err == nil && status != "running" {
		return b.stopped(ctx, status)
	}
	return machine.BootFailed(b.consoleTail(ctx), "%s within %s", b.unmet(), b.s.timeout)
}

// stopped returns the error for a QEMU that has not ended but no longer runs the machine,
// as after KVM's "internal-error".
func (b *boot) stopped(ctx context.Context, status string) error {
	hint := b.consoleTail(ctx)
	if said := machine.Tail(b.m.File(logFile)); said != "" {
		hint = "qemu said:\n" + said + "\n" + hint
	}
	return machine.BootFailed(hint, "qemu does not run the machine: %s", status)
}

// Awaited names the event that Boot waits for; unmet says that it did not come.
func (b *boot) Awaited() string {
	switch {
	case b.s.expect != nil && !b.console.Found():
		return fmt.Sprintf("the console to match %q", b.s.Expect)
	case b.s.ExpectPort != 0:
		return fmt.Sprintf("port %d to answer", b.s.ExpectPort)
	default:
		return "the console"
	}
}

func (b *boot) unmet() string {
	switch {
	case b.s.expect != nil && !b.console.Found():
		return fmt.Sprintf("its console did not match %q", b.s.Expect)
	case b.s.ExpectPort != 0:
		return fmt.Sprintf("its port %d did not answer", b.s.ExpectPort)
	default:
		return "it did not start"
	}
}
