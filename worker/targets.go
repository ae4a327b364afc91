package main

import (
	"context"
	"fmt"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/worker"

	"github.com/morgana-deploy/morgana/activities/command"
	"github.com/morgana-deploy/morgana/activities/ec2"
	"github.com/morgana-deploy/morgana/activities/local"
	"github.com/morgana-deploy/morgana/activities/mirage"
	"github.com/morgana-deploy/morgana/activities/prebuilt"
	"github.com/morgana-deploy/morgana/activities/qemu"
	"github.com/morgana-deploy/morgana/activities/xen"
	"github.com/morgana-deploy/morgana/step"
)

// kinds is the only list of targets and toolchains. A new one needs a folder under
// activities/ and a line here. builds is how many builds run at a time.
func kinds(site step.Site, builds int) []kind {
	slots := make(chan struct{}, builds)
	return []kind{
		toolchain("command", command.New(site), slots),
		toolchain("mirage", mirage.New(site), slots),
		toolchain("prebuilt", prebuilt.New(site), make(chan struct{}, 100)), // builds nothing

		target("local", local.New(site)),
		target("qemu", qemu.New(site)),
		target("xen", xen.New(site)),
		target("ec2", ec2.New(site)),
	}
}

// kind is a target or toolchain. Its activities are named "<kind>.<Stage>".
type kind struct {
	name string
	// does is the step.Target or step.Toolchain; it may be a step.Needer.
	does     any
	register func(worker.ActivityRegistry)
}

func target(name string, t step.Target) kind {
	return kind{name: name, does: t, register: func(w worker.ActivityRegistry) {
		does := naming(w, name)
		does("Check", t.Check)
		does("Package", t.Package)
		does("Register", t.Register)
		does("Boot", t.Boot)
		does("Console", t.Console)
		does("Destroy", t.Destroy)
		if o, ok := t.(step.Observer); ok {
			does("Observe", o.Observe)
		}
		if l, ok := t.(step.Lister); ok {
			does("List", l.List)
		}
		if f, ok := t.(step.Forecaster); ok {
			does("Forecast", f.Forecast)
		}
	}}
}

// toolchain makes a kind whose Configure and Build wait for one of slots. They wait
// here and not in the task queue: Temporal cannot distinguish a queue whose workers are
// busy from one that no worker polls. Clean does not wait.
func toolchain(name string, t step.Toolchain, slots chan struct{}) kind {
	return kind{name: name, does: t, register: func(w worker.ActivityRegistry) {
		does := naming(w, name)
		does("Configure", inSlot(slots, t.Configure))
		does("Build", inSlot(slots, t.Build))
		does("Clean", t.Clean)
	}}
}

// inSlot returns a step that waits for a free slot and then calls do.
func inSlot[In, Out any](slots chan struct{}, do func(context.Context, In) (Out, error)) func(context.Context, In) (Out, error) {
	return func(ctx context.Context, in In) (out Out, err error) {
		select {
		case slots <- struct{}{}:
		default:
			step.Report(ctx, step.Progress{Note: fmt.Sprintf("waiting: this host is busy with %d other builds", cap(slots))})
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return out, ctx.Err()
			}
		}
		defer func() { <-slots }()
		return do(ctx, in)
	}
}

func naming(w worker.ActivityRegistry, kind string) func(string, any) {
	return func(stage string, f any) {
		w.RegisterActivityWithOptions(f, activity.RegisterOptions{Name: kind + "." + stage})
	}
}
