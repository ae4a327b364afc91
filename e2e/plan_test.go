package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.temporal.io/api/workflowservice/v1"
)

// A plan makes nothing, and its exit status says whether a deploy would do something.
func TestPlan(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.env = append(l.env, "AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_PROFILE=")
	l.restartWorker(nil)
	folder := l.source("planned", "make\n", stays)
	type plan struct {
		Change bool
		Why    string
		Sends  []struct{ Bytes *int64 }
		Stages []struct{ Run bool }
		Error  *struct{ Kind, Message string }
	}
	planned := func(code int, why string, args ...string) (p plan) {
		t.Helper()
		before := [][]string{l.outside(), l.artifacts()}
		r := l.morgana(folder, append([]string{"plan", "-o", "json"}, args...)...)
		if err := json.Unmarshal([]byte(r.out), &p); err != nil || r.code != code || p.Why != why {
			t.Errorf("%v: exit %d, why %q (%v); want %d, %q\n%s%s", args, r.code, p.Why, err, code, why, r.out, r.errOut)
		}
		if after := [][]string{l.outside(), l.artifacts()}; !slices.EqualFunc(before, after, slices.Equal[[]string]) {
			t.Errorf("%v made something: %q, then %q", args, before, after)
		}
		return p
	}
	if p := planned(3, "no machine runs"); len(p.Sends) != 2 || p.Sends[0].Bytes == nil || !p.Stages[2].Run {
		t.Errorf("the first: %+v", p)
	}
	all, err := l.client().ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{
		Namespace: l.ready.Namespace, Query: "WorkflowType = 'Deployment'"})
	if err != nil || len(all.GetExecutions()) > 0 {
		t.Errorf("a plan made a Deployment: %v %v", all, err)
	}
	l.deployed(folder)
	if p := planned(0, ""); len(p.Sends) > 0 || p.Stages[2].Run {
		t.Errorf("after a deploy: %+v", p)
	}
	planned(3, "the target's options differ", "--set", "dev.memory=72")
	planned(3, "a new machine is forced", "--force")
	theirs := l.source("planned", "make\n", stays)
	if r := l.morgana(theirs, "plan"); r.code != 2 || !strings.Contains(r.errOut, "is deployed from another folder") {
		t.Errorf("of another project: exit %d\n%s%s", r.code, r.out, r.errOut)
	}
	l.write(folder+"/build.sh", "make # anew\n")
	planned(3, "the kernel is built")
	if p := planned(2, "", "--set", "dev.memroy=72"); p.Error == nil || p.Error.Kind != "InvalidSpec" {
		t.Errorf("a wrong option: %+v", p.Error)
	}

	yaml := l.read(folder + "/morgana.yaml")
	l.write(folder+"/morgana.yaml", strings.Replace(yaml, "memory: 64", "memory: 64, health: {tcp: 1}", 1))
	if p := planned(2, ""); p.Error == nil || p.Error.Message != "the machine has no address to probe" {
		t.Errorf("a probe of a port that does not lead to the machine: %+v", p.Error)
	}

	// A target without credentials does not keep the others from being shown.
	l.write(folder+"/morgana.yaml", `app: planned
toolchain: {kind: command, build: [[sh, ./build.sh]], kernel: hello}
targets:
  cloud: {kind: ec2, region: eu-west-1}
  dev: {kind: qemu, memory: 64, `+stays+`}
`)
	r := l.morgana(folder, "plan", "--all")
	if r.code != 2 || !strings.Contains(r.errOut, "error: planned/cloud: ") || !strings.Contains(r.errOut, "no AWS credentials") ||
		!strings.Contains(r.out, "planned/dev: generation 2, the kernel is built\n") || !strings.Contains(r.out, "no prices are known for kind qemu\n") {
		t.Errorf("exit %d:\n%s%s", r.code, r.out, r.errOut)
	}
	l.morgana(folder, "destroy", "-t", "dev")

	// Only a deploy puts a kernel that exists already into the store.
	folder = l.project("app: given\ntoolchain: {kind: prebuilt, kernel: run}\ntargets: {dev: {kind: local, args: ['30']}}\n")
	sleep, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	l.write(filepath.Join(folder, "run"), string(sleep))
	if p := planned(3, "no machine runs"); len(p.Sends) != 2 {
		t.Errorf("a kernel not yet stored: %+v", p)
	}
	l.write(filepath.Join(folder, "morgana.yaml"), "app: given\ntoolchain: {kind: prebuilt, kernel: run}\ntargets: {dev: {kind: local, args: ['0']}}\n")
	l.deployed(folder)
	if p := planned(3, "the machine has ended"); len(p.Sends) != 1 || !p.Stages[4].Run {
		t.Errorf("after its end: %+v", p)
	}
	l.morgana(folder, "destroy")
	l.clean()
}
