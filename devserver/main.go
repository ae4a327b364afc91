// Morgana-devserver is a Temporal server, its Web UI and a SQLite file in one
// process on loopback. A deploy uses it when no Temporal server is configured.
//
// It is a Go module of its own because the server needs some two hundred
// modules that the rest of Morgana does not need.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.temporal.io/server/common/log"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	// startTimeout is far above the second or two that a start takes.
	startTimeout = time.Minute
	// stopTimeout is below the ten seconds after which people and service
	// managers use SIGKILL. Giving up loses nothing: the SQLite file has
	// everything that the server acknowledged.
	stopTimeout = 9 * time.Second
)

// Exit codes.
const (
	exitFailed = 1 // the server failed
	exitInput  = 2 // a flag or the environment is wrong
)

// inputError is an error that the user can correct: exit status 2, not 1.
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
	if err := haveUser(); err != nil {
		complain(err)
		os.Exit(exitFailed)
	}
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

// haveUser sees to it that os/user knows the current user, or the server's
// tracing fails. A container often runs as a user id without a passwd entry;
// os/user then takes $USER and $HOME. It reads them once, while packages are
// initialized, so the program starts anew to set them.
func haveUser() error {
	_, err := user.Current()
	if err == nil || os.Getenv("USER") != "" && os.Getenv("HOME") != "" {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	env := append(os.Environ(), "USER="+cmp.Or(os.Getenv("USER"), strconv.Itoa(os.Getuid())), "HOME="+cmp.Or(os.Getenv("HOME"), "/"))
	return syscall.Exec(self, os.Args, env)
}

// complain prints an error as one line; errors of libraries may have several.
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

// run serves until SIGINT or SIGTERM. It takes the lock before it touches the
// database or the ready file and keeps it until the process ends, so two
// servers never share a database.
func run(o options, stdout io.Writer) (err error) {
	db, err := resolve(o.db)
	if err != nil {
		return err
	}
	if err := checkFolder(filepath.Dir(db)); err != nil {
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
	if err := ready.remove(); err != nil { // a killed server leaves one
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
// While the server starts and stops, its services log errors about each other's
// absence. quiet(l) hides entries below l until it is called again. It hides
// nothing if level is info or debug.
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

// fatal is the logger's hook for a Fatal entry of the server. It prints one error line
// and ends the process. An example is a port that was taken after choosePorts looked.
type fatal struct{ ready readyFile }

func (f fatal) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	line := strings.ToLower(e.Message[:1]) + e.Message[1:]
	for _, field := range fields {
		if err, ok := field.Interface.(error); ok && field.Type == zapcore.ErrorType {
			line += ": " + err.Error()
		}
	}
	complain(errors.New(line))
	_ = f.ready.remove() // an error here would hide the one above
	os.Exit(exitFailed)
}
