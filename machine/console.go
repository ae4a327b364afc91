package machine

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"regexp"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

const consolePiece = 32 << 10

// Console returns text of console.log from from.Offset on, at most 32 KiB. If there is none
// yet it waits up to from.WaitSeconds. U+FFFD replaces bytes that are not UTF-8. An offset
// beyond the end, as after a machine was started anew, counts as 0. A machine that was
// destroyed, or is on another host, is NotFound.
func (r *Machines) Console(ctx context.Context, from step.ConsoleFrom) (step.ConsoleText, error) {
	m, err := r.Of(from.Machine.Registration.Spec.Tags)
	if err == nil && from.Offset < 0 {
		err = step.Invalid("offset", "0 or more", "%d is no offset", from.Offset)
	}
	if err != nil {
		return step.ConsoleText{}, step.During("read console", err)
	}
	op := "read console of " + m.Name()
	deadline := time.Now().Add(time.Duration(from.WaitSeconds) * time.Second)
	for {
		if _, err := m.Record(); err != nil {
			return step.ConsoleText{}, step.During(op, err)
		}
		// The process locks its pid file before it makes console.log. So a machine with a
		// console and without a process has ended. The console is read after these two
		// checks, so no text is missed.
		_, unbegun := os.Stat(m.File(ConsoleFile))
		pid, err := m.Pid()
		if err != nil {
			return step.ConsoleText{}, step.During(op, err)
		}
		text, next, err := m.ConsoleAt(from.Offset)
		if err != nil {
			return step.ConsoleText{}, step.During(op, err)
		}
		gone := unbegun == nil && pid == 0
		if text != "" || gone || !time.Now().Before(deadline) {
			return step.ConsoleText{Text: text, Next: next, Ended: gone && text == ""}, nil
		}
		if err := step.Pause(ctx, tick); err != nil {
			return step.ConsoleText{}, step.During(op, err)
		}
	}
}

// Printed is the console's size in bytes, 0 if there is none.
func (m Machine) Printed() int64 {
	info, err := os.Stat(m.File(ConsoleFile))
	if err != nil {
		return 0
	}
	return info.Size()
}

// ConsoleAt reads at most 32 KiB, cut between characters; "" if there is no console yet.
func (m Machine) ConsoleAt(offset int64) (text string, next int64, err error) {
	f, err := os.Open(m.File(ConsoleFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", 0, nil
	}
	if err != nil {
		return "", offset, err
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return "", offset, err
	}
	if offset > info.Size() {
		offset = 0
	}
	b := make([]byte, consolePiece)
	n, err := f.ReadAt(b, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", offset, err
	}
	text, n = Text(b[:n])
	return text, offset + int64(n), nil
}

// Watch looks for a pattern in a console that is being written.
type Watch struct {
	m     Machine
	match *Match
	read  int64
}

// Watch returns a Watch for expect in the machine's console.
func (m Machine) Watch(expect *regexp.Regexp) *Watch { return &Watch{m: m, match: NewMatch(expect)} }

// Found reports whether the pattern had matched when the console was last read.
func (w *Watch) Found() bool { return w.match.Found() }

// Matched reads the new text and reports whether the pattern has ever matched.
func (w *Watch) Matched() (bool, error) {
	if w.Found() {
		return true, nil
	}
	f, err := os.Open(w.m.File(ConsoleFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close() //nolint:errcheck // only read
	piece := make([]byte, consolePiece)
	for {
		n, err := f.ReadAt(piece, w.read)
		w.read += int64(n)
		w.match.Add(piece[:n])
		switch {
		case w.Found():
			return true, nil
		case errors.Is(err, io.EOF):
			return false, nil
		case err != nil:
			return false, err
		}
	}
}

// Tail returns the last 20 lines of a file, as far as they are in its last 8 KiB, or "" if
// the file cannot be read.
func Tail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	b, err := io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-tailSize), tailSize))
	if err != nil {
		return ""
	}
	return lastLines(b)
}

// ConsoleTail returns the console's last lines for an error's hint, "" if it is empty. It
// puts the whole console into the store, because the machine's folder is removed with the
// failed rollout.
func (r *Machines) ConsoleTail(ctx context.Context, m Machine) string {
	path := m.File(ConsoleFile)
	lines := Tail(path)
	if lines == "" {
		return ""
	}
	where := ""
	if f, err := os.Open(path); err == nil {
		defer func() { _ = f.Close() }() // read only
		if a, err := r.store.Put(ctx, f); err == nil {
			where = " (all of it: " + a.URI + ")"
		}
	}
	return "the console's last lines" + where + ":\n" + lines
}
