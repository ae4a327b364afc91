package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// watchPause is the time between two lists of "morgana status --watch".
var watchPause = 3 * time.Second

// watch shows the deployments that look returns until ctx is done. On a terminal it rewrites
// the table, otherwise it prints it again. With -o json it prints each line that has changed.
// When look fails after a success, the last list stays and watch goes on.
func (c *cli) watch(ctx context.Context, which string, look func() ([]deploymentLine, error)) error {
	printed := map[string]string{} // by app/target
	var known []deploymentLine
	var answered time.Time
	drawn, silent := 0, false
	for {
		lines, err := look()
		switch {
		case ctx.Err() != nil:
			return errDetached
		case err != nil && answered.IsZero():
			return err
		case err == nil:
			known, answered, silent = lines, time.Now(), false
		}
		switch wait := ""; {
		case c.output != "json" && c.onTerminal():
			if err != nil {
				wait = fmt.Sprintf("no answer for %s: %s", time.Since(answered).Round(time.Second), cleanLine(workflows.Failure(err).Error()))
			}
			drawn, err = c.rewrite(tableLines(known, which, true), wait, drawn)
		case err != nil:
			if !silent {
				c.say("no answer since %s: %s", answered.Format(time.TimeOnly), cleanLine(workflows.Failure(err).Error()))
			}
			silent, err = true, nil
		case c.output == "json":
			c.emitChanges(lines, printed)
		default:
			_, err = io.WriteString(c.out, strings.Join(tableLines(lines, which, false), "\n")+"\n\n")
		}
		if _, broken := c.out.Write(nil); err != nil || broken != nil { // emit does not return it
			return cmp.Or(err, broken)
		}
		if step.Pause(ctx, watchPause) != nil {
			return errDetached
		}
	}
}

// rewrite draws lines, and one more if it is not empty, over the last lines that were drawn.
func (c *cli) rewrite(lines []string, more string, drawn int) (int, error) {
	width, height := screenSize(c.out)
	if more != "" {
		height--
	}
	lines = lines[:min(len(lines), height-1)] // lines that scrolled off the screen cannot be rewritten
	if more != "" {
		lines = append(lines, more)
	}
	return len(lines), redraw(c.out, drawn, lines, width)
}

// tableLines returns the lines of the table, or one that says that there is none.
func tableLines(lines []deploymentLine, which string, narrow bool) []string {
	if len(lines) == 0 {
		return []string{noneOf(which)}
	}
	var b bytes.Buffer
	_ = table(&b, lines, time.Now(), narrow) // a buffer takes all
	return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
}

// emitChanges prints the lines that differ from those printed before, and one with state
// "removed" for each deployment that has left the list.
func (c *cli) emitChanges(lines []deploymentLine, printed map[string]string) {
	listed := map[string]bool{}
	for _, l := range lines {
		name := l.App + "/" + l.Target
		listed[name] = true
		if text := asJSON(l); printed[name] != text {
			printed[name] = text
			c.emit(l)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(printed)) {
		if !listed[name] {
			delete(printed, name)
			app, target, _ := strings.Cut(name, "/")
			c.emit(map[string]string{"app": app, "target": target, "state": "removed"})
		}
	}
}
