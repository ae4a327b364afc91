package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/temporal"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/terminal"
	"github.com/morgana-deploy/morgana/workflows"
)

func (c *cli) consoleCommand() *cobra.Command {
	var f consoleFlags
	cmd := &cobra.Command{
		Use:   "console [APP[/TARGET]]",
		Short: "Print a machine's console",
		Long: `Print the console of a machine since its boot, of a long console the last MiB only.
Without a name the machine is that of the app in morgana.yaml. It may be on another
host: the text comes through Temporal, by a workflow for each 32 KiB.

On a terminal colours pass. Other control sequences do not, because they could
overwrite earlier lines. A file or a pipe gets the text unchanged.`,
		Example: "  morgana console\n  morgana console hello/dev --follow\n  morgana console --all > console.log",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.console(cmd.Context(), strings.Join(args, ""), f)
		},
	}
	c.projectFlags(cmd)
	cmd.Flags().BoolVar(&f.follow, "follow", false, "go on until the machine ends or Ctrl-C")
	cmd.Flags().BoolVar(&f.all, "all", false, "print a long console from its start, too")
	cmd.Flags().BoolVar(&f.raw, "raw", false, "let every control sequence pass, on a terminal too")
	return cmd
}

// consoleFlags are the flags of "morgana console".
type consoleFlags struct{ follow, all, raw bool }

func (c *cli) console(ctx context.Context, which string, f consoleFlags) error {
	to, app, target, err := c.one(ctx, which, false)
	if err != nil {
		return err
	}
	defer to.Close()
	s, err := to.statusOf(ctx, app, target)
	if err != nil {
		return err
	}
	if s.Machine == nil {
		return &step.Error{Kind: step.NotFound, Err: fmt.Errorf("%s/%s has no machine yet", app, target), Hint: "see morgana status"}
	}
	in := workflows.ConsoleRequest{Step: s.Route.Console, From: step.ConsoleFrom{Machine: *s.Machine}}
	err = c.printConsole(ctx, func(offset int64, wait int) (step.ConsoleText, error) {
		in.From.Offset, in.From.WaitSeconds = offset, wait
		return consolePart(ctx, to, in)
	}, f)
	var failed *temporal.ApplicationError
	if e := workflows.Failure(err); errors.As(err, &failed) && e.Kind == "" {
		e.Hint = cmp.Or(e.Hint, "see that the worker's host reaches the target; morgana status tells whether it answers")
		return e // the environment's fault
	}
	return err
}

// piece is a function that reads the console from an offset on. If there is no text yet,
// it waits for some, up to wait seconds.
type piece func(offset int64, wait int) (step.ConsoleText, error)

// full reports whether a piece is so long that more text probably follows it.
func full(text step.ConsoleText) bool { return len(text.Text) >= 16<<10 }

// printConsole prints a console. Of a long console it prints only the last lastOf bytes,
// unless f.all is set. With f.follow it goes on until the machine ends.
func (c *cli) printConsole(ctx context.Context, read piece, f consoleFlags) error {
	w := c.consoleWriter(f.raw)
	defer w.end()
	text, err := read(0, 0)
	if err == nil && full(text) && !f.all {
		text, err = c.skip(read, text)
	}
	for err == nil {
		if !w.piece(text) || text.Ended || !full(text) && !f.follow {
			return nil
		}
		wait := 0
		if !full(text) { // let text gather for a second, then wait up to 20 s
			if wait = 20; step.Pause(ctx, time.Second) != nil {
				return errDetached
			}
		}
		text, err = read(text.Next, wait)
	}
	return err
}

// consoleWriter prints the pieces of a console.
type consoleWriter struct {
	*cli
	filter *terminal.Filter // nil: pieces are printed as they are
}

func (c *cli) consoleWriter(raw bool) consoleWriter {
	if raw || !isTerminal(c.out) {
		return consoleWriter{c, nil}
	}
	return consoleWriter{c, &terminal.Filter{Colours: os.Getenv("TERM") != "dumb"}}
}

// piece prints a piece and reports whether it could be written.
func (w consoleWriter) piece(text step.ConsoleText) bool {
	switch {
	case w.output == "json":
		w.emit(text)
		text.Text = "" // an empty write returns the error that emit had
	case w.filter != nil:
		text.Text = w.filter.Add(text.Text)
	}
	_, err := io.WriteString(w.out, text.Text)
	return err == nil
}

// end resets the colours that the console has set.
func (w consoleWriter) end() {
	if w.filter != nil && w.filter.Coloured {
		_, _ = io.WriteString(w.out, "\x1b[0m")
	}
}

// lastOf is how many bytes of a long console are printed. Reading them takes 32 workflows
// and some seconds.
const lastOf = 1 << 20

// skip returns the piece to begin with: the parameter first, unless the console is longer
// than lastOf. Then it is the piece that begins lastOf bytes before the end. The
// console's size is unknown, so skip doubles the offset until there is no text, and then
// bisects. Past the end a target returns no text, or the text from offset 0.
func (c *cli) skip(read piece, first step.ConsoleText) (step.ConsoleText, error) {
	var has, end int64 // offsets with text and without; 0: unknown
	for at := int64(lastOf); end == 0 || end > lastOf && end-has > lastOf/4; {
		text, err := read(at, 0)
		if err != nil {
			return text, err
		}
		if text.Text != "" && text.Next > at {
			has = at
		} else {
			end = at
		}
		if at = 2 * has; end > 0 {
			at = (has + end) / 2
		}
	}
	if end <= lastOf {
		return first, nil
	}
	text, err := read(end-lastOf, 0)
	if err != nil {
		return text, err
	}
	// Begin at a line's start, unless the rest would be too short for full.
	line := text
	_, line.Text, _ = strings.Cut(text.Text, "\n")
	if full(line) {
		text = line
	}
	c.say("a long console: the first %.1f MiB are left out, --all prints them", float64(end-lastOf)/(1<<20))
	return text, nil
}

func consolePart(ctx context.Context, to *connection, in workflows.ConsoleRequest) (text step.ConsoleText, err error) {
	t := in.From.Machine.Registration.Spec.Tags
	err = to.call(ctx, "Console", "console/"+t.App+"/"+t.Target, "", in, &text)
	if ctx.Err() != nil {
		return text, errDetached
	}
	return text, err
}
