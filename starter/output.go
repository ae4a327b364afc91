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
	"github.com/morgana-deploy/morgana/terminal"
)

// output is standard output or standard error, safe for concurrent use. After an
// error it writes nothing more and returns the same error.
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

// Fd returns the file descriptor, or an invalid one if the output is no file.
func (o *output) Fd() uintptr {
	if f, ok := o.w.(*os.File); ok {
		return f.Fd()
	}
	return ^uintptr(0)
}

// unwritten returns err, the command's own error. If err is nil, or is the error of an
// output, it returns an error that says that the output could not be written. A closed
// pipe is no error.
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
			return &step.Error{Op: "write the output", Err: cause, Hint: "the command has run all the same; free space, or write elsewhere"}
		}
	}
	return err
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(f.Fd()))
}

// onTerminal reports whether lines on standard output can be rewritten.
func (c *cli) onTerminal() bool { return isTerminal(c.out) && os.Getenv("TERM") != "dumb" }

// emit writes a line of -o json. See unwritten for its errors.
func (c *cli) emit(v any) {
	line := unescaped.ReplaceAllFunc([]byte(asJSON(v)), func(c []byte) []byte {
		return fmt.Appendf(nil, `\u%04x`, []rune(string(c))[0])
	})
	_, _ = c.out.Write(append(line, '\n'))
}

func asJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own structs
	}
	return string(text)
}

// unescaped are the control characters that encoding/json does not escape.
var unescaped = regexp.MustCompile("[\x7f-\u009f]")

// print writes to standard output, say to standard error. Both use terminal.Clean.
func (c *cli) print(format string, args ...any) { write(c.out, format, args...) }
func (c *cli) say(format string, args ...any)   { write(c.err, format, args...) }

func write(w io.Writer, format string, args ...any) {
	_, _ = io.WriteString(w, terminal.Clean(fmt.Sprintf(format, args...))+"\n")
}

// writeFailure writes an error with its hint and what it left behind. name is a
// prefix as "hello/dev: ", or empty.
func writeFailure(w io.Writer, name string, f *step.Error) {
	part := func(label, text string) {
		write(w, "%s: %s", label, strings.ReplaceAll(strings.TrimRight(terminal.Clean(text), "\n"), "\n", "\n      "))
	}
	part("error", name+f.Error())
	if f.Hint != "" {
		part("hint", f.Hint)
	}
	for _, left := range f.Left {
		part("left", left)
	}
}

// cleanLine returns the first line of s without control sequences.
func cleanLine(s string) string {
	line, _, _ := strings.Cut(terminal.Clean(s), "\n")
	return line
}
