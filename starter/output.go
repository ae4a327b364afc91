package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/term"

	"github.com/morgana-deploy/morgana/step"
)

// output is standard output or standard error. It may be written to concurrently,
// and keeps its first error: nothing is written after it.
type output struct {
	mu  sync.Mutex
	w   io.Writer
	err error
}

func (o *output) Write(p []byte) (n int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		n, o.err = o.w.Write(p)
	}
	return n, o.err
}

// Fd is the descriptor of a file, and no descriptor of anything else.
func (o *output) Fd() uintptr {
	if f, ok := o.w.(*os.File); ok {
		return f.Fd()
	}
	return ^uintptr(0)
}

// unwritten is err, or what kept the command's output from being written. A reader that
// went away is no error.
func unwritten(err error, outputs ...*output) error {
	for _, o := range outputs {
		switch {
		case o.err == nil || err != nil && !errors.Is(err, o.err):
		case errors.Is(o.err, syscall.EPIPE):
			err = nil
		default:
			cause := o.err
			var path *fs.PathError
			if errors.As(cause, &path) {
				cause = path.Err
			}
			return &step.Error{Op: "write the output", Err: cause, Hint: "what the command does is done all the same; see morgana status"}
		}
	}
	return err
}

// isTerminal reports whether people read what is written to w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(f.Fd()))
}

// onTerminal reports whether lines on standard output can be rewritten.
func (c *cli) onTerminal() bool { return isTerminal(c.out) && os.Getenv("TERM") != "dumb" }

// emit writes a line of -o json. A failed write is told at the end: see unwritten.
func (c *cli) emit(v any) {
	line, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own structs
	}
	line = unescaped.ReplaceAllFunc(line, func(c []byte) []byte {
		return fmt.Appendf(nil, `\u%04x`, []rune(string(c))[0])
	})
	_, _ = c.out.Write(append(line, '\n'))
}

// unescaped are the control characters that encoding/json leaves as they are.
var unescaped = regexp.MustCompile("[\x7f-\u009f]")

// print writes lines to standard output, say to standard error.
func (c *cli) print(format string, args ...any) { write(c.out, format, args...) }
func (c *cli) say(format string, args ...any)   { write(c.err, format, args...) }

func write(w io.Writer, format string, args ...any) {
	_, _ = io.WriteString(w, clean(fmt.Sprintf(format, args...))+"\n")
}

// writeFailure writes "error: ..." and what to do about it. name says whose it
// is, as "hello/dev: "; empty if that is plain.
func writeFailure(w io.Writer, name string, f *step.Error) {
	part := func(label, text string) {
		write(w, "%s: %s", label, strings.ReplaceAll(strings.TrimRight(clean(text), "\n"), "\n", "\n      "))
	}
	part("error", name+f.Error())
	if f.Hint != "" {
		part("hint", f.Hint)
	}
	for _, left := range f.Left {
		part("left", left)
	}
}

// cleanLine is the first line of clean text.
func cleanLine(s string) string {
	line, _, _ := strings.Cut(clean(s), "\n")
	return line
}
