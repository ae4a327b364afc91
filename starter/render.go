package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// event is a change of a deploy, and a line of -o json.
type event struct {
	Time       time.Time `json:"time,omitzero"`
	Event      string    `json:"event"` // accepted waiting stage progress deployed failed error
	App        string    `json:"app,omitempty"`
	Target     string    `json:"target,omitempty"`
	Generation int       `json:"generation,omitempty"`
	// accepted
	Rollout  string `json:"rollout,omitempty"`
	Attached bool   `json:"attached,omitempty"`
	Of       int    `json:"of,omitempty"` // the generation that a rollback goes back to
	UI       string `json:"ui,omitempty"`
	// stage
	Stage   string  `json:"stage,omitempty"`
	State   string  `json:"state,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
	Result  string  `json:"result,omitempty"`
	// progress, waiting
	Note string `json:"note,omitempty"`
	// deployed
	Machine   *step.Machine `json:"machine,omitempty"`
	Unchanged bool          `json:"unchanged,omitempty"`
	Commit    string        `json:"commit,omitempty"` // of the source, with "+" if it differs
	Left      []string      `json:"left,omitempty"`
	// failed, error
	Error *failure `json:"error,omitempty"`
}

// failure is a step.Error in JSON.
type failure struct {
	Kind    step.Kind `json:"kind,omitempty"`
	Op      string    `json:"op,omitempty"`
	Field   string    `json:"field,omitempty"`
	Message string    `json:"message"`
	Hint    string    `json:"hint,omitempty"`
	Left    []string  `json:"left,omitempty"`
}

func failureJSON(e *step.Error) *failure {
	f := &failure{Kind: e.Kind, Op: e.Op, Field: e.Field, Hint: e.Hint, Left: e.Left}
	if e.Err != nil {
		f.Message = e.Err.Error()
	}
	return f
}

// screen shows events. It is safe for concurrent use.
type screen interface {
	event(event)
	close()
}

// screen returns the screen for the output: JSON lines, a board or plain lines.
func (c *cli) screen() screen {
	switch {
	case c.output == "json":
		return jsonLines{c}
	case c.onTerminal():
		return newBoard(c.out)
	}
	return &plain{cli: c, waits: map[string]bool{}}
}

type jsonLines struct{ *cli }

func (j jsonLines) event(e event) { j.emit(e) }
func (jsonLines) close()          {}

// plain writes a line for each event, except for the start of a stage and for progress. It
// writes the first progress after a wait, which tells that the wait is over.
type plain struct {
	*cli
	mu sync.Mutex
	// waits has the targets whose last line names what they wait for.
	waits map[string]bool
}

func (p *plain) event(e event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	name := e.App + "/" + e.Target
	line := lineOf(e)
	if e.Event == "progress" && p.waits[name] {
		line = cleanLine(e.Note)
	}
	if line == "" || e.State == string(workflows.Running) || e.State == string(workflows.Skipped) {
		return
	}
	p.waits[name] = e.Event == "waiting"
	p.print("%s %s", name, line)
}

func (*plain) close() {}

// lineOf returns an event as text, "" if it has none.
func lineOf(e event) string {
	switch e.Event {
	case "accepted":
		line := fmt.Sprintf("generation %d", e.Generation) + rollbackOf(e.Of)
		if e.Attached {
			line += ", going on already"
		}
		if e.UI != "" {
			line += "  " + e.UI
		}
		return line
	case "stage":
		return stageLine(e.Stage, e.State, e.Seconds, e.Result)
	case "deployed":
		m := e.Machine
		line := "deployed"
		if e.Unchanged {
			line = fmt.Sprintf("unchanged, generation %d is kept", m.Registration.Spec.Generation)
			if !m.Adopted {
				line = fmt.Sprintf("unchanged, generation %d was gone and is started again", m.Registration.Spec.Generation)
			}
		}
		line += ": machine " + cleanLine(m.ID)
		if m.Ready != "" {
			line += ", " + cleanLine(m.Ready)
		}
		if len(m.Addresses) > 0 {
			line += ", at " + step.Addresses(m.Addresses, " ")
		}
		if e.Commit != "" {
			line += ", commit " + shortCommit(e.Commit)
		}
		for _, left := range e.Left {
			line += "\nwarning: " + cleanLine(left)
		}
		return line
	case "waiting":
		return cleanLine(e.Note)
	case "failed":
		if e.Generation > 0 { // else the request was refused, and the error says all
			return "failed"
		}
	}
	return ""
}

// shortCommit shortens a commit to 12 digits and keeps its "+".
func shortCommit(revision string) string {
	commit, changed := strings.CutSuffix(revision, "+")
	short := fmt.Sprintf("%.12s", commit)
	if changed {
		short += "+"
	}
	return short
}

func stageLine(stage, state string, seconds float64, result string) string {
	took := ""
	if state != string(workflows.Running) && state != string(workflows.Waiting) {
		took = fmt.Sprintf("%.1fs", seconds)
	}
	return strings.TrimRight(fmt.Sprintf("%-9s  %-7s %6s  %s", stage, state, took, cleanLine(result)), " ")
}
