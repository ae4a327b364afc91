// Bench measures what Morgana costs beside the least that could do the same,
// and prints a table. It asserts nothing about time: it fails only if something
// could not be run.
//
//	bench [--json] [--only engine,rate,boot,store,package,xen]
//
// engine and rate compare deploys whose steps do nothing with a bare workflow
// that calls the same six activities, on the same server and worker. boot
// compares the stage with QEMU alone, store a put with a plain copy, package a
// boot image with mke2fs alone and with dd, mkfs and a loop mount, xen a deploy to
// a Xen host with xl by hand. Ours and its peer take turns, so that a machine that slows down slows both.
//
// It starts a morgana-devserver of its own (of $MORGANA_BIN, else ./bin) with a
// new database, and ends it. Run it in the repository's root, where
// examples/hello is.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// limit is far above the few minutes it takes, so that only a hang meets it.
const limit = 40 * time.Minute

// parts are what can be measured, in the table's order.
var parts = []string{"engine", "rate", "boot", "store", "package", "xen"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // a second signal ends the process
	}()
	ctx, cancel := context.WithTimeout(ctx, limit)
	err := run(ctx, os.Args[1:])
	cancel()
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	default:
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	asJSON := flags.Bool("json", false, "print JSON instead of a table")
	only := flags.String("only", strings.Join(parts, ","), "measure only these `parts`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	wanted := strings.Split(*only, ",")
	for _, w := range wanted {
		if !slices.Contains(parts, w) {
			return fmt.Errorf("unknown part %q: want some of %s", w, strings.Join(parts, ", "))
		}
	}
	dir, err := os.MkdirTemp("", "morgana-bench-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // in the system's folder for what is temporary

	r := report{Conditions: conditions(ctx)}
	if slices.Contains(wanted, "engine") || slices.Contains(wanted, "rate") {
		err = measureEngine(ctx, dir, wanted, &r)
	}
	if err == nil && slices.Contains(wanted, "boot") {
		say("boot: the qemu target and QEMU alone")
		err = measureBoot(ctx, dir, &r)
	}
	if err == nil && slices.Contains(wanted, "store") {
		say("store: go test -bench")
		err = measureStore(ctx, &r)
	}
	if err == nil && slices.Contains(wanted, "package") {
		say("package: boot images")
		err = measurePackage(ctx, dir, &r)
	}
	if err == nil && slices.Contains(wanted, "xen") {
		say("xen: the xen target, the product and xl by hand")
		err = measureXen(ctx, dir, &r)
	}
	if err != nil {
		return err
	}
	if *asJSON {
		return r.writeJSON(os.Stdout)
	}
	return r.writeTable(os.Stdout)
}

// measureEngine measures what needs a server and a worker.
func measureEngine(ctx context.Context, dir string, wanted []string, r *report) (err error) {
	defer func() {
		log, _ := os.ReadFile(filepath.Join(dir, serverLog)) // not there if the server never was
		if err != nil && len(log) > 0 {
			err = fmt.Errorf("%w\nthe server's log ends:\n%s", err, log[max(0, len(log)-2000):])
		}
	}()
	s, err := startServer(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	e, err := startEngine(ctx, s.address)
	if err != nil {
		return err
	}
	defer e.stop()
	r.Conditions.Server = e.version
	say("engine: warming up")
	if err := e.warmUp(ctx); err != nil {
		return err
	}
	if slices.Contains(wanted, "engine") {
		say("engine: %d single deploys and bare workflows", overheadRuns)
		if err := measureOverhead(ctx, e, r); err != nil {
			return err
		}
	}
	if slices.Contains(wanted, "rate") {
		return measureRates(ctx, e, r)
	}
	return nil
}

// say tells on stderr what is going on; stdout is for the figures.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}
