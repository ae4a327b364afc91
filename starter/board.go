package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// board shows the stages of every target on a terminal, and rewrites them in place.
type board struct {
	mu      sync.Mutex
	w       io.Writer
	order   []string
	targets map[string]*boardTarget
	drawn   int // lines on the screen
	final   bool
	stop    chan struct{}
	stopped sync.WaitGroup
}

type boardTarget struct {
	head, last, note string
	stages           map[string]*boardStage
	ended            bool
}

type boardStage struct {
	event event
	began time.Time
}

// rows are the rows of a target. Those of [step.Fetch] and [step.Probing] are shown only in
// a deploy that has them.
var rows = slices.Concat([]step.Stage{step.Fetch}, step.Stages[:], []step.Stage{step.Probing})

func newBoard(w io.Writer) *board {
	b := &board{w: w, targets: map[string]*boardTarget{}, stop: make(chan struct{})}
	b.stopped.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-b.stop:
				return
			case <-tick.C:
				b.mu.Lock()
				b.draw()
				b.mu.Unlock()
			}
		}
	})
	return b
}

func (b *board) event(e event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e.Note, e.Result = cleanLine(e.Note), cleanLine(e.Result)
	name := e.App + "/" + e.Target
	t := b.targets[name]
	if t == nil {
		t = &boardTarget{stages: map[string]*boardStage{}}
		b.targets[name] = t
		b.order = append(b.order, name)
	}
	switch e.Event {
	case "accepted":
		t.head = lineOf(e)
	case "stage":
		s := t.stages[e.Stage]
		if s == nil || e.State == string(workflows.Running) {
			s = &boardStage{began: time.Now()}
			t.stages[e.Stage] = s
			t.note = ""
		}
		s.event = e
	case "progress", "waiting":
		t.note = e.Note
	default:
		t.last, t.ended = lineOf(e), true
	}
	b.draw()
}

// close draws once more and leaves the board on the screen.
func (b *board) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.stop:
		return
	default:
	}
	b.final = true
	b.draw()
	close(b.stop)
}

// draw rewrites the board over its last drawing.
func (b *board) draw() {
	select {
	case <-b.stop:
		return
	default:
	}
	width, height := screenSize(b.w)
	var lines []string
	for _, name := range b.order {
		lines = append(lines, b.targets[name].lines(name)...)
	}
	if len(lines) >= height && !b.final { // lines that scrolled off the screen cannot be rewritten
		lines = lines[:0]
		for _, name := range b.order[:min(len(b.order), height-1)] {
			lines = append(lines, b.targets[name].line(name))
		}
	}
	if b.final { // the last drawing is not rewritten, so lines may wrap
		width = math.MaxInt
	}
	_ = redraw(b.w, b.drawn, lines, width) // fails only if the terminal is gone
	b.drawn = len(lines)
}

// redraw writes lines of a width over the last lines that were drawn.
func redraw(w io.Writer, drawn int, lines []string, width int) error {
	var out strings.Builder
	if drawn > 0 {
		fmt.Fprintf(&out, "\x1b[%dA", drawn)
	}
	for _, l := range lines {
		out.WriteString("\r" + clip(l, width) + "\x1b[K\n")
	}
	out.WriteString("\x1b[J")
	_, err := io.WriteString(w, out.String())
	return err
}

func (t *boardTarget) lines(name string) []string {
	lines, note := []string{name + " " + t.head}, t.note
	if t.ended && t.head == "" { // it was refused
		return nil
	}
	for _, stage := range rows {
		s := t.stages[string(stage)]
		switch {
		case s == nil:
			if !t.ended && slices.Contains(step.Stages[:], stage) {
				lines = append(lines, "  "+mark("waiting")+" "+string(stage))
			}
		case s.event.State == string(workflows.Skipped):
		case s.event.State == string(workflows.Running) && !t.ended:
			lines = append(lines, fmt.Sprintf("  %s %-9s %6.1fs  %s", mark(s.event.State), stage, time.Since(s.began).Seconds(), note))
			note = ""
		default:
			lines = append(lines, fmt.Sprintf("  %s %-9s %6.1fs  %s", mark(s.event.State), stage, s.event.Seconds, s.event.Result))
		}
	}
	if note != "" && !t.ended {
		lines = append(lines, "  "+note)
	}
	if t.last != "" {
		lines = append(lines, strings.Split(name+" "+t.last, "\n")...)
	}
	return lines
}

// line returns the target in one line: its current stage, or how it ended.
func (t *boardTarget) line(name string) string {
	if t.last != "" {
		return name + " " + cleanLine(t.last)
	}
	for _, stage := range slices.Backward(rows) {
		if s := t.stages[string(stage)]; s != nil {
			return fmt.Sprintf("%s %s %s  %s", name, mark(s.event.State), stage, t.note)
		}
	}
	return name + " " + t.head
}

func mark(state string) string {
	switch workflows.StageState(state) {
	case workflows.Done:
		return "\x1b[32m✓\x1b[0m"
	case workflows.Failed:
		return "\x1b[31m✗\x1b[0m"
	case workflows.Running:
		return "\x1b[33m▸\x1b[0m"
	case workflows.Waiting:
	}
	return "\x1b[2m·\x1b[0m"
}

func screenSize(w io.Writer) (width, height int) {
	if f, ok := w.(interface{ Fd() uintptr }); ok {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 20 && h > 2 {
			return w, h
		}
	}
	return 80, 24
}

// clip cuts a line to the terminal's width: a wrapped line could not be rewritten. Colour
// sequences have no width.
func clip(line string, width int) string {
	left, escape := width-1, false
	for i, r := range line {
		switch {
		case r == '\x1b':
			escape = true
		case escape:
			escape = r != 'm'
		case left == 0:
			return line[:i] + "\x1b[0m"
		default:
			left--
		}
	}
	return line
}
