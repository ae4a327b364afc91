package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/ec2lab"
)

// atEC2 is a project with a ready-made kernel, whose bytes are the app's own.
func (e *onEC2) atEC2(kernel []byte, app, options string) (folder string) {
	e.t.Helper()
	folder, _ = e.built(kernel, app, "")
	e.write(folder+"/morgana.yaml", "app: "+app+"\ntoolchain: {kind: prebuilt, kernel: kernel}\n"+
		"targets: {dev: {kind: ec2, args: stay, expect: hello from a unikernel, "+options+"}}\n")
	return folder
}

// comes waits until a call has come once more than before.
func (e *onEC2) comes(name string, before int) {
	e.t.Helper()
	e.eventually(name+" comes", func() bool { return e.count(name) > before })
}

// kill -9 of the worker in the calls of register, boot and destroy: there is one snapshot,
// one AMI and one instance, few blocks are sent twice, and in the end nothing is left.
func TestKillTheWorkerAtEC2(t *testing.T) {
	t.Parallel()
	e := newEC2(t, nil)
	folder := e.atEC2(e.kernel(), "killed", "")
	killed := func(verb string, calls ...string) {
		for _, call := range calls {
			e.cloud.Fault(ec2lab.Fault{Call: call, Delay: 10 * time.Second})
		}
		command := e.begin(folder, verb)
		for _, call := range calls {
			e.comes(call, 0)
			e.kill(e.worker)
			e.startWorker()
		}
		e.ends(command, 0)
	}
	killed("deploy", "StartSnapshot", "PutSnapshotBlock", "CompleteSnapshot", "RegisterImage", "RunInstances")
	e.holds(1)
	for block, n := range e.cloud.Puts(e.has("snapshot", "completed")[0]) {
		if n > 2 {
			t.Errorf("block %d was sent %d times", block, n)
		}
	}
	killed("destroy", "TerminateInstances", "DeleteSnapshot")
	e.asBefore()
}

// A deploy that is cancelled in register or boot leaves what was there before: nothing, or
// the generation before.
func TestCancelAtEC2(t *testing.T) {
	t.Parallel()
	e := newEC2(t, nil)
	kernel, c := e.kernel(), e.client()
	for _, call := range []string{"PutSnapshotBlock", "RegisterImage", "RunInstances", "GetConsoleOutput"} {
		app := "in-" + strings.ToLower(call)
		folder := e.atEC2(kernel, app, "")
		for generation, more := range [][]string{{}, {"--set", "dev.args=stay anew"}} {
			there := e.cloud.Resources()
			fault := ec2lab.Fault{Call: call, Delay: 2 * time.Second}
			if call == "RunInstances" {
				fault.Skip = generation // check's dry run, which needs an AMI
			}
			e.cloud.Fault(fault)
			more = append(more, "--set", "dev.expect=never said") // or a deploy might end before it is cancelled
			n := e.count(call) + fault.Skip
			deploy := e.begin(folder, append([]string{"deploy"}, more...)...)
			e.comes(call, n)
			if err := c.CancelWorkflow(t.Context(), rollout(app, generation+1), ""); err != nil {
				t.Fatal(err)
			}
			if r := e.ends(deploy, 1); !strings.Contains(r.errOut, "cancelled") || strings.Contains(r.errOut, "left:") {
				t.Errorf("%s: %s%s", call, r.out, r.errOut)
			}
			e.cloud.Heal()
			e.eventually("generation "+app+" is gone", func() bool { return slices.Equal(e.cloud.Resources(), there) })
			if generation == 0 {
				e.deployed(folder)
			}
		}
		e.ends(e.begin(folder, "destroy"), 0)
		e.asBefore()
	}
}

// Of each call that makes or removes something an answer is lost, and what is new is
// invisible for a time: there is one of each resource, and in the end none.
func TestLostAnswersOfEC2(t *testing.T) {
	t.Parallel()
	e := newEC2(t, nil)
	folder := e.atEC2(e.kernel(), "lost", "")
	e.cloud.Hide(time.Second)
	lose := func(calls ...string) {
		for _, call := range calls {
			e.cloud.Fault(ec2lab.Fault{Call: call, Lose: ec2lab.After})
		}
	}
	lost := func(calls ...string) {
		t.Helper()
		for _, call := range calls {
			if !slices.ContainsFunc(e.cloud.Calls(), func(c ec2lab.Call) bool { return c.Name == call && c.Code == "lost" }) {
				t.Errorf("no answer to %s was lost", call)
			}
		}
	}
	makes := []string{"StartSnapshot", "PutSnapshotBlock", "CompleteSnapshot", "RegisterImage", "RunInstances"}
	lose(makes...)
	e.deployed(folder)
	e.holds(1)
	lost(makes...)
	removes := []string{"TerminateInstances", "DeregisterImage", "DeleteSnapshot"}
	lose(removes...)
	e.ends(e.begin(folder, "destroy"), 0)
	e.asBefore()
	lost(removes...)
}

// A deploy that EC2 refuses in any stage says why and leaves the generation before.
func TestFailuresAtEC2(t *testing.T) {
	t.Parallel()
	e := newEC2(t, nil)
	folder := e.atEC2(e.kernel(), "fails", "")
	e.deployed(folder)
	there := e.cloud.Resources()
	for _, k := range []struct{ action, does, on string }{
		{"ec2:DescribeInstanceTypes", "ask about instance type t3.micro", "*"},
		{"ebs:StartSnapshot", "start a snapshot", "arn:aws:ec2:eu-west-1::snapshot/*"},
		{"ec2:RunInstances", "try to run an instance", "arn:aws:ec2:eu-west-1:111122223333:instance/*"},
	} {
		e.cloud.Deny(k.action)
		refusal{code: 2, line: k.does + ": arn:aws:iam::111122223333:user/ann is not allowed " + k.action + " on " + k.on +
			" because no identity-based policy allows the " + k.action + " action", hint: "allow " + k.action + " in the IAM policy"}.
			matches(t, e.morgana(folder, "deploy", "--set", "dev.args=stay anew"))
		if now := e.cloud.Resources(); !slices.Equal(now, there) {
			t.Errorf("without %s: %q, before: %q", k.action, now, there)
		}
	}
	e.cloud.Deny()
	refusal{code: 1, line: `boot: its console did not match "never said" within 8s`, hint: "hello from a unikernel"}.
		matches(t, e.morgana(folder, "deploy", "--set", "dev.expect=never said", "--set", "dev.timeout=8s"))
	if now := e.cloud.Resources(); !slices.Equal(now, there) {
		t.Errorf("not ready: %q, before: %q", now, there)
	}
	if s := e.morgana(folder, "status"); !strings.Contains(s.out, "up, last deploy failed") {
		t.Errorf("status:\n%s", s.out)
	}
	e.ends(e.begin(folder, "destroy"), 0)
	e.asBefore()
}
