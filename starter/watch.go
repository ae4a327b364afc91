package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"strings"
	"time"
)

// watchPause is the time between two lists of "morgana status --watch".
var watchPause = 3 * time.Second

// watch shows the deployments until ctx is done. On a terminal it rewrites the table,
// otherwise it prints it again. With -o json it prints each line that has changed.
func (c *cli) watch(ctx context.Context, to *connection, which string, all bool) error {
	app, target, _ := strings.Cut(which, "/")
	printed := map[string]string{} // by app/target
	drawn := 0
	for {
		lines, err := to.observed(ctx, app, target, all)
		switch {
		case ctx.Err() != nil:
			return errDetached
		case err != nil:
			return err
		case c.output == "json":
			c.emitChanges(lines, printed)
		case c.onTerminal():
			width, height := screenSize(c.out)
			shown := tableLines(lines, which)
			shown = shown[:min(len(shown), height-1)] // lines that scrolled off the screen cannot be rewritten
			err = redraw(c.out, drawn, shown, width)
			drawn = len(shown)
		default:
			_, err = io.WriteString(c.out, strings.Join(tableLines(lines, which), "\n")+"\n\n")
		}
		if _, broken := c.out.Write(nil); err != nil || broken != nil { // emit does not return it
			return cmp.Or(err, broken)
		}
		if sleep(ctx, watchPause) != nil {
			return errDetached
		}
	}
}

// tableLines returns the lines of the table, or one that says that there is none.
func tableLines(lines []deploymentLine, which string) []string {
	if len(lines) == 0 {
		return []string{noneOf(which)}
	}
	var b bytes.Buffer
	_ = table(&b, lines, time.Now()) // a buffer takes all
	return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
}

// emitChanges prints the lines that differ from those printed before, and one with state
// "removed" for each deployment that has left the list.
func (c *cli) emitChanges(lines []deploymentLine, printed map[string]string) {
	listed := map[string]bool{}
	for _, l := range lines {
		name := l.App + "/" + l.Target
		listed[name] = true
		text, err := json.Marshal(l)
		if err != nil {
			panic(err) // our own structs
		}
		if printed[name] != string(text) {
			printed[name] = string(text)
			c.emit(l)
		}
	}
	for name := range printed {
		if !listed[name] {
			delete(printed, name)
			app, target, _ := strings.Cut(name, "/")
			c.emit(map[string]string{"app": app, "target": target, "state": "removed"})
		}
	}
}
