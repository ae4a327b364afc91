package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/morgana-deploy/morgana/activities/ec2"
	"github.com/morgana-deploy/morgana/ec2lab"
	"github.com/morgana-deploy/morgana/step"
)

// onEC2 is a lab whose worker deploys to an EC2 of its own.
type onEC2 struct {
	*lab
	cloud  *ec2lab.Lab
	before []string // what is in the account without any deploy
}

// imports is a bucket of the account.
const imports = "disks"

// newEC2 starts a lab whose instances run on h, or are pretended if h is nil.
func newEC2(t *testing.T, h ec2lab.Hypervisor) *onEC2 {
	t.Helper()
	cloud, err := ec2lab.Start(ec2lab.Options{Hypervisor: h})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cloud.Close(); err != nil {
			t.Error(err)
		}
	})
	cloud.SetConsole(func(string) string { return "hello from a unikernel\n" })
	cloud.MakeBucket(imports, cloud.Region(), "") // no deploy removes one
	l := newLab(t)
	l.restartWorker(cloud.Env())
	return &onEC2{l, cloud, cloud.Resources()}
}

// hellos is hello from source with targets, which have these options each.
func (e *onEC2) hellos(options map[string]string) (folder string) {
	e.t.Helper()
	folder = e.hello()
	text := "app: hello\ntoolchain: {kind: command, build: [[make]], kernel: hello}\ntargets:\n"
	for target, o := range options {
		text += fmt.Sprintf("  %s: {kind: ec2, keep: 1, expect: staying, %s}\n", target, o)
	}
	e.write(filepath.Join(folder, "morgana.yaml"), text)
	return folder
}

// prints fails the test unless the console of each target has hello's text.
func (e *onEC2) prints(folder, mode, args string, targets ...string) {
	e.t.Helper()
	want := "boot mode: " + mode + "\ncommand line: [" + args + "]\nstaying\n"
	for _, target := range targets {
		r := e.morgana(folder, "console", "hello/"+target)
		if !strings.Contains(strings.ReplaceAll(r.out, "\r", ""), want) {
			e.t.Errorf("%s: want %q in\n%s%s", target, want, r.out, r.errOut)
		}
	}
}

// has returns the ids of the account's resources of a kind in a state. Those that were
// there before are left out.
func (e *onEC2) has(kind, state string) (ids []string) {
	for _, line := range e.cloud.Resources() {
		words := strings.Fields(line)
		if words[0] == kind && words[len(words)-1] == state && !slices.Contains(e.before, line) {
			ids = append(ids, words[1])
		}
	}
	return ids
}

// holds fails the test unless the account has n AMIs, snapshots, instances, volumes and
// network interfaces, nothing more, and the target lists the same.
func (e *onEC2) holds(n int) {
	e.t.Helper()
	for kind, state := range map[string]string{"image": "available", "snapshot": "completed", "instance": "running", "volume": "in-use", "interface": "in-use"} {
		if ids := e.has(kind, state); len(ids) != n {
			e.t.Errorf("%d resources of kind %s, want %d: %q", len(ids), kind, n, ids)
		}
	}
	var all []string
	for _, line := range e.cloud.Resources() {
		if !slices.Contains(e.before, line) {
			all = append(all, strings.Fields(line)[1])
		}
	}
	if len(all) != 5*n {
		e.t.Errorf("in the account: %q", e.cloud.Resources())
	}
	slices.Sort(all)
	if listed := e.listed(); !slices.Equal(listed, all) {
		e.t.Errorf("the target lists %q, in the account are %q", listed, all)
	}
}

// listed asks the target for its resources.
func (e *onEC2) listed() (ids []string) {
	e.t.Helper()
	h, err := e.client().ExecuteActivity(e.t.Context(), client.StartActivityOptions{
		ID: fmt.Sprintf("list-%d", time.Now().UnixNano()), TaskQueue: ec2.Kind, ScheduleToCloseTimeout: waits}, ec2.Kind+".List", step.Spec{Kind: ec2.Kind})
	var all []step.Resource
	if err == nil {
		err = h.Get(e.t.Context(), &all)
	}
	if err != nil {
		e.t.Fatal(err)
	}
	for _, r := range all {
		ids = append(ids, r.ID)
	}
	slices.Sort(ids)
	return ids
}

// asBefore fails the test unless the account and the worker's folders are as before, and
// each request to the lab was one of EC2's API.
func (e *onEC2) asBefore() {
	e.t.Helper()
	if now := e.cloud.Resources(); !slices.Equal(now, e.before) {
		e.t.Errorf("in the account: %q, before: %q", now, e.before)
	}
	e.clean()
	e.t.Run("requests", func(t *testing.T) { ec2lab.Judge(t, e.cloud.Calls()) })
}

// count returns how many calls of a name came.
func (e *onEC2) count(name string) (n int) {
	for _, c := range e.cloud.Calls() {
		if c.Name == name {
			n++
		}
	}
	return n
}
