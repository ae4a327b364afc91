package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.temporal.io/api/common/v1"
	"go.temporal.io/api/sdk/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/proto"

	"github.com/morgana-deploy/morgana/workflows"
)

// What Temporal's UI shows of a deploy, as its API gives it.
func TestTheUIReadsWell(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	folder := l.source("shown", "sleep 2\nmake\n", stays) // a stage that lasts a second is told
	l.deployed(folder)
	c := l.client()

	for _, k := range []struct {
		id, summary, details string
		current              []string
	}{
		{workflows.DeploymentID("shown", "dev"), "shown on dev", "A running workflow is a running machine.",
			[]string{"**shown/dev** on qemu", "| last generation | 1 |", "| machine |", `| ready | console matched "hello from a unikernel" |`}},
		{rollout("shown", 1), "shown on dev", "",
			[]string{"**shown/dev** generation 1", "| stage | state | time | result |", "| check | done |", "| configure | done |",
				"| build | done |", "| package | done |", "| register | done |", "| boot | done |", "pvh", `console matched "hello from a unikernel"`}},
	} {
		about, err := c.DescribeWorkflow(t.Context(), k.id, "")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := about.GetStaticSummary(); got != k.summary || err != nil {
			t.Errorf("%s: static summary %q, want %q (%v)", k.id, got, k.summary, err)
		}
		if got, err := about.GetStaticDetails(); got != k.details || err != nil {
			t.Errorf("%s: static details %q, want %q (%v)", k.id, got, k.details, err)
		}
		current := currentDetails(t, c, k.id)
		for _, want := range k.current {
			if !strings.Contains(current, want) {
				t.Errorf("%s: %q is not in the current details:\n%s", k.id, want, current)
			}
		}
	}

	summaries := map[string]string{}
	for _, e := range l.history(c, rollout("shown", 1), "").Events {
		if a := e.GetActivityTaskScheduledEventAttributes(); a != nil {
			summaries[a.GetActivityType().GetName()] = text(t, e.GetUserMetadata().GetSummary())
		}
	}
	host, _ := os.Hostname() // the worker found it as well
	host = strings.ToLower(host)
	for activity, want := range map[string]string{
		"qemu.Check": "target qemu", "command.Configure": "on host " + host, "command.Build": "tree on host " + host, "qemu.Package": "kernel 20 KiB (multiboot2,",
		"qemu.Register": "kernel image ", "qemu.Boot": l.state("qemu", "shown.dev."), "command.Clean": "remove the build tree",
	} {
		if !strings.HasPrefix(summaries[activity], want) {
			t.Errorf("summary of %s is %q, want %q", activity, summaries[activity], want)
		}
	}

	// Visibility lags behind the history.
	for _, query := range []string{
		"MorganaApp = 'shown' AND MorganaTarget = 'dev' AND MorganaGeneration = 1 AND WorkflowType = 'Rollout'",
		"MorganaApp = 'shown' AND WorkflowType = 'Rollout' AND MorganaStage IN ('build', 'package', 'register', 'boot')",
		"MorganaApp = 'shown' AND WorkflowType = 'Deployment' AND ExecutionStatus = 'Running'",
	} {
		l.eventually("one workflow fits "+query, func() bool {
			n, err := c.CountWorkflow(t.Context(), &workflowservice.CountWorkflowExecutionsRequest{Namespace: l.ready.Namespace, Query: query})
			return err == nil && n.GetCount() == 1
		})
	}
	l.ends(l.begin(folder, "destroy"), 0)
	l.gone()
}

func currentDetails(t *testing.T, c client.Client, id string) string {
	t.Helper()
	answer, err := c.QueryWorkflow(t.Context(), id, "", "__temporal_workflow_metadata")
	if err != nil {
		t.Fatal(err)
	}
	var about sdk.WorkflowMetadata
	if err := answer.Get(&about); err != nil {
		t.Fatal(err)
	}
	return about.GetCurrentDetails()
}

func text(t *testing.T, p *common.Payload) (s string) {
	t.Helper()
	if p == nil {
		return ""
	}
	if err := converter.GetDefaultDataConverter().FromPayload(p, &s); err != nil {
		t.Error(err)
	}
	return s
}

// The worker's credentials for the store are in no build's log, history, log or
// file, even if the build prints its environment. Histories are small: they hold
// the place of an artifact, not its bytes.
func TestNoSecretsAndNoBytesInHistory(t *testing.T) {
	t.Parallel()
	const secret = "sekret-e2e-123"
	l := newServerLab(t)
	store := l.withBucket(secret)
	folder := l.source("discreet", "env; cat /proc/$PPID/cmdline; head -c 3000000 /dev/urandom > tail; make; cat tail >> hello\n", stays)
	l.deployed(folder)
	l.ends(l.begin(folder, "deploy", "--set", "dev.expect=never said", "--set", "dev.timeout=1s"), 1)
	l.ends(l.begin(folder, "console"), 0)
	c := l.client()

	var executions *workflowservice.ListWorkflowExecutionsResponse
	l.eventually("a deployment and two rollouts are listed", func() (ok bool) {
		var err error
		executions, err = c.ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{Namespace: l.ready.Namespace})
		return err == nil && len(executions.GetExecutions()) >= 3
	})
	for _, e := range executions.GetExecutions() {
		id := e.GetExecution().GetWorkflowId()
		h, err := proto.Marshal(l.history(c, id, e.GetExecution().GetRunId()))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(h, []byte(secret)) {
			t.Errorf("the secret is in the history of %s", id)
		}
		if len(h) > 100<<10 {
			t.Errorf("the history of %s has %d bytes", id, len(h))
		}
	}
	names, err := store.objects()
	if err != nil {
		t.Fatal(err)
	}
	environments := 0
	for _, name := range names {
		object := store.read(t, name)
		if bytes.Contains(object, []byte(secret)) {
			t.Errorf("the secret is in the artifact %s:\n%.3000s", name, object)
		}
		if bytes.Contains(object, []byte("\nPATH=")) {
			environments++
		}
	}
	if environments == 0 {
		t.Error("no build's log shows the environment")
	}
	files := 0
	err = filepath.WalkDir(l.folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil //nolint:nilerr // what is gone holds no secret
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		files++
		if bytes.Contains(content, []byte(secret)) {
			t.Errorf("the secret is in %s", path)
		}
		return nil
	})
	if err != nil || files < 5 {
		t.Errorf("%d files looked at, %v", files, err)
	}
	for _, pid := range l.machines() {
		if env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); bytes.Contains(env, []byte(secret)) {
			t.Errorf("the secret is in the environment of QEMU")
		}
	}
	l.ends(l.begin(folder, "destroy"), 0)
	l.gone()
}
