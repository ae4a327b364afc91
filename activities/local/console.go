package local

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// consoleLimit bounds the console's file: a program may print for years, and the
// host has one disk. Later output is dropped and does not stop the program.
const consoleLimit = 64 << 20

// console copies a program's output to a file.
type console struct {
	in   *os.File // the program's stdout and stderr
	out  *os.File
	file *os.File
	done chan error
}

func openConsole(path string) (*console, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	out, in, err := os.Pipe()
	if err != nil {
		_ = file.Close() // nothing is in it
		return nil, err
	}
	c := &console{in, out, file, make(chan error, 1)}
	go func() { c.done <- keep(file, out, consoleLimit) }()
	return c, nil
}

// close waits until all output is in the file. The program must have ended.
func (c *console) close() error {
	if err := c.in.Close(); err != nil {
		return err
	}
	// Another process may still have the program's stdout.
	if err := c.out.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	err := <-c.done
	_ = c.out.Close() // read to its end
	return errors.Join(err, c.file.Close())
}

// keep copies r to w until r ends. After limit bytes it writes a line that says so and
// drops the rest, so that the program never waits. It returns the first error.
func keep(w io.Writer, r io.Reader, limit int64) (first error) {
	note := func(err error) {
		if first == nil {
			first = err
		}
	}
	piece := make([]byte, 32<<10)
	for left := limit; ; {
		n, err := r.Read(piece)
		if kept := min(int64(n), left); kept > 0 {
			_, err := w.Write(piece[:kept])
			note(err)
			if left -= kept; left == 0 {
				_, err := fmt.Fprintf(w, "\n[morgana: the console is cut here, at %d MiB; the program runs on]\n", limit>>20)
				note(err)
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, os.ErrDeadlineExceeded):
			return first
		case err != nil:
			return errors.Join(first, err)
		}
	}
}
