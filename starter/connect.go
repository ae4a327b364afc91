package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/own"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// connection is a client of a Temporal server.
type connection struct {
	client.Client
	namespace string
	// ui is the web UI's URL of our own server, "" with another server.
	ui       string
	settings config.Settings
}

// connect finds the server: the configured one, else our own on this machine. If start is
// set and our own does not run, connect starts it.
func (c *cli) connect(ctx context.Context, start bool) (*connection, error) {
	settings, err := config.LoadSettings(c.flags)
	if err != nil {
		return nil, err
	}
	options, configured, err := config.Temporal(c.flags)
	if err != nil {
		return nil, err
	}
	to := &connection{settings: settings, namespace: options.Namespace}
	hint := "check TEMPORAL_ADDRESS, --address or your profile, or unset them to use a server of our own"
	options.Logger = silent
	dialed := options
	if !configured {
		ours, server, err := c.ownServer(ctx, settings, start)
		if err != nil {
			return nil, err
		}
		to.ui, to.namespace = server.UI, server.Namespace
		options.HostPort, options.Namespace = server.Address, server.Namespace
		dialed = own.Folder(ours.folder).Options(options)
		hint = "see morgana dev status"
	}
	dialing, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	to.Client, err = client.DialContext(dialing, dialed)
	if err != nil {
		if ctx.Err() != nil {
			return nil, errDetached
		}
		return nil, config.Unreachable(ctx, options, hint, err)
	}
	return to, nil
}

// ownServer returns our own server. If start is set, it starts server and worker as
// needed.
func (c *cli) ownServer(ctx context.Context, settings config.Settings, start bool) (dev, serverInfo, error) {
	d, err := openDev(settings)
	if err != nil {
		return d, serverInfo{}, err
	}
	if server, running := d.server(); running && (!start || d.workerFits()) {
		return d, server, nil
	}
	if !start {
		return d, serverInfo{}, &step.Error{Kind: step.NotFound, Err: errors.New("no Temporal server is configured and our own does not run"),
			Hint: "set TEMPORAL_ADDRESS, or run morgana dev up"}
	}
	server, started, err := d.up(ctx)
	if err == nil && len(started) > 0 {
		c.say("started %s on this machine, UI %s (morgana dev down stops them)", strings.Join(started, " and "), server.UI)
	}
	return d, server, err
}

// patience is how long needWorker waits for workers that are just starting.
const patience = 10 * time.Second

// needWorker waits up to patience for workers that poll our workflows' queue and the
// queues of the routes of targets: without them a deploy would hang.
func (to *connection) needWorker(ctx context.Context, p *config.Project, targets ...config.Target) error {
	began := time.Now()
	err := to.awaitPoller(ctx, began.Add(patience), workflows.TaskQueue, enums.TASK_QUEUE_TYPE_WORKFLOW,
		&step.Error{Kind: step.NoWorker, Op: "look for workers",
			Err:  fmt.Errorf("no worker polls task queue %q in namespace %s", workflows.TaskQueue, to.namespace),
			Hint: "start one with the same TEMPORAL_* settings: morgana-worker"})
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, t := range targets {
		r := p.Route(t)
		steps := []step.Step{r.Check, r.Configure, r.Build, r.Package, r.Register, r.Boot, r.Console, r.Destroy, r.Clean}
		for _, stage := range step.Stages {
			steps = append(steps, r.After[stage]...)
		}
		if p.Git != nil {
			steps = append(steps, r.Fetch)
		}
		for _, s := range steps {
			if seen[s.TaskQueue] {
				continue
			}
			seen[s.TaskQueue] = true
			none, limit := unserved(p, t, s.TaskQueue)
			if err := to.awaitPoller(ctx, began.Add(limit), s.TaskQueue, enums.TASK_QUEUE_TYPE_ACTIVITY, none); err != nil {
				return err
			}
		}
	}
	return nil
}

// unserved returns the error of a queue that no worker polls, and the time to wait for a
// worker. If the queue is that of a kind, the error has the kind's line in morgana.yaml.
// If the kind's name is near that of one of ours, it is probably misspelt: the hint names
// ours, and the time is shorter.
func unserved(p *config.Project, t config.Target, queue string) (*step.Error, time.Duration) {
	e, role := workflows.NoWorker(queue), "target"
	switch queue {
	case t.Kind:
		e.Field = "targets." + t.Name + ".kind"
	case p.Toolchain.Kind:
		e.Field, role = "toolchain.kind", "toolchain"
	default:
		return e, patience
	}
	e.Op = p.Locate("", e.Field)
	near := step.Nearest(queue, kinds(role))
	if near == "" || near == queue {
		return e, patience
	}
	e.Hint = fmt.Sprintf("did you mean %q? If not, start a worker that serves %s", near, queue)
	return e, patience / 3
}

// awaitPoller waits until a worker polls a queue. If no worker does at the deadline, it
// returns the error none.
func (to *connection) awaitPoller(ctx context.Context, deadline time.Time, queue string, kind enums.TaskQueueType, none error) error {
	for {
		if pollers, err := to.pollers(ctx, queue, kind); err != nil || len(pollers) > 0 {
			return err
		}
		if time.Now().After(deadline) {
			return none
		}
		if err := step.Pause(ctx, 300*time.Millisecond); err != nil {
			return errDetached
		}
	}
}

// pollers returns the workers that poll a queue.
func (to *connection) pollers(ctx context.Context, queue string, kind enums.TaskQueueType) ([]*taskqueue.PollerInfo, error) {
	answer, err := to.WorkflowService().DescribeTaskQueue(ctx, &workflowservice.DescribeTaskQueueRequest{
		Namespace: to.namespace, TaskQueueType: kind,
		TaskQueue: &taskqueue.TaskQueue{Name: queue, Kind: enums.TASK_QUEUE_KIND_NORMAL},
	})
	if err != nil {
		return nil, to.refused("look for workers", err)
	}
	return slices.DeleteFunc(answer.GetPollers(), func(p *taskqueue.PollerInfo) bool {
		// A poll lasts a minute; the server remembers pollers for five.
		return time.Since(p.GetLastAccessTime().AsTime()) >= 70*time.Second
	}), nil
}

// refused explains why a call to the server failed.
func (to *connection) refused(op string, err error) error {
	var namespace *serviceerror.NamespaceNotFound
	switch {
	case lost(err):
		return &step.Error{Kind: step.NotFound, Op: op, Err: errors.New("no answer from Temporal"), Hint: to.restartHint()}
	case errors.As(err, &namespace):
		return &step.Error{Kind: step.NotFound, Op: "use Temporal", Err: fmt.Errorf("no namespace %q", to.namespace),
			Hint: "correct TEMPORAL_NAMESPACE or --namespace, or create it: temporal operator namespace create -n " + to.namespace}
	}
	return &step.Error{Op: op, Err: config.Innermost(err)}
}

// query asks a workflow; run is empty for its newest run.
func (to *connection) query(ctx context.Context, id, run, name string, out any) error {
	answer, err := to.QueryWorkflow(ctx, id, run, name)
	if err != nil {
		return err
	}
	return answer.Get(out)
}

// call runs a workflow and returns its result. Its id begins with id.
func (to *connection) call(ctx context.Context, workflow, id, summary string, in, out any) error {
	run, err := to.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: workflows.TaskQueue, StaticSummary: summary,
		ID: fmt.Sprintf("%s/%d", id, time.Now().UnixNano())}, workflow, in)
	if err != nil {
		return to.refused("start "+id, err)
	}
	return run.Get(ctx, out)
}

// list lists workflows, the newest first. Temporal's list lags behind.
func (to *connection) list(ctx context.Context, query string) (all []*workflowpb.WorkflowExecutionInfo, err error) {
	var page []byte
	for {
		answer, err := to.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Namespace: to.namespace, Query: query, NextPageToken: page})
		if err != nil {
			return nil, to.refused("list deployments", err)
		}
		all = append(all, answer.GetExecutions()...)
		if page = answer.GetNextPageToken(); len(page) == 0 {
			return all, nil
		}
	}
}

// absent reports whether err is the server's for a workflow or a schedule that it does not have.
func absent(err error) bool {
	_, is := errors.AsType[*serviceerror.NotFound](err)
	return is
}

// link returns the URL of a workflow in our own server's UI, "" with another server.
func (to *connection) link(workflow string) string {
	if to.ui == "" {
		return ""
	}
	return fmt.Sprintf("%s/namespaces/%s/workflows/%s", to.ui, to.namespace, url.PathEscape(workflow))
}

// silent drops the SDK's log: errors of calls are returned and printed.
var silent = log.NewStructuredLogger(slog.New(slog.DiscardHandler))
