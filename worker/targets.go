package main

import (
	"path/filepath"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/worker"

	"github.com/morgana-deploy/morgana/activities/command"
	"github.com/morgana-deploy/morgana/activities/ec2"
	"github.com/morgana-deploy/morgana/activities/local"
	"github.com/morgana-deploy/morgana/activities/mirage"
	"github.com/morgana-deploy/morgana/activities/prebuilt"
	"github.com/morgana-deploy/morgana/activities/qemu"
	"github.com/morgana-deploy/morgana/activities/xen"
	"github.com/morgana-deploy/morgana/activities/xenserver"
	"github.com/morgana-deploy/morgana/probe"
	"github.com/morgana-deploy/morgana/source"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/watch"
)

// kinds is the only list of targets and toolchains, and of the step that fetches sources. A
// new kind needs a folder under activities/ and a line here. builds is how many builds run
// at a time. A target's line says how often the machines that are restarted are looked at:
// processes of this host often, machines by ssh or by an API seldom.
func kinds(site step.Site, builds int) []kind {
	builders := newSlots(builds)
	return []kind{
		toolchain("command", command.New(site), builders),
		toolchain("mirage", mirage.New(site), builders),
		toolchain("prebuilt", prebuilt.New(site), newSlots(100)), // builds nothing

		fetcher(source.New(site)),

		target("local", site, local.New(site), 2*time.Second),
		target("qemu", site, qemu.New(site), 2*time.Second),
		target("xen", site, xen.New(site), 15*time.Second),
		target("ec2", site, ec2.New(site), time.Minute),
		target("xenserver", site, xenserver.New(site), 15*time.Second),
	}
}

// kind is a target or toolchain, or "source". Its activities are named "<kind>.<Stage>".
type kind struct {
	name string
	// does is the step.Target, step.Toolchain or source.Fetcher; it may be a step.Needer.
	does     any
	register func(worker.ActivityRegistry)
}

func fetcher(f *source.Fetcher) kind {
	return kind{name: source.Kind, does: f, register: func(w worker.ActivityRegistry) {
		naming(w, source.Kind)("Fetch", f.Fetch)
		naming(w, source.Kind)("FetchCheck", f.FetchCheck)
	}}
}

func target(name string, site step.Site, t step.Target, every time.Duration) kind {
	return kind{name: name, does: t, register: func(w worker.ActivityRegistry) {
		does := naming(w, name)
		does("Check", t.Check)
		does("Package", t.Package)
		does("Register", t.Register)
		does("Boot", t.Boot)
		does("Console", t.Console)
		does("Destroy", t.Destroy)
		does("Probe", probe.Prober{Target: t}.Probe)
		does("ProbeCheck", probe.Prober{Target: t}.Check)
		if o, ok := t.(step.Observer); ok {
			does("Observe", o.Observe)
			does("ObserveAll", watch.All(o.Observe))
			does("Watch", watch.Watcher{Observe: o.Observe, Every: every, Host: site.Host, Tries: tries(site)}.Watch)
		}
		if l, ok := t.(step.Lister); ok {
			does("List", l.List)
		}
		if f, ok := t.(step.Forecaster); ok {
			does("Forecast", f.Forecast)
		}
	}}
}

// toolchain makes a kind whose Configure and Build wait for a slot. They wait
// here and not in the task queue: Temporal cannot distinguish a queue whose workers are
// busy from one that no worker polls. Clean does not wait.
func toolchain(name string, t step.Toolchain, s *slots) kind {
	return kind{name: name, does: t, register: func(w worker.ActivityRegistry) {
		does := naming(w, name)
		does("Configure", inSlot(s, t.Configure))
		does("Build", inSlot(s, t.Build))
		does("Clean", t.Clean)
		if b, ok := t.(step.Builder); ok {
			does("Built", b.Built)
		}
		if l, ok := t.(step.Lister); ok {
			does("List", l.List)
		}
	}}
}

func naming(w worker.ActivityRegistry, kind string) func(string, any) {
	return func(stage string, f any) {
		w.RegisterActivityWithOptions(f, activity.RegisterOptions{Name: kind + "." + stage})
	}
}

// tries is where the watches of this host keep their task tokens.
func tries(site step.Site) watch.Tries { return watch.Tries(filepath.Join(site.State, "watch")) }
