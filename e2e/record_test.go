package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"go.temporal.io/api/common/v1"
	"go.temporal.io/api/proxy"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/morgana-deploy/morgana/workflows"
)

// format is the version of the recorded histories: those of an earlier one stay
// in the folder as long as deployments of that time may still run.
const format = "v1"

// TestRecord records the histories that workflows/replay_test.go replays:
//
//	MORGANA_RECORD=1 go test ./e2e -run TestRecord
//
// Record with released code, never with the change whose safety is in question.
func TestRecord(t *testing.T) {
	if os.Getenv("MORGANA_RECORD") == "" {
		t.Skip("only where MORGANA_RECORD=1")
	}
	l := newServerLab(t)
	l.restartWorker([]string{"MORGANA_HOST=lab"})
	c := l.client()
	kernel := l.kernel()
	prebuilt := func(app, options string) string {
		folder, _ := l.built(kernel, app, options)
		return folder
	}

	// Three generations, of which the second changes nothing, a rollback, and destroy.
	good := l.source("good", "make\n", stays)
	l.deployed(good)
	l.deployed(good)
	l.deployed(good, "--set", "dev.memory=72")
	l.ends(l.begin(good, "rollback"), 0)
	l.ends(l.begin(good, "console"), 0)
	l.ends(l.begin(good, "destroy"), 0)
	l.record(c, "rollout-good", rollout("good", 1))
	l.record(c, "rollout-unchanged", rollout("good", 2))
	l.record(c, "rollout-replaces", rollout("good", 3))
	l.record(c, "rollout-rollback", rollout("good", 4))
	l.record(c, "deployment-three-and-destroy", workflows.DeploymentID("good", "dev"))

	// The first fails.
	failing := prebuilt("failing", "args: stay, expect: never said, timeout: 1s")
	l.ends(l.begin(failing, "deploy"), 1)
	l.record(c, "rollout-boot-fails", rollout("failing", 1))
	l.record(c, "deployment-first-fails", workflows.DeploymentID("failing", "dev"))

	// A later one fails.
	later := prebuilt("later", stays)
	l.deployed(later)
	l.ends(l.begin(later, "deploy", "--keep", "--set", "dev.expect=never said", "--set", "dev.timeout=1s"), 1)
	l.ends(l.begin(later, "destroy"), 0)
	l.record(c, "rollout-boot-fails-kept", rollout("later", 2))
	l.record(c, "deployment-later-fails", workflows.DeploymentID("later", "dev"))

	// A schedule's redeploys: one that changes nothing, and one that fails.
	nightly, outside := l.scheduledProgram("nightly")
	l.deployed(nightly)
	l.ends(l.begin(nightly, "schedule", "set", "--cron", "@yearly", "--rebuild"), 0)
	l.record(c, "redeploy-unchanged", l.triggered("nightly/dev").Workflow)
	l.write(filepath.Join(outside, "fail"), "")
	l.record(c, "redeploy-fails", l.triggered("nightly/dev").Workflow)
	l.ends(l.begin(nightly, "destroy"), 0)
	l.record(c, "deployment-redeploys", workflows.DeploymentID("nightly", "dev"))

	// Cancelled: the rollout, then a deployment with its machine.
	endless := prebuilt("endless", "args: stay, expect: never said, timeout: 10m")
	deploy := l.begin(endless, "deploy")
	l.started(c, rollout("endless", 1), "qemu.Boot")
	if err := c.CancelWorkflow(t.Context(), rollout("endless", 1), ""); err != nil {
		t.Fatal(err)
	}
	l.ends(deploy, 1)
	l.record(c, "rollout-cancelled", rollout("endless", 1))
	lives := prebuilt("lives", stays)
	l.deployed(lives)
	if err := c.CancelWorkflow(t.Context(), workflows.DeploymentID("lives", "dev"), ""); err != nil {
		t.Fatal(err)
	}
	_ = c.GetWorkflow(t.Context(), workflows.DeploymentID("lives", "dev"), "").Get(t.Context(), nil) // cancelled, as it says itself
	l.record(c, "deployment-cancelled", workflows.DeploymentID("lives", "dev"))

	// Killed and restarted, replaced while it is watched, and destroyed.
	kept := prebuilt("kept", "restart: always, "+stays)
	l.deployed(kept)
	if err := syscall.Kill(l.one("kept"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l.eventually("the machine is restarted", func() bool { return l.deployment(c, "kept").Restarts == 1 })
	l.deployed(kept, "--set", "dev.memory=72")
	l.ends(l.begin(kept, "destroy"), 0)
	l.record(c, "deployment-restarts", workflows.DeploymentID("kept", "dev"))

	// Destroyed while it rolls out for the first time.
	early := prebuilt("early", "args: stay, expect: never said, timeout: 10m")
	deploy = l.begin(early, "deploy")
	l.started(c, rollout("early", 1), "qemu.Boot")
	l.ends(l.begin(early, "destroy"), 0)
	l.ends(deploy, 1)
	l.record(c, "deployment-destroyed-early", workflows.DeploymentID("early", "dev"))

	// The worker is killed in the build, and the tree is lost with it.
	lost := l.source("lost", l.once()+"make\n", stays)
	deploy = l.begin(lost, "deploy")
	l.eventually("a build runs", func() bool { return l.runs("sleep 1000") })
	l.kill(l.worker)
	trees, err := filepath.Glob(l.state("command", "lost.dev.*", "tree.json"))
	if err != nil || len(trees) != 1 {
		t.Fatalf("build trees %q, %v", trees, err)
	}
	if err := os.Remove(trees[0]); err != nil {
		t.Fatal(err)
	}
	l.startWorker()
	l.ends(deploy, 0)
	l.record(c, "rollout-tree-gone", rollout("lost", 1))
	// The deployment still runs: a new worker meets such a history in its middle.
	l.record(c, "deployment-lives", workflows.DeploymentID("lost", "dev"))
	l.ends(l.begin(lost, "destroy"), 0)
	l.gone()
}

// record writes the history of a workflow's latest run. The path of the lab's
// temporary folder is replaced.
func (l *lab) record(c client.Client, name, id string) {
	l.t.Helper()
	h := l.history(c, id, "")
	here := []byte(filepath.Dir(l.folder))
	err := proxy.VisitPayloads(l.t.Context(), h, proxy.VisitPayloadsOptions{
		SkipSearchAttributes: true,
		Visitor: func(_ *proxy.VisitPayloadsContext, all []*common.Payload) ([]*common.Payload, error) {
			for _, p := range all {
				p.Data = bytes.ReplaceAll(p.Data, here, []byte("/lab"))
			}
			return all, nil
		},
	})
	if err != nil {
		l.t.Fatal(err)
	}
	text, err := protojson.Marshal(h)
	if err != nil {
		l.t.Fatal(err)
	}
	text = bytes.ReplaceAll(text, here, []byte("/lab")) // failures' messages are no payloads
	folder := filepath.Join("..", "workflows", "testdata", "replay")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		l.t.Fatal(err)
	}
	if _, err := client.HistoryFromJSON(bytes.NewReader(text), client.HistoryJSONOptions{}); err != nil {
		l.t.Fatal(err)
	}
	var pretty bytes.Buffer // protojson's own spaces change from build to build
	if err := json.Indent(&pretty, text, "", " "); err != nil {
		l.t.Fatal(err)
	}
	l.write(filepath.Join(folder, format+"-"+name+".json"), pretty.String()+"\n")
}
