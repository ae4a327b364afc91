package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// The lines of a plan, for programs and for people.
func TestPlanLines(t *testing.T) {
	kernel := step.Kernel{File: step.Artifact{Size: 20480}, ABIs: []string{"pvh"}}
	current := &workflows.Current{Machine: step.Machine{ID: "i-1", Addresses: []step.Address{{Kind: "ip", Address: "10.0.0.2"}},
		Registration: step.Registration{Spec: step.Spec{Tags: step.Tags{Generation: 4}}}}}
	actions := []step.Action{{Call: "ec2:RegisterImage", Why: "make the AMI", Permission: "ec2:RegisterImage"},
		{Call: "ec2:RunInstances", Why: "run it as hello." + noLife + "-1", Permission: "ec2:RunInstances", Cost: "$1"}}
	size := int64(4096)
	source := &sending{What: "the source", To: "store s3://b", Bytes: &size}
	var out bytes.Buffer
	c := &cli{out: &out}
	show := func(now workflows.DeploymentDetails, f workflows.Forecast, source *sending) {
		l := planLine{App: "hello", Target: "dev", Kind: "ec2", Generation: now.Generation + 1}
		f.Spec.Toolchain.Kind = "mirage"
		l.fill(workflows.DeployRequest{Policy: now.Policy}, now, f, source)
		c.emit(l)
		for _, line := range l.text() {
			c.print("%s", line)
		}
	}
	running := workflows.DeploymentDetails{DeploymentState: workflows.DeploymentState{Life: "aa", Generation: 4, Current: current}}
	show(workflows.DeploymentDetails{}, workflows.Forecast{Built: &step.Built{Host: "h1"}, Actions: actions, Why: "no machine runs"}, source)
	actions[1].Why = "run it as hello.aa-5"
	show(running, workflows.Forecast{Built: &step.Built{Host: "h1", Kernel: &kernel}, Actions: actions, Why: "the kernel differs",
		Health: &step.Health{State: step.Running}}, nil)
	show(running, workflows.Forecast{Built: &step.Built{Host: "h1", Kernel: &kernel}, Actions: actions, Same: true, Health: &step.Health{State: step.Running}}, nil)
	show(running, workflows.Forecast{Built: &step.Built{Kernel: &kernel}, Same: true, Health: &step.Health{State: step.Gone}}, nil)
	running.Rolling = &workflows.Request{Spec: step.Spec{Tags: step.Tags{Generation: 5}}}
	show(running, workflows.Forecast{Built: &step.Built{Kernel: &kernel}, Unknown: []string{"whether the machine runs: its kind has no Observe"}, Same: true}, nil)

	running.Rolling, running.Policy.Health = nil, &step.Probe{HTTP: "/", Window: "30s"}
	git := workflows.Forecast{Why: "the kernel is not known before the build"}
	git.Spec.Origin.Git = &step.Git{URL: "https://example.org/a", Ref: "main", Commit: strings.Repeat("c", 40)}
	show(running, git, nil)

	const golden = "testdata/plan.txt" // MORGANA_UPDATE=1 writes it anew
	if os.Getenv("MORGANA_UPDATE") != "" {
		if err := os.WriteFile(golden, out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || out.String() != string(want) {
		t.Errorf("%v: got\n%s\nwant\n%s", err, out.String(), want)
	}
	if strings.Contains(out.String(), noLife) {
		t.Error("the placeholder of a life is shown")
	}
}
