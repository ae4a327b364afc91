package tree

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"unicode"

	"github.com/morgana-deploy/morgana/terminal"
)

const (
	// maxLog bounds a log: a command that prints without end must not fill
	// the disk or the store.
	maxLog = 64 << 20
	// tailLines go into the Hint of BuildFailed, each cut at maxLine bytes.
	tailLines = 20
	maxLine   = 500
)

// output takes the output of a stage's commands. It writes up to max bytes to a file, and
// keeps the last lines for people.
type output struct {
	mu   sync.Mutex
	file *os.File
	max  int64
	size int64
	err  error
	line []byte   // the unfinished one, at most maxLine of it
	tail []string // at most tailLines, none of them blank
}

func newOutput(path string) (*output, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return &output{file: f, max: maxLog}, nil
}

// Write never fails, so that no command sees a broken pipe; see failure.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.write(p)
	for _, c := range p {
		switch {
		case c == '\n' || c == '\r':
			o.endLine()
		case len(o.line) < maxLine:
			o.line = append(o.line, c)
		}
	}
	return len(p), nil
}

// printf writes a line of our own to the log, not to the tail.
func (o *output) printf(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.endLine()
	o.write(fmt.Appendf(nil, format+"\n", args...))
}

func (o *output) write(p []byte) {
	free := o.max - o.size
	if o.err != nil || free < 0 {
		return
	}
	cut := int64(len(p)) > free
	if cut {
		p = fmt.Appendf(p[:free:free], "\n[the rest is left out: a log holds %d MiB]\n", o.max>>20)
	}
	if _, o.err = o.file.Write(p); o.err == nil {
		o.size += int64(len(p))
	}
	if cut {
		o.size = o.max + 1
	}
}

func (o *output) endLine() {
	text := plain(o.line)
	o.line = o.line[:0]
	if text == "" {
		return
	}
	if o.tail = append(o.tail, text); len(o.tail) > tailLines {
		o.tail = o.tail[1:]
	}
}

// plain is a line without a terminal's control sequences.
func plain(line []byte) string {
	return strings.TrimRightFunc(terminal.Clean(string(line)), unicode.IsSpace)
}

// lines returns the last lines, including an unfinished one.
func (o *output) lines() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := append([]string(nil), o.tail...)
	if text := plain(o.line); text != "" {
		all = append(all, text)
	}
	return all[max(0, len(all)-tailLines):]
}

// last returns the last line, "" before there is one.
func (o *output) last() string {
	if all := o.lines(); len(all) > 0 {
		return all[len(all)-1]
	}
	return ""
}

// failure returns the error of writing the log.
func (o *output) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

func (o *output) close() { _ = o.file.Close() } // read back already, or given up
