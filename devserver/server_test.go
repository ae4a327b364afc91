package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"go.temporal.io/server/schema/sqlite"
)

const queue = "test"

var (
	app        = temporal.NewSearchAttributeKeyKeyword("MorganaApp")
	generation = temporal.NewSearchAttributeKeyInt64("MorganaGeneration")
	stage      = temporal.NewSearchAttributeKeyKeyword("MorganaStage")
)

// held sets a search attribute, runs an activity, waits for the signal or
// update "go" and returns what it said.
func held(ctx workflow.Context) (said string, err error) {
	if err := workflow.SetUpdateHandler(ctx, "go", func(_ workflow.Context, s string) (string, error) {
		said = s
		return "heard " + s, nil
	}); err != nil {
		return "", err
	}
	if err := workflow.UpsertTypedSearchAttributes(ctx, stage.ValueSet("boot")); err != nil {
		return "", err
	}
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Minute})
	if err := workflow.ExecuteActivity(ctx, echo, "x").Get(ctx, nil); err != nil {
		return "", err
	}
	workflow.Go(ctx, func(ctx workflow.Context) { workflow.GetSignalChannel(ctx, "go").Receive(ctx, &said) })
	return said, workflow.Await(ctx, func() bool { return said != "" })
}

func echo(_ context.Context, s string) (string, error) { return s, nil }

func startWorker(t *testing.T, c client.Client) {
	t.Helper()
	w := worker.New(c, queue, worker.Options{})
	w.RegisterWorkflow(held)
	w.RegisterActivity(echo)
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
}

func runOptions(id string) client.StartWorkflowOptions {
	return client.StartWorkflowOptions{ID: id, TaskQueue: queue,
		TypedSearchAttributes: temporal.NewSearchAttributes(app.ValueSet("hello"), generation.ValueSet(1))}
}

func TestNewFile(t *testing.T) {
	// A name full of what means something in a SQLite URI.
	parent := t.TempDir()
	dir := filepath.Join(parent, "a #1?mode=ro&x %41")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(dir, "t.db")
	s := start(t, db, "--namespace", "mirage")
	if s.Namespace != "mirage" {
		t.Errorf("namespace %q", s.Namespace)
	}
	if info, err := os.Stat(db); err != nil || info.Mode().Perm() != 0o600 || info.Size() == 0 {
		t.Errorf("database: %v, %v", info, err)
	}
	if others, err := os.ReadDir(parent); err != nil || len(others) != 1 {
		t.Errorf("more than the folder was made: %v, %v", others, err)
	}
	c := s.dial(t)
	checkAttributes(t, c, "mirage")
	ns, err := c.WorkflowService().DescribeNamespace(t.Context(), &workflowservice.DescribeNamespaceRequest{Namespace: "mirage"})
	if err != nil {
		t.Fatal(err)
	}
	if got := ns.GetConfig().GetWorkflowExecutionRetentionTtl().AsDuration(); got != retention {
		t.Errorf("retention %v", got)
	}

	startWorker(t, c)
	t.Run("update with start", func(t *testing.T) {
		o := runOptions("deployment/hello/local")
		o.WorkflowIDConflictPolicy = enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
		u, err := c.UpdateWithStartWorkflow(t.Context(), client.UpdateWithStartWorkflowOptions{
			StartWorkflowOperation: c.NewWithStartWorkflowOperation(o, held),
			UpdateOptions: client.UpdateWorkflowOptions{UpdateName: "go", Args: []any{"hi"},
				WaitForStage: client.WorkflowUpdateStageCompleted},
		})
		if err != nil {
			t.Fatal(err)
		}
		var got string
		if err := u.Get(t.Context(), &got); err != nil || got != "heard hi" {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("standalone activity", func(t *testing.T) {
		h, err := c.ExecuteActivity(t.Context(), client.StartActivityOptions{ID: "check", TaskQueue: queue,
			StartToCloseTimeout: time.Minute}, echo, "hi")
		if err != nil {
			t.Fatal(err)
		}
		var got string
		if err := h.Get(t.Context(), &got); err != nil || got != "hi" {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("schedule", func(t *testing.T) {
		h, err := c.ScheduleClient().Create(t.Context(), client.ScheduleOptions{ID: "redeploy/hello/local",
			Action: &client.ScheduleWorkflowAction{ID: "scheduled", Workflow: held, TaskQueue: queue}, TriggerImmediately: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Describe(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestOldFileGetsAttributes(t *testing.T) {
	db := filepath.Join(t.TempDir(), "t.db")
	if err := makeFile(db); err != nil {
		t.Fatal(err)
	}
	// As a file whose namespace has none of our attributes but one.
	old, err := sqlite.NewNamespaceConfig(clusterName, "default", false,
		map[string]enumspb.IndexedValueType{"MorganaApp": enumspb.INDEXED_VALUE_TYPE_KEYWORD})
	if err != nil {
		t.Fatal(err)
	}
	if err := sqlite.CreateNamespaces(sqliteConfig(db), old); err != nil {
		t.Fatal(err)
	}
	s := start(t, db)
	c := s.dial(t)
	// At once: ready means usable, in the frontend and in history.
	startWorker(t, c)
	run, err := c.ExecuteWorkflow(t.Context(), runOptions("first"), held)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SignalWorkflow(t.Context(), "first", "", "go", "done"); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := run.Get(t.Context(), &got); err != nil || got != "done" {
		t.Errorf("got %q, %v", got, err)
	}
	failures(t, c, "first")
	checkAttributes(t, c, "default")
}

func TestRefusesAttributeOfOtherType(t *testing.T) {
	db := filepath.Join(t.TempDir(), "t.db")
	if err := makeFile(db); err != nil {
		t.Fatal(err)
	}
	old, err := sqlite.NewNamespaceConfig(clusterName, "default", false,
		map[string]enumspb.IndexedValueType{"MorganaStage": enumspb.INDEXED_VALUE_TYPE_INT})
	if err != nil {
		t.Fatal(err)
	}
	if err := sqlite.CreateNamespaces(sqliteConfig(db), old); err != nil {
		t.Fatal(err)
	}
	// What a killed server left says that there is a server, and there is none.
	stale := filepath.Join(t.TempDir(), "ready.json")
	if err := os.WriteFile(stale, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, "MorganaStage is of type Int in this file, not Keyword",
		"--port", "0", "--ui-port", "0", "--db", db, "--ready-file", stale)
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the ready file of a dead server is still there: %v", err)
	}
}

// failures fails the test for each workflow task of a run that failed: it
// would have been tried again, and hide what failed it.
func failures(t *testing.T, c client.Client, id string) {
	t.Helper()
	for h := c.GetWorkflowHistory(t.Context(), id, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); h.HasNext(); {
		e, err := h.Next()
		if err != nil {
			t.Fatal(err)
		}
		if a := e.GetWorkflowTaskFailedEventAttributes(); a != nil {
			t.Errorf("workflow task failed: %v %v", a.GetCause(), a.GetFailure().GetMessage())
		}
	}
}

func checkAttributes(t *testing.T, c client.Client, namespace string) {
	t.Helper()
	have, err := c.OperatorService().ListSearchAttributes(t.Context(),
		&operatorservice.ListSearchAttributesRequest{Namespace: namespace})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"MorganaApp": "Keyword", "MorganaTarget": "Keyword", "MorganaGeneration": "Int", "MorganaStage": "Keyword",
		"MorganaCommit": "Keyword",
	} {
		if got, ok := have.GetCustomAttributes()[name]; !ok || got.String() != want {
			t.Errorf("%s: %v, want %s", name, got, want)
		}
	}
}

func TestKilledServerResumes(t *testing.T) {
	db := filepath.Join(t.TempDir(), "t.db")
	s := start(t, db)
	c := s.dial(t)
	w := worker.New(c, queue, worker.Options{})
	w.RegisterWorkflow(held)
	w.RegisterActivity(echo)
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ExecuteWorkflow(t.Context(), runOptions("survivor"), held); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() (bool, error) { // it is under way when the server dies
		n, err := c.CountWorkflow(t.Context(), &workflowservice.CountWorkflowExecutionsRequest{Query: `MorganaStage = "boot"`})
		return n.GetCount() == 1, err
	})
	w.Stop()
	s.kill(t)

	s = start(t, db) // on other ports, past the ready file that was left
	c = s.dial(t)
	startWorker(t, c)
	if err := c.SignalWorkflow(t.Context(), "survivor", "", "go", "after"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var got string
	if err := c.GetWorkflow(ctx, "survivor", "").Get(ctx, &got); err != nil || got != "after" {
		t.Errorf("got %q, %v", got, err)
	}
}

// The server's own limit of reads per queue and second makes these activities
// take twelve seconds and more, one or two without it. Updates of a workflow, which no
// such queue serves, show how fast this host is meanwhile. On a busy host the figures vary,
// so that one good run of three is enough.
func TestQueuesAreNotThrottled(t *testing.T) {
	const count = 300
	s := start(t, filepath.Join(t.TempDir(), "t.db"))
	c := s.dial(t)
	w := worker.New(c, queue, worker.Options{})
	w.RegisterActivity(echo)
	w.RegisterWorkflowWithOptions(func(ctx workflow.Context) error {
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Minute})
		for range count {
			if err := workflow.ExecuteActivity(ctx, echo, "x").Get(ctx, nil); err != nil {
				return err
			}
		}
		return nil
	}, workflow.RegisterOptions{Name: "long"})
	w.RegisterWorkflowWithOptions(func(ctx workflow.Context) error {
		if err := workflow.SetUpdateHandler(ctx, "ask", func(workflow.Context) error { return nil }); err != nil {
			return err
		}
		return workflow.Sleep(ctx, time.Hour)
	}, workflow.RegisterOptions{Name: "asked"})
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	asked, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{TaskQueue: queue}, "asked")
	if err != nil {
		t.Fatal(err)
	}
	ask := client.UpdateWorkflowOptions{WorkflowID: asked.GetID(), UpdateName: "ask", WaitForStage: client.WorkflowUpdateStageCompleted}
	for range 3 {
		began := time.Now()
		run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{TaskQueue: queue}, "long")
		if err != nil {
			t.Fatal(err)
		}
		for range count {
			if _, err := c.UpdateWorkflow(t.Context(), ask); err != nil {
				t.Fatal(err)
			}
		}
		updates := time.Since(began)
		if err := run.Get(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		t.Logf("%d activities took %v, as many updates %v", count, took, updates)
		if took <= 2*updates+2*time.Second {
			return
		}
	}
	t.Error("the activities are throttled")
}

func waitFor(t *testing.T, ok func() (bool, error)) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		done, err := ok()
		if err != nil {
			t.Fatal(err)
		}
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("waited in vain")
		}
	}
}

func TestListensOnLoopbackOnly(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	s := start(t, filepath.Join(t.TempDir(), "t.db"))
	sockets := map[string]bool{}
	fds := fmt.Sprintf("/proc/%d/fd", s.PID)
	entries, err := os.ReadDir(fds)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		link, err := os.Readlink(filepath.Join(fds, e.Name()))
		if inode, ok := strings.CutPrefix(link, "socket:["); ok && err == nil {
			sockets[strings.TrimSuffix(inode, "]")] = true
		}
	}
	const listen = "0A"
	var count int
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		f, err := os.Open(filepath.Join("/proc/net", table))
		if errors.Is(err, os.ErrNotExist) {
			continue // no IPv6 here
		} else if err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			col := strings.Fields(lines.Text())
			if len(col) < 10 || !sockets[col[9]] || strings.HasPrefix(table, "tcp") && col[3] != listen {
				continue
			}
			count++
			if host, _, _ := strings.Cut(col[1], ":"); host != "0100007F" { // 127.0.0.1
				t.Errorf("%s socket on %s", table, col[1])
			}
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if count != 5 {
		t.Errorf("%d listeners, want 5: frontend, history, matching, worker, UI", count)
	}
}
