package local

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/morgana-deploy/morgana/machine"
)

// Ended decides whether a machine that ran to its end was ready.
func (b *boot) Ended(ctx context.Context) (how string, ended bool, err error) {
	end, err := readOutcome(b.m)
	if end == nil || err != nil {
		return "", false, err
	}
	if end.Error != "" {
		return "", true, machine.BootFailed("is it a program for this host?", "%s", end)
	}
	how, ok := b.m.Ready()
	if !ok { // it ended before it was ready: its status decides
		matched := b.s.expect == nil
		if !matched {
			if matched, err = b.console.Matched(); err != nil {
				return "", true, err
			}
			how = machine.Met(b.s.expect, 0)
		}
		switch {
		case !matched || end.Status != 0 && b.s.expect == nil:
			return "", true, machine.BootFailed(b.consoleTail(ctx), "%s and %s", end, b.unmet())
		case end.Status != 0:
			return "", true, machine.BootFailed(b.consoleTail(ctx), "%s, although its %s", end, how)
		}
	}
	if how == "" {
		return end.String(), true, nil
	}
	return how + "; " + end.String(), true, nil
}

// Died is the error for a machine that was killed while Boot waited for it.
func (b *boot) Died(ctx context.Context) error {
	why := ""
	if said := machine.Tail(b.m.File(logFile)); said != "" { // the supervisor's own errors
		why = ": " + said
	}
	return machine.BootFailed(b.consoleTail(ctx), "the machine was killed with its supervisor%s", why)
}

// Late is the error for a machine that is not ready in time.
func (b *boot) Late(ctx context.Context) error {
	return machine.BootFailed(b.consoleTail(ctx), "not ready after %s: %s", b.s.timeout, b.unmet())
}

// Awaited names the event that Boot waits for.
func (b *boot) Awaited() string {
	if b.s.expect != nil {
		return fmt.Sprintf("the console to match %q", b.s.Expect)
	}
	return "the console"
}

// unmet says that this event did not come.
func (b *boot) unmet() string {
	if b.s.expect != nil {
		return fmt.Sprintf("its console did not match %q", b.s.Expect)
	}
	return "it was not ready"
}

// consoleTail is the console's last lines for an error's hint.
func (b *boot) consoleTail(ctx context.Context) string {
	return cmp.Or(b.t.machines.ConsoleTail(ctx, b.m), "the console is empty: the program printed nothing")
}

// readOutcome reads the status file; nil if the program has not ended, or the file is not
// whole. A power cut may leave an empty file, and then the machine was killed.
func readOutcome(m machine.Machine) (*outcome, error) {
	b, err := os.ReadFile(m.File(statusFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var end *outcome
	if json.Unmarshal(b, &end) != nil {
		end = nil
	}
	return end, nil
}

func (o outcome) String() string {
	switch {
	case o.Error != "":
		return o.Error
	case o.Signal != 0:
		return fmt.Sprintf("killed by signal %d (%s)", o.Signal, syscall.Signal(o.Signal))
	}
	return fmt.Sprintf("ended with status %d", o.Status)
}
