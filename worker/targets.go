package main

import (
	"context"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/worker"

	"github.com/morgana-deploy/morgana/activities/command"
	"github.com/morgana-deploy/morgana/activities/local"
	"github.com/morgana-deploy/morgana/activities/mirage"
	"github.com/morgana-deploy/morgana/activities/prebuilt"
	"github.com/morgana-deploy/morgana/activities/qemu"
	"github.com/morgana-deploy/morgana/activities/xen"
	"github.com/morgana-deploy/morgana/step"
)

// kinds is the one list of what this worker can do. A new target or toolchain
// is a folder under activities/ and a line here. Builds are how many run here at
// a time.
func kinds(site step.Site, builds int) []kind {
	slots := make(chan struct{}, builds)
	return []kind{
		toolchain("command", command.New(site), slots),
		toolchain("mirage", mirage.New(site), slots),
		toolchain("prebuilt", prebuilt.New(site), make(chan struct{}, 100)), // builds nothing

		target("local", local.New(site)),
		target("qemu", qemu.New(site)),
		target("xen", xen.New(site)),
	}
}

// kind is a target or toolchain with its activities, "<kind>.<Stage>".
type kind struct {
	name string
	// does is the step.Target or step.Toolchain; it may be a step.Needer.
	does     any
	register func(worker.ActivityRegistry)
	// atOnce bounds the steps taken from the queue that any host may serve; 0
	// is the SDK's default.
	atOnce int
}

func target(name string, t step.Target) kind {
	return kind{name: name, does: t, register: func(w worker.ActivityRegistry) {
		name := naming(w, name)
		name("Check", t.Check)
		name("Package", t.Package)
		name("Register", t.Register)
		name("Boot", t.Boot)
		name("Console", t.Console)
		name("Destroy", t.Destroy)
	}}
}

// toolchain bounds builds apart from the rest: a host takes no more to configure
// than it may build, for another host may be free, while a build, which is its
// own, waits here for a slot, so that Clean never waits behind it.
func toolchain(name string, t step.Toolchain, slots chan struct{}) kind {
	build := func(ctx context.Context, src step.Source) (step.Kernel, error) {
		select {
		case slots <- struct{}{}:
		default:
			step.Report(ctx, step.Progress{Note: "waiting for another build on this host"})
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return step.Kernel{}, ctx.Err()
			}
		}
		defer func() { <-slots }()
		return t.Build(ctx, src)
	}
	return kind{name: name, does: t, atOnce: cap(slots), register: func(w worker.ActivityRegistry) {
		name := naming(w, name)
		name("Configure", t.Configure)
		name("Build", build)
		name("Clean", t.Clean)
	}}
}

func naming(w worker.ActivityRegistry, kind string) func(string, any) {
	return func(stage string, f any) {
		w.RegisterActivityWithOptions(f, activity.RegisterOptions{Name: kind + "." + stage})
	}
}
