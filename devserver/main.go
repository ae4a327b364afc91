// Morgana-devserver is a Temporal server, its Web UI and a SQLite file in one
// process on loopback: what a deploy runs on when no Temporal is configured.
//
// It is a Go module of its own because the server brings some two hundred
// modules that the rest of Morgana has no use for.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.temporal.io/server/common/log"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	// startTimeout is far above the second or two a start takes, so that only
	// a start that hangs meets it.
	startTimeout = time.Minute
	// stopTimeout stays below the ten seconds after which people and service
	// managers use SIGKILL. Giving up loses nothing: what the server has
	// acknowledged is in the SQLite file.
	stopTimeout = 9 * time.Second
)

// Exit codes.
const (
	exitFailed = 1 // the server failed
	exitInput  = 2 // a flag or something in the environment is in the way
)

// inputError is what the user can put right: exit 2 rather than 1.
type inputError struct{ error }

func (e inputError) Unwrap() error { return e.error }

func inputErrorf(format string, args ...any) error {
	return inputError{fmt.Errorf(format, args...)}
}

type options struct {
	port, uiPort int
	db           string
	namespace    string
	logLevel     string
	readyFile    string
}

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	if err == nil {
		err = run(o, os.Stdout)
	}
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
	case errors.As(err, new(inputError)):
		complain(err)
		os.Exit(exitInput)
	default:
		complain(err)
		os.Exit(exitFailed)
	}
}

// complain prints an error as one line, whatever a library put into it.
func complain(err error) {
	fmt.Fprintln(os.Stderr, "error:", strings.Join(strings.Fields(err.Error()), " "))
}

func parse(args []string, help io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("morgana-devserver", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.IntVar(&o.port, "port", 7233, "`port` of the gRPC frontend on 127.0.0.1; 0: any free one")
	f.IntVar(&o.uiPort, "ui-port", 8233, "`port` of the Web UI on 127.0.0.1; 0: any free one")
	f.StringVar(&o.db, "db", "", "SQLite `file` with all state; made if missing (required)")
	f.StringVar(&o.namespace, "namespace", "default", "`namespace` to make sure of")
	f.StringVar(&o.logLevel, "log-level", "warn", "lowest `level` logged: "+strings.Join(logLevels, " "))
	f.StringVar(&o.readyFile, "ready-file", "", "`file` that exists, with the addresses as JSON, while the server serves")
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		f.SetOutput(help)
		f.Usage()
		return o, err
	} else if err != nil {
		return o, inputError{err}
	}
	switch {
	case f.NArg() > 0:
		return o, inputErrorf("unexpected argument %q", f.Arg(0))
	case o.db == "":
		return o, inputErrorf("--db is missing: the file that keeps all state")
	case o.namespace == "":
		return o, inputErrorf("--namespace is empty")
	case !slices.Contains(logLevels, o.logLevel):
		return o, inputErrorf("--log-level %q is none of %s", o.logLevel, strings.Join(logLevels, " "))
	case o.port < 0 || o.port > 65535 || o.uiPort < 0 || o.uiPort > 65535:
		return o, inputErrorf("a port is a number from 0 to 65535")
	case o.port == o.uiPort && o.port != 0:
		return o, inputErrorf("--port and --ui-port are both %d", o.port)
	}
	return o, nil
}

// run serves until SIGINT or SIGTERM. Its order is what keeps two servers off
// one file: nothing of the database or the ready file is touched before the
// lock is held, and the process holds it until it is gone.
func run(o options, stdout io.Writer) (err error) {
	db, err := resolve(o.db)
	if err != nil {
		return err
	}
	unlock, err := lock(db)
	if err != nil {
		return err
	}
	defer unlock()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		stop() // a second signal ends the process at once
		time.Sleep(stopTimeout)
		complain(fmt.Errorf("the server did not stop within %v", stopTimeout))
		os.Exit(exitFailed)
	}()

	ready := readyFile(o.readyFile)
	if err := ready.remove(); err != nil { // one that a killed server left
		return inputError{err}
	}
	logger, quiet := newLogger(o.logLevel, ready)
	quiet(zap.ErrorLevel)

	p, err := choosePorts(ctx, o.port, o.uiPort)
	if err != nil {
		return err
	}
	server, err := startTemporal(db, o.namespace, p, logger)
	if err != nil {
		return err
	}
	defer func() {
		quiet(zap.FatalLevel)
		err = errors.Join(err, server.Stop())
	}()
	ui := startUI(p, o.namespace)
	defer ui.Stop()

	start, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := awaitReady(start, p, o.namespace); ctx.Err() != nil {
		return nil // stopped before it was ready
	} else if err != nil {
		return err
	}
	if err := ready.write(stdout, p, o.namespace); err != nil {
		return err
	}
	quiet(zap.DebugLevel)
	<-ctx.Done()
	return ready.remove()
}

var logLevels = []string{"debug", "info", "warn", "error"}

// newLogger logs JSON lines to stderr: stdout is for the ready line only.
//
// While the server starts and stops, its parts complain about others that are
// not there yet or no more. So quiet(l) hides what is below l for a time; it
// hides nothing from someone who asked for info or debug.
func newLogger(level string, ready readyFile) (l log.Logger, quiet func(zapcore.Level)) {
	asked := log.ParseZapLevel(level)
	lowest := zap.NewAtomicLevelAt(asked)
	quiet = func(l zapcore.Level) {
		if asked > zap.InfoLevel {
			lowest.SetLevel(max(asked, l))
		}
	}
	z := log.BuildZapLogger(log.Config{Level: level}).WithOptions(
		zap.IncreaseLevel(lowest),
		// The server's errors would bring a stack of 100 lines each.
		zap.AddStacktrace(zap.DPanicLevel),
		zap.WithFatalHook(fatal{ready}))
	return log.NewZapLogger(z), quiet
}

// fatal makes a clean end of the server's Fatal log entries, with which it
// reports, for one, a port that somebody took since choosePorts looked.
type fatal struct{ ready readyFile }

func (f fatal) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	line := strings.ToLower(e.Message[:1]) + e.Message[1:]
	for _, field := range fields {
		if err, ok := field.Interface.(error); ok && field.Type == zapcore.ErrorType {
			line += ": " + err.Error()
		}
	}
	complain(errors.New(line))
	_ = f.ready.remove() // the process ends for a worse reason
	os.Exit(exitFailed)
}
