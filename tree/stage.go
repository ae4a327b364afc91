package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

var errTimeout = errors.New("timed out")

// runStage runs the commands of a stage in the tree and puts their output into the
// store. The log is nil if there are no commands.
func (t *Toolchain) runStage(ctx context.Context, w *work, stage step.Stage, commands []Command) (log *step.Artifact, err error) {
	if len(commands) == 0 {
		return nil, nil
	}
	path := w.rollout.file(logName(stage))
	out, err := newOutput(path)
	if err != nil {
		return nil, failed("write log", w.rollout.dir, err)
	}
	defer out.close()
	leave, err := t.enter(ctx, w)
	if err != nil {
		return nil, err
	}
	defer func() {
		if left := leave(); err == nil && left != nil {
			log, err = nil, left
		}
	}()
	left := w.Timeout
	for i, c := range commands {
		argv, exclusive := c.Argv, os.Expand(c.Exclusive, w.environ.Get)
		lock, err := t.lockExclusive(ctx, w, exclusive, exclusive)
		if err != nil {
			return nil, err
		}
		begun := time.Now()
		out.printf("==> %s %s", begun.UTC().Format(time.RFC3339), shown(argv))
		timed, cancel := context.WithTimeoutCause(ctx, left, errTimeout)
		err = w.runCommand(timed, argv, out, i, len(commands))
		cancel()
		lock.release()
		left -= time.Since(begun)
		out.printf("<== %s after %s", outcome(err), time.Since(begun).Round(10*time.Millisecond))
		if err != nil {
			return nil, t.stageError(ctx, w, stage, argv, out, err)
		}
	}
	stored, err := t.site.Store.Put(ctx, out.file)
	if err != nil {
		return nil, failed("store the log of "+string(stage), t.folder, err)
	}
	return &stored, nil
}

// runCommand runs one command, and reports its last line as it changes.
func (w *work) runCommand(ctx context.Context, argv []string, out *output, done, total int) error {
	program, err := w.environ.LookPath(argv[0])
	if err != nil {
		return &startError{err}
	}
	env := w.environ.all
	if w.environ.Get("TMPDIR") == "" {
		env = append(slices.Clone(env), "TMPDIR="+w.place.tmp())
	}
	note := shown(argv)
	report := func() {
		step.Report(ctx, step.Progress{Done: int64(done), Total: int64(total), Unit: "commands", Note: shorten(note)})
	}
	report()
	seen, quiet := out.last(), 0
	c := command{argv: argv, program: program, dir: w.place.tree(), env: env, out: out,
		record: w.rollout.file(groupFile),
		tick: func() {
			line := out.last()
			if quiet++; line == seen && quiet < 8 {
				return // a silent command is reported every 2 s
			}
			if line != seen {
				note = line
			}
			seen, quiet = line, 0
			report()
		}}
	return c.run(ctx)
}

// stageError returns the error of a stage that failed or was cancelled. It stores the log.
func (t *Toolchain) stageError(ctx context.Context, w *work, stage step.Stage, argv []string, out *output, err error) error {
	if ctx.Err() != nil {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		e := &step.Error{Op: string(stage), Err: fmt.Errorf("%s: %w", shown(argv), ctx.Err())}
		if log, putErr := t.site.Store.Put(end, out.file); putErr == nil {
			e.Log = &log
		}
		return e
	}
	var start *startError
	if e := failed(string(stage), w.rollout.dir, err); e.Kind != "" && !errors.As(err, &start) {
		return e // the log could not be written
	}
	log, putErr := t.site.Store.Put(ctx, out.file)
	stored, whole := &log, "whole log: "+log.URI
	if putErr != nil {
		stored, whole = nil, "the log could not be stored: "+putErr.Error()
	}
	var exit *exec.ExitError
	if w.Refused != nil && errors.As(err, &exit) {
		var refused *step.Error
		if errors.As(w.Refused(out.lines()), &refused) {
			refused.Hint, refused.Log = refused.Hint+"\n"+whole, stored
			return refused
		}
	}
	hint := out.lines()
	if len(hint) > 0 {
		hint = append([]string{"the last lines of its output:"}, hint...)
	}
	hint = append(hint, whole)
	e := &step.Error{Kind: step.BuildFailed, Op: string(stage), Log: stored}
	switch {
	case errors.Is(err, errTimeout):
		e.Err = fmt.Errorf("%s: not done after %s", shown(argv), w.Timeout)
		hint = append(hint, "option timeout gives it longer")
	case errors.As(err, &exit):
		e.Err = fmt.Errorf("%s: %w", shown(argv), exit)
		if s, ok := exit.Sys().(syscall.WaitStatus); ok && s.Signal() == syscall.SIGKILL {
			hint = append(hint, "killed from outside: did the host run out of memory?")
		}
	case errors.As(err, &start) && !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.ENOMEM):
		e.Err = fmt.Errorf("%s: cannot be run: %w", shown(argv), start.err)
	default:
		e.Kind, e.Err = "", fmt.Errorf("%s: %w", shown(argv), err) // the host is in trouble, not the build
	}
	if diskFull(w.rollout.dir) {
		e.Kind, e.Err = step.NoSpace, fmt.Errorf("%w: the disk is full", e.Err)
		hint = append(hint, noSpaceHint(w.rollout.dir))
	}
	if withheld := w.environ.withheldHint(); withheld != "" && e.Kind == step.BuildFailed {
		hint = append(hint, withheld)
	}
	e.Hint = strings.Join(hint, "\n")
	return e
}

// outcome describes a command's end in the log.
func outcome(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// shown formats a command as people type it, on one line of at most 200 characters.
func shown(argv []string) string {
	words := make([]string, len(argv))
	for i, a := range argv {
		words[i] = a
		if a == "" || strings.ContainsAny(a, " \t\n\"'\\$`;&|<>(){}*?[]#~!") || !isPrint(a) {
			words[i] = strconv.Quote(a)
		}
	}
	return shorten(strings.Join(words, " "))
}

func isPrint(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) < 0
}

func shorten(s string) string {
	const most = 200
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return s
}

// reading returns a reader of r that ends with ctx and reports how many of total bytes it
// has read.
func reading(ctx context.Context, r io.Reader, total int64, note string) io.Reader {
	return &reporting{ctx: ctx, r: files.Reader(ctx, r), total: total, note: note}
}

type reporting struct {
	ctx         context.Context
	r           io.Reader
	done, total int64
	note        string
	reported    time.Time
}

func (c *reporting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.done += int64(n)
	if time.Since(c.reported) > tickTime {
		c.reported = time.Now()
		step.Report(c.ctx, step.Progress{Done: c.done, Total: c.total, Unit: "bytes", Note: c.note})
	}
	return n, err
}
