package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

func (c *cli) consoleCommand() *cobra.Command {
	var f consoleFlags
	cmd := &cobra.Command{
		Use:   "console [APP[/TARGET]]",
		Short: "Print a machine's console",
		Long: `Print what the machine has written to its console since it booted, of a long one
the last MiB. Without a name it is the app of morgana.yaml. The machine may be on
another host: its worker is asked through Temporal, a workflow for each 32 KiB.

On a terminal colours pass, and no other control sequence does, as a machine could
rewrite what stands there. Into a file or a pipe goes what the machine wrote.`,
		Example: "  morgana console\n  morgana console hello/dev --follow\n  morgana console --all > console.log",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.console(cmd.Context(), strings.Join(args, ""), f)
		},
	}
	c.projectFlags(cmd)
	cmd.Flags().BoolVar(&f.follow, "follow", false, "go on until the machine ends or Ctrl-C")
	cmd.Flags().BoolVar(&f.all, "all", false, "from its start, however long it is")
	cmd.Flags().BoolVar(&f.raw, "raw", false, "every control sequence, on a terminal too")
	return cmd
}

// consoleFlags are the flags of "morgana console".
type consoleFlags struct{ follow, all, raw bool }

func (c *cli) console(ctx context.Context, which string, f consoleFlags) error {
	to, names, err := c.named(ctx, which, nil, false)
	if err != nil {
		return err
	}
	defer to.Close()
	if len(names) != 1 {
		return &step.Error{Kind: step.InvalidSpec, Err: fmt.Errorf("%d deployments fit", len(names)),
			Hint: "name one: " + strings.Join(names, ", ")}
	}
	app, target, _ := strings.Cut(names[0], "/")
	answer, err := to.QueryWorkflow(ctx, workflows.DeploymentID(app, target), "", workflows.QueryStatus)
	if err != nil {
		return notDeployed(names[0], err)
	}
	var s workflows.DeploymentStatus
	if err := answer.Get(&s); err != nil {
		return err
	}
	if s.Machine == nil {
		return &step.Error{Kind: step.NotFound, Err: fmt.Errorf("%s has no machine yet", names[0]), Hint: "see morgana status"}
	}
	in := workflows.ConsoleRequest{Step: s.Route.Console, From: step.ConsoleFrom{Machine: *s.Machine}}
	return c.printConsole(ctx, func(offset int64, wait int) (step.ConsoleText, error) {
		in.From.Offset, in.From.WaitSeconds = offset, wait
		return consolePart(ctx, to, in)
	}, f)
}

// piece reads a console from an offset on, and waits so many seconds for text.
type piece func(offset int64, wait int) (step.ConsoleText, error)

// full tells a piece behind which there is more, of a console that never stands
// still as well.
func full(text step.ConsoleText) bool { return len(text.Text) >= 16<<10 }

// printConsole prints a console, of a long one the last of it but for all, and
// what follows if it is to follow.
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
		if !full(text) { // wait for more, and a second for more of it at once
			if wait = 20; sleep(ctx, time.Second) != nil {
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
	filter *filter // nil: pieces are printed as they are
}

func (c *cli) consoleWriter(raw bool) consoleWriter {
	if raw || !isTerminal(c.out) {
		return consoleWriter{c, nil}
	}
	return consoleWriter{c, &filter{colours: os.Getenv("TERM") != "dumb"}}
}

// piece reports whether somebody reads.
func (w consoleWriter) piece(text step.ConsoleText) bool {
	switch {
	case w.output == "json":
		w.emit(text)
		text.Text = "" // and see whether that was read
	case w.filter != nil:
		text.Text = w.filter.add(text.Text)
	}
	_, err := io.WriteString(w.out, text.Text)
	return err == nil
}

// end takes back the colours that the console left.
func (w consoleWriter) end() {
	if w.filter != nil && w.filter.coloured {
		_, _ = io.WriteString(w.out, "\x1b[0m")
	}
}

// lastOf is how much of a long console is printed at most, in bytes: 32 workflows,
// some seconds.
const lastOf = 1 << 20

// skip gives the piece to go on from where the console is longer than lastOf, and
// says so; else first, its first. A console does not tell its size: pieces are
// asked for at twice the offset until there is none, then in between. Behind the
// end a target gives no text, or begins again at 0.
func (c *cli) skip(read piece, first step.ConsoleText) (step.ConsoleText, error) {
	var has, end int64 // text is there, none is there; 0: not known
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
	// From the beginning of a line, if that leaves enough to be told from the end.
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
	run, err := to.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		TaskQueue: workflows.TaskQueue,
		ID:        fmt.Sprintf("console/%s/%s/%d", t.App, t.Target, time.Now().UnixNano()),
	}, "Console", in)
	if err == nil {
		err = run.Get(ctx, &text)
	}
	if ctx.Err() != nil {
		return text, errDetached
	}
	return text, err
}
