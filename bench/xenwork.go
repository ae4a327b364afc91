package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// work is what something makes of a Xen host: round trips of ssh, and processes
// that started there, those of sshd among them.
type work struct{ trips, processes float64 }

func (w *work) add(o work) { w.trips, w.processes = w.trips+o.trips, w.processes+o.processes }

// work counts, untimed, what a deploy's stages do, and what is done by hand.
func (x *xenRounds) work(ctx context.Context, dir string, r *report) (err error) {
	calls, restore, err := countSSH(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, restore()) }()
	// Reading the counter has processes of its own.
	nothing, err := x.hand.counted(ctx, calls, work{}, func() error { return nil })
	if err != nil {
		return err
	}
	add := func(what string, ours, hand work) {
		var trips, processes comparison
		trips.add(ours.trips, hand.trips)
		processes.add(ours.processes, hand.processes)
		r.add(what+": round trips / by hand", count, trips)
		r.add("... processes on the host / by hand", count, processes)
	}
	for _, is := range []struct {
		new  bool
		what string
	}{{true, "kernel new to the host"}, {false, "kernel that is there"}} {
		kernel := x.there
		if is.new {
			if kernel, err = x.fresh(); err != nil {
				return err
			}
		}
		var ours, gone work
		if err := x.steps.each(ctx, kernel, xenStages, func(stage string, do func() error) error {
			w, err := x.hand.counted(ctx, calls, nothing, do)
			say("xen: %s, %s: %.0f round trips, %.0f processes on the host", is.what, stage, w.trips, w.processes)
			if stage == "destroy" {
				gone = w
			} else {
				ours.add(w)
			}
			return err
		}); err != nil {
			return err
		}
		if !is.new { // its copy is not counted
			if err := x.hand.write(ctx, handKernel, kernel); err != nil {
				return err
			}
		}
		hand, err := x.hand.counted(ctx, calls, nothing, func() error { return x.hand.deploy(ctx, kernel, is.new) })
		if err != nil {
			return err
		}
		handGone, err := x.hand.counted(ctx, calls, nothing, func() error { return x.hand.destroy(ctx) })
		if err != nil {
			return err
		}
		add("xen target's stages, "+is.what, ours, hand)
		if !is.new {
			add("xen target's destroy", gone, handGone)
		}
	}
	return nil
}

// counted says what do makes of the host, less nothing.
func (h *byHand) counted(ctx context.Context, calls func() (int, error), nothing work, do func() error) (w work, err error) {
	processes, err := h.processes(ctx)
	if err != nil {
		return w, err
	}
	trips, err := calls()
	if err != nil {
		return w, err
	}
	if err := do(); err != nil {
		return w, err
	}
	tripsNow, err := calls()
	if err != nil {
		return w, err
	}
	now, err := h.processes(ctx)
	return work{float64(tripsNow-trips) - nothing.trips, now - processes - nothing.processes}, err
}

// processes is how many were ever started in dom0.
func (h *byHand) processes(ctx context.Context) (n float64, err error) {
	stat, err := h.said(ctx, "cat", "/proc/stat")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(stat, "\nprocesses ")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		return 0, fmt.Errorf("read /proc/stat: %w", err)
	}
	return n, nil
}

// countSSH puts an ssh first in this process's PATH that notes its calls.
func countSSH(dir string) (calls func() (int, error), restore func() error, err error) {
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		return nil, nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, nil, err
	}
	log := filepath.Join(dir, "calls")
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		return nil, nil, err
	}
	const wrapper = "#!/bin/sh\necho >>\"${0%/*}/calls\"\nexec \"${0%/*}/real\" \"$@\"\n"
	if err := os.Symlink(ssh, filepath.Join(dir, "real")); err != nil {
		return nil, nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte(wrapper), 0o700); err != nil {
		return nil, nil, err
	}
	calls = func() (int, error) {
		b, err := os.ReadFile(log)
		return len(b), err // one byte a call
	}
	path := os.Getenv("PATH")
	restore = func() error { return os.Setenv("PATH", path) }
	return calls, restore, os.Setenv("PATH", dir+string(os.PathListSeparator)+path)
}
