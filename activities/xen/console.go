package xen

import (
	"context"
	"fmt"
	"strconv"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

const (
	consolePiece = 32 << 10
	// longest is the limit in seconds for one wait on the host: the connection may break
	// unnoticed, and progress is reported between waits.
	longest = 10
)

// Console returns a piece of the domain's console log, which the host keeps. Bytes that
// are not UTF-8 become U+FFFD. The console of a destroyed domain is NotFound.
func (t *Target) Console(ctx context.Context, from step.ConsoleFrom) (text step.ConsoleText, err error) {
	defer step.SetOp("read console", &err)
	spec := from.Machine.Registration.Spec
	name, _, err := identify(spec.Tags)
	if err != nil {
		return text, err
	}
	if from.Offset < 0 {
		return text, step.Invalid("offset", "0 or more", "%d is no offset", from.Offset)
	}
	s, err := read(spec.Options)
	if err != nil {
		return text, err
	}
	d, err := t.dom0(s.Host, s.Tool)
	if err != nil {
		return text, err
	}
	for wait := from.WaitSeconds; ; wait -= longest {
		b, gone, err := d.console(ctx, name, from.Offset, min(max(wait, 0), longest))
		if err != nil {
			return text, err
		}
		if len(b) > 0 || gone || wait <= longest {
			text, n := machine.Text(b)
			return step.ConsoleText{Text: text, Next: from.Offset + int64(n), Ended: gone}, nil
		}
		step.Report(ctx, step.Progress{Note: "waiting for the console"})
	}
}

// console reads at most consolePiece bytes from offset on. If there are none yet it waits
// for them, up to the given seconds. gone reports that no more bytes will come.
func (d *dom0) console(ctx context.Context, name string, offset int64, seconds int) (piece []byte, gone bool, err error) {
	out, err := d.do(ctx, "console", name, strconv.FormatInt(offset, 10), strconv.Itoa(consolePiece), strconv.Itoa(seconds))
	switch {
	case exited(err, ended):
		return nil, true, nil
	case exited(err, absent):
		return nil, false, &step.Error{Kind: step.NotFound, Err: fmt.Errorf("%s is not on %s", name, d.host), Hint: "it was destroyed; deploy it again"}
	case err != nil:
		return nil, false, err
	}
	return []byte(out), false, nil
}
