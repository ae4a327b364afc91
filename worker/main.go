// Command morgana-worker is the Temporal worker that runs deploys: the workflows of
// package workflows and the steps of the kinds in targets.go.
//
//	morgana-worker [--kinds qemu,command] [--store URL] [--listen 127.0.0.1:9464] ...
//
// The Temporal server is found as the temporal CLI finds it: TEMPORAL_ADDRESS,
// TEMPORAL_NAMESPACE, ..., or a profile of temporal.toml.
//
// SIGINT and SIGTERM stop it. It takes no more work and gives running activities 10 s.
// Then it cancels them, and another worker gets them. A second signal ends it at once.
//
// Exit status: 0 stopped by a signal, 1 refused by the Temporal server, 2 bad flags,
// configuration or environment.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/interceptor"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/grpc"

	"github.com/morgana-deploy/morgana/activities/local"
	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/inherit"
	"github.com/morgana-deploy/morgana/own"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/store"
	"github.com/morgana-deploy/morgana/workflows"
)

// version is set at link time: -X main.version=v1.2.3.
var version = "dev"

func main() {
	if local.Supervise(os.Args) {
		return
	}
	inherit.Nothing() // after Supervise, which needs its inherited files
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // a second signal ends the process
	}()
	err := run(ctx, os.Args[1:])
	switch {
	case err == nil, errors.Is(err, pflag.ErrHelp):
		return
	case errors.Is(err, errLost):
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stderr, "error:", err)
	var e *step.Error
	if errors.As(err, &e) && e.Hint != "" {
		fmt.Fprintln(os.Stderr, "hint:", e.Hint)
	}
	os.Exit(2)
}

// errLost ends a worker that the server refuses for good, as when its namespace is gone.
var errLost = errors.New("temporal refused the worker")

func run(ctx context.Context, args []string) error {
	flags := pflag.NewFlagSet("morgana-worker", pflag.ContinueOnError)
	config.WorkerFlags(flags)
	show := flags.Bool("version", false, "print the version")
	ready := flags.String("ready-file", "", "file that exists, with the process id, while the worker takes work")
	ours := flags.String("own-server", "", "folder of the server that morgana dev up runs: look there for its address")
	needs := flags.Bool("doctor", false, "print what the kinds need of this host, a JSON object a line, and end")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return err
		}
		return &step.Error{Kind: step.InvalidSpec, Err: err, Hint: "see morgana-worker --help"}
	}
	if *show {
		_, err := fmt.Println("morgana-worker", version)
		return err
	}
	if flags.NArg() > 0 {
		return &step.Error{Kind: step.InvalidSpec, Err: fmt.Errorf("unexpected argument %q", flags.Arg(0)), Hint: "see morgana-worker --help"}
	}
	settings, err := config.LoadSettings(flags)
	if err != nil {
		return err
	}
	if *needs {
		return doctor(ctx, os.Stdout, settings)
	}
	options, configured, err := config.Temporal(flags)
	if err != nil {
		return err
	}
	if !configured { // the default address is not used, as in the starter
		return &step.Error{Kind: step.InvalidSpec, Err: errors.New("no Temporal server is configured"),
			Hint: "set TEMPORAL_ADDRESS or --address; morgana dev up runs a server and a worker of its own"}
	}
	log := logger(settings)

	seen, err := observe(ctx, settings.Listen, log)
	if err != nil {
		return err
	}
	defer seen.close()

	artifacts, err := store.Open(ctx, settings.Store)
	if err != nil {
		return err
	}
	defer func() { _ = artifacts.Close() }() // all writes have ended by then

	options.Logger = sdklog.NewStructuredLogger(log)
	options.MetricsHandler = seen.metrics
	options.Identity = fmt.Sprintf("%d@%s morgana-worker", os.Getpid(), settings.Host)
	c, err := dial(ctx, options, own.Folder(*ours))
	if err != nil {
		return err
	}
	defer c.Close()
	seen.serve(c, log)
	if err := ensureAttributes(ctx, c, options.Namespace); err != nil {
		return err
	}

	site := step.Site{Host: settings.Host, State: settings.State, Store: artifacts, Log: log}
	served, err := chosen(kinds(site, settings.Builds), settings.Kinds)
	if err != nil {
		return err
	}
	defer func() {
		for _, k := range served {
			if c, ok := k.does.(io.Closer); ok { // it has sessions elsewhere
				if err := c.Close(); err != nil {
					log.Warn("a session did not end", "kind", k.name, "error", err)
				}
			}
		}
	}()
	if err := tries(site).Resume(ctx, c); err != nil {
		return step.During("read the watches of the worker before", err)
	}
	return serve(ctx, c, settings, served, log, options.HostPort, seen.listener.Addr().String(), *ready)
}

func dial(ctx context.Context, options client.Options, ours own.Folder) (client.Client, error) {
	dialed := options
	if ours != "" {
		dialed = ours.Options(options)
	}
	// It is called before the SDK's own interceptors, which are chained: their retries get its deadline.
	dialed.ConnectionOptions.DialOptions = append(dialed.ConnectionOptions.DialOptions, grpc.WithUnaryInterceptor(patient))
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	c, err := client.DialContext(ctx, dialed)
	if err != nil {
		return nil, config.Unreachable(ctx, options, "start a server (morgana dev up), or set TEMPORAL_ADDRESS", err)
	}
	return c, nil
}

// chosen returns the wanted kinds, or all if wanted is empty.
func chosen(all []kind, wanted []string) ([]kind, error) {
	if len(wanted) == 0 {
		return all, nil
	}
	var kinds []string
	for _, k := range all {
		kinds = append(kinds, k.name)
	}
	for _, w := range wanted {
		if !slices.Contains(kinds, w) {
			return nil, &step.Error{Kind: step.InvalidSpec, Field: "kinds", Err: fmt.Errorf("unknown kind %q", w),
				Hint: "known kinds: " + strings.Join(kinds, ", ")}
		}
	}
	return slices.DeleteFunc(all, func(k kind) bool { return !slices.Contains(wanted, k.name) }), nil
}

// serve runs the workers until ctx is done or the server refuses one.
func serve(ctx context.Context, c client.Client, settings config.Settings, served []kind, log *slog.Logger, address, listen, ready string) error {
	lost := make(chan error, 1)
	base := worker.Options{
		WorkerStopTimeout:            grace + ending,
		MaxHeartbeatThrottleInterval: pulse,
		Interceptors:                 []interceptor.WorkerInterceptor{&steps{log: log, host: settings.Host}},
		OnFatalError: func(err error) {
			select {
			case lost <- err:
			default:
			}
		},
	}
	var workers []worker.Worker

	sentences := base
	sentences.MaxConcurrentWorkflowTaskPollers = 10 // measured: more rollouts a second than the default 2
	w := worker.New(c, workflows.TaskQueue, sentences)
	w.RegisterWorkflowWithOptions(workflows.Deployment, workflow.RegisterOptions{Name: "Deployment"})
	w.RegisterWorkflowWithOptions(workflows.Rollout, workflow.RegisterOptions{Name: "Rollout"})
	w.RegisterWorkflowWithOptions(workflows.Console, workflow.RegisterOptions{Name: "Console"})
	w.RegisterWorkflowWithOptions(workflows.Observe, workflow.RegisterOptions{Name: "Observe"})
	w.RegisterWorkflowWithOptions(workflows.Plan, workflow.RegisterOptions{Name: "Plan"})
	w.RegisterWorkflowWithOptions(workflows.List, workflow.RegisterOptions{Name: "List"})
	w.RegisterWorkflowWithOptions(workflows.Sweep, workflow.RegisterOptions{Name: "Sweep"})
	w.RegisterWorkflowWithOptions(workflows.Redeploy, workflow.RegisterOptions{Name: "Redeploy"})
	(&redeployer{c}).register(w)
	workers = append(workers, w)

	var queues []string
	for _, k := range served {
		own := base
		own.DisableWorkflowWorker = true
		own.MaxConcurrentActivityExecutionSize = 10_000 // a watch has a slot as long as its machine runs
		for _, queue := range []string{k.name, k.name + "@" + settings.Host} {
			w := worker.New(c, queue, own)
			k.register(w)
			workers = append(workers, w)
			queues = append(queues, queue)
		}
	}
	for i, w := range workers {
		if err := w.Start(); err != nil {
			stop(workers[:i])
			return &step.Error{Op: "start polling", Err: err}
		}
	}
	log.Info("worker started", "temporal", address, "host", settings.Host, "queues", strings.Join(queues, " "),
		"store", settings.Store, "state", settings.State, "listen", "http://"+listen)
	if ready != "" {
		if err := os.WriteFile(ready, []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
			stop(workers)
			return &step.Error{Op: "write --ready-file", Err: err}
		}
	}
	var err error
	select {
	case <-ctx.Done():
		log.Info("stopping")
	case cause := <-lost:
		err = fmt.Errorf("%w: %w", errLost, cause)
	}
	_ = os.Remove(ready) // it may be missing; a reader checks the process, too
	stop(workers)
	log.Info("worker stopped")
	return err
}

// stop stops all workers at the same time, as each may take its whole stop timeout.
func stop(workers []worker.Worker) {
	done := make(chan struct{})
	for _, w := range workers {
		go func() { w.Stop(); done <- struct{}{} }()
	}
	for range workers {
		<-done
	}
}

func logger(s config.Settings) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(s.LogLevel)) // config has checked it
	o := &slog.HandlerOptions{Level: level}
	if s.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, o))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, o))
}
