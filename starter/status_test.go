package main

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/common/v1"
	enums "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

func TestTable(t *testing.T) {
	now := time.Date(2026, 11, 26, 9, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	line := func(target string, change func(*deploymentLine)) deploymentLine {
		l := deploymentLine{App: "web", Target: target, State: "up"}
		l.Started = ago(24 * time.Hour)
		l.Kind, l.Machine = "qemu", &step.Machine{ID: "7", Addresses: []step.Address{{Kind: "tcp", Address: "10.0.0.1", Port: 80}}}
		l.Machine.Registration.Spec.Generation = 3
		change(&l)
		return l
	}
	lines := []deploymentLine{
		line("told", func(l *deploymentLine) {
			l.take(workflows.Observed{Health: &step.Health{State: step.Running, Since: ago(time.Minute), Addresses: []step.Address{{Kind: "ip", Address: "10.0.0.2"}}}})
		}),
		line("crashed", func(l *deploymentLine) {
			l.LastDeploy, l.RolledBackTo = workflows.EndFailed, 2
			l.take(workflows.Observed{Health: &step.Health{State: step.Ended, How: "crashed"}})
			l.Failure = "no gcc"
			l.Watch.Booted = ago(time.Hour)
		}),
		line("far", func(l *deploymentLine) { l.take(workflows.Observed{Failure: "connection refused"}) }),
		line("rolling", func(l *deploymentLine) {
			l.State, l.LastDeploy, l.Rolling = "rolling", workflows.EndRolledBack, &step.Tags{Generation: 4}
		}),
		line("mute", func(l *deploymentLine) { l.take(workflows.Observed{}) }),
		line("job", func(l *deploymentLine) { // it had ended before its deploy was done
			l.Machine.Ended, l.Watch.Booted = true, ago(time.Hour)
			l.take(workflows.Observed{Health: &step.Health{State: step.Ended, How: "exit status 0"}})
		}),
		line("restarted", func(l *deploymentLine) {
			l.Policy.Restart, l.Restarts = step.RestartAlways, 4
			l.Watch = workflows.Watch{InRow: 4, Due: now, Failure: "port in use", Booted: ago(time.Hour), Ended: &step.Health{}, Seen: ago(time.Minute)}
			l.take(workflows.Observed{Health: &step.Health{State: step.Gone}})
		}),
	}
	var out strings.Builder
	if err := table(&out, lines, now, false); err != nil {
		t.Fatal(err)
	}
	due := "restart 5 is due at " + now.Local().Format(time.TimeOnly)
	want := `APP TARGET KIND GENERATION STATE AGE RESTARTS MACHINE ADDRESSES FAILURE
web told qemu 3 up 1m0s - 7 10.0.0.2
web crashed qemu 3 ended (crashed), last deploy failed, rolled back to 2 - - 7 - no gcc
web far qemu 3 unreachable 24h0m0s - 7 10.0.0.1:80 connection refused
web rolling qemu 3 rolling out 4 24h0m0s - 7 10.0.0.1:80
web mute qemu 3 up 24h0m0s - 7 10.0.0.1:80
web job qemu 3 ended (exit status 0) 1h0m0s - 7 -
web restarted qemu 3 gone 1m0s 4 7 - restart: port in use; ` + due + "\n"
	var got strings.Builder
	for l := range strings.Lines(out.String()) {
		got.WriteString(strings.Join(strings.Fields(l), " ") + "\n")
	}
	if got.String() != want {
		t.Errorf("got\n%swant\n%s", got.String(), want)
	}
}

// On a terminal of 80 columns the table of status --watch shows the age and the restarts,
// and the failures are below it.
func TestNarrowTable(t *testing.T) {
	l := deploymentLine{App: "website", Target: "production", State: "ended", Health: &step.Health{State: step.Ended, How: "exit status 137, out of memory"}}
	l.Kind, l.Machine = "firecracker", &step.Machine{ID: "website.production.1a2b3c4d.3"}
	l.LastDeploy, l.Failure, l.Policy.Restart, l.Restarts = workflows.EndFailed, "no gcc", step.RestartAlways, 4
	got := tableLines([]deploymentLine{l}, "", true)
	if len(got) != 3 || got[2] != "website/production: last deploy failed; no gcc" {
		t.Fatalf("got %q", got)
	}
	for _, cell := range []string{"AGE  RESTARTS  ", "-    4  "} {
		row := got[0]
		if strings.HasPrefix(cell, "-") {
			row = got[1]
		}
		if at := strings.Index(row, cell); at < 0 || at+len(cell) > 80 {
			t.Errorf("%q is at %d of %q", cell, at, row)
		}
	}
	if !strings.Contains(got[1], " website.pro…  ") {
		t.Errorf("the id is not short: %q", got[1])
	}
}

// An outage of the server does not end status --watch, and is told once.
func TestWatchOutlivesAnOutage(t *testing.T) {
	watchPause = time.Millisecond
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	var out, errOut lines
	up, looks := []deploymentLine{{App: "web", Target: "loc", State: "up"}}, 0
	err := (&cli{out: &output{w: &out}, err: &output{w: &errOut}}).watch(ctx, "", func() ([]deploymentLine, error) {
		switch looks++; looks {
		case 2, 3:
			return nil, errors.New("connection refused")
		case 5:
			interrupt()
		}
		return up, nil
	})
	if !errors.Is(err, errDetached) || strings.Count(out.text.String(), "web ") != 2 || strings.Count(errOut.text.String(), ": connection refused\n") != 1 {
		t.Errorf("%v\n%s%s", err, out.text.String(), errOut.text.String())
	}
	down := errors.New("connection refused")
	if err := (&cli{}).watch(t.Context(), "", func() ([]deploymentLine, error) { return nil, down }); !errors.Is(err, down) {
		t.Errorf("without a first list: %v", err)
	}
}

// A run that continued as new is no deployment of its own, and one that ended well was
// destroyed.
func TestEndedDeployments(t *testing.T) {
	for status, want := range map[enums.WorkflowExecutionStatus]string{
		enums.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW: "",
		enums.WORKFLOW_EXECUTION_STATUS_COMPLETED:        "destroyed",
		enums.WORKFLOW_EXECUTION_STATUS_TERMINATED:       "terminated",
	} {
		info := &workflowpb.WorkflowExecutionInfo{Execution: &common.WorkflowExecution{WorkflowId: "deployment/web/loc"}, Status: status}
		if l, ok := (&connection{}).describe(t.Context(), info, true); ok != (want != "") || ok && l.State != want {
			t.Errorf("%s is listed: %t, as %q; want %q", status, ok, l.State, want)
		}
	}
}

// A host that does not answer does not hold up the lines of others, and --watch prints a
// line when it changes.
func TestStatusAsksEachTarget(t *testing.T) {
	to := withServer(t)
	serveWorkflows(t, to)
	serveMoon(t, to, func(step.Spec) error { return nil })
	inFolder(t, map[string]string{config.Filename: "app: two\ntoolchain: {kind: moon}\ntargets: {near: {kind: moon}, far: {kind: moon, steps: {observe: {activity: moon.Observe, taskQueue: dark}}}}\n"})
	if status, out, errOut := morgana(t, "deploy", "--all"); status != 0 {
		t.Fatal(out, errOut)
	}
	began := time.Now()
	_, out, errOut := morgana(t, "status", "-o", "json")
	if took := time.Since(began); took > time.Minute {
		t.Errorf("status took %s", took)
	}
	states := map[string]string{}
	for l := range strings.Lines(out) {
		var line deploymentLine
		if err := json.Unmarshal([]byte(l), &line); err != nil {
			t.Fatal(err)
		}
		states[line.Target] = line.State + " " + line.Note
	}
	if states["near"] != "up " || states["far"] != `unreachable find a worker: no worker polls task queue "dark"` {
		t.Errorf("states %q, %s", states, errOut)
	}

	watchPause = 10 * time.Millisecond
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	var live lines
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, []string{"status", "two/near", "--watch", "-o", "json"}, &live, &live) }()
	eventually := func(what string) {
		t.Helper()
		for began := time.Now(); !live.has(what); time.Sleep(look) {
			if time.Since(began) > 2*time.Minute {
				t.Fatalf("no %s in %s", what, live.text.String())
			}
		}
	}
	eventually(`"state":"up"`)
	if status, out, errOut := morgana(t, "destroy", "two/near"); status != 0 {
		t.Fatal(out, errOut)
	}
	eventually(`{"app":"two","state":"removed","target":"near"}` + "\n")
	if n := strings.Count(live.text.String(), `"state":"up"`); n != 1 {
		t.Errorf("%d lines for a machine that did not change:\n%s", n, live.text.String())
	}
	interrupt()
	if status := <-ended; status != interrupted {
		t.Errorf("exit %d after Ctrl-C", status)
	}
}
