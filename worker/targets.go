package main

import (
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/worker"

	"github.com/morgana-deploy/morgana/activities/command"
	"github.com/morgana-deploy/morgana/activities/prebuilt"
	"github.com/morgana-deploy/morgana/activities/qemu"
	"github.com/morgana-deploy/morgana/step"
)

// rooms is the one list of what this worker can do. A new target or toolchain
// is a folder under activities/ and a line here.
func rooms(site step.Site) []room {
	return []room{
		toolchain("command", command.New(site)),
		toolchain("prebuilt", prebuilt.New(site)),

		target("qemu", qemu.New(site)),
	}
}

// room is a kind with its activities, "<kind>.<Stage>".
type room struct {
	kind     string
	register func(worker.ActivityRegistry)
	// builds says that its work is bounded by the setting "builds".
	builds bool
}

func target(kind string, t step.Target) room {
	return room{kind: kind, register: func(w worker.ActivityRegistry) {
		name := naming(w, kind)
		name("Check", t.Check)
		name("Package", t.Package)
		name("Register", t.Register)
		name("Boot", t.Boot)
		name("Console", t.Console)
		name("Destroy", t.Destroy)
	}}
}

func toolchain(kind string, t step.Toolchain) room {
	return room{kind: kind, builds: true, register: func(w worker.ActivityRegistry) {
		name := naming(w, kind)
		name("Configure", t.Configure)
		name("Build", t.Build)
		name("Clean", t.Clean)
	}}
}

func naming(w worker.ActivityRegistry, kind string) func(string, any) {
	return func(stage string, f any) {
		w.RegisterActivityWithOptions(f, activity.RegisterOptions{Name: kind + "." + stage})
	}
}
