package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	enums "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

func (c *cli) statusCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "status [APP[/TARGET]]",
		Short: "List deployments and their machines",
		Long: `List the deployments that run: one for each app on a target that has a machine
or is getting one. Temporal is asked for them, and the targets for their machines:
up, ended, gone, or unknown if the target does not answer.`,
		Example: "  morgana status\n  morgana status hello/dev -o json\n  morgana status --all    # ended ones too",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.status(cmd.Context(), strings.Join(args, ""), all)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "ended deployments too, as long as the server keeps them")
	return cmd
}

// deploymentLine is a line of "morgana status -o json".
type deploymentLine struct {
	App     string    `json:"app"`
	Target  string    `json:"target"`
	State   string    `json:"state"` // up ended gone unknown starting destroying, "rolling out 2", ...
	Started time.Time `json:"started"`
	workflows.DeploymentStatus
	// Health is the machine's state as the target reports it now, nil if it cannot report
	// one or was not reached.
	Health *step.Health `json:"health,omitempty"`
	// Note says why the target did not report it, or what destroy waits for.
	Note string `json:"note,omitempty"`
	// Error is the failure that ended the deployment, if any.
	Error *failure `json:"error,omitempty"`
}

func (c *cli) status(ctx context.Context, which string, all bool) error {
	app, target, err := splitName(which)
	if err != nil {
		return err
	}
	to, err := c.connect(ctx, false)
	if err != nil {
		return err
	}
	defer to.Close()
	lines, err := to.deployments(ctx, app, target, all)
	if err != nil {
		return err
	}
	to.observe(ctx, lines)
	if c.output == "json" {
		for _, l := range lines {
			c.emit(l)
		}
		return nil
	}
	if len(lines) == 0 {
		if which != "" {
			c.say("no deployment of %s runs", which)
		} else {
			c.say("no deployments run")
		}
		return nil
	}
	return c.table(lines)
}

// table prints the deployments. The failures are the last column, because they are long.
// Without failures that column is left out.
func (c *cli) table(lines []deploymentLine) error {
	failures := slices.ContainsFunc(lines, func(l deploymentLine) bool { return l.Note+l.Failure != "" })
	w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
	row := func(cells []string, failure string) {
		if failures {
			cells = append(cells, failure)
		}
		for i := range cells {
			cells[i] = cleanLine(cells[i])
		}
		_, _ = fmt.Fprintln(w, strings.Join(cells, "\t")) // Flush returns the error
	}
	row([]string{"APP", "TARGET", "KIND", "GENERATION", "STATE", "MACHINE", "ADDRESSES", "AGE"}, "FAILURE")
	for _, l := range lines {
		machine, addresses, generation := "-", "-", "-"
		switch m := l.Machine; {
		case m != nil:
			machine, generation = m.ID, fmt.Sprint(m.Registration.Spec.Generation)
			now := m.Addresses
			if l.Health != nil {
				now = l.Health.Addresses
			}
			addresses = cmp.Or(step.Addresses(now, ","), "-")
		case l.Error != nil && l.Generation > 0:
			generation = fmt.Sprint(l.Generation)
		}
		age := time.Since(l.Started).Round(time.Second).String()
		failure := strings.Trim(l.Note+"; "+l.Failure, "; ")
		row([]string{l.App, l.Target, cmp.Or(l.Kind, "-"), generation, l.State, machine, addresses, age}, failure)
	}
	return w.Flush()
}

// deployments lists the deployments, the newest first, with the status that each reports.
func (to *connection) deployments(ctx context.Context, app, target string, all bool) (lines []deploymentLine, err error) {
	query := "WorkflowType = 'Deployment'"
	if !all {
		query += " AND ExecutionStatus = 'Running'"
	}
	if app != "" { // checked to be a name: needs no quoting
		query += fmt.Sprintf(" AND WorkflowId STARTS_WITH 'deployment/%s/%s'", app, target)
	}
	var page []byte
	for {
		answer, err := to.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Namespace: to.namespace, Query: query, NextPageToken: page,
		})
		if err != nil {
			return nil, to.refused("list deployments", err)
		}
		for _, info := range answer.GetExecutions() {
			if l, ok := to.describe(ctx, info, all); ok && (target == "" || l.Target == target) {
				lines = append(lines, l)
			}
		}
		if page = answer.GetNextPageToken(); len(page) == 0 {
			return lines, nil
		}
	}
}

// describe returns the line of a deployment. ok is false for an ended deployment, unless
// ended is set.
func (to *connection) describe(ctx context.Context, info *workflowpb.WorkflowExecutionInfo, ended bool) (_ deploymentLine, ok bool) {
	parts := strings.Split(info.GetExecution().GetWorkflowId(), "/")
	if len(parts) != 3 {
		return deploymentLine{}, false
	}
	l := deploymentLine{App: parts[1], Target: parts[2], Started: info.GetStartTime().AsTime()}
	if info.GetStatus() != enums.WORKFLOW_EXECUTION_STATUS_RUNNING {
		if !ended {
			return l, false
		}
		l.State = strings.ToLower(info.GetStatus().String())
		if info.GetStatus() == enums.WORKFLOW_EXECUTION_STATUS_FAILED {
			to.why(ctx, info, &l)
		}
		return l, true
	}
	asking, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	answer, err := to.QueryWorkflow(asking, info.GetExecution().GetWorkflowId(), info.GetExecution().GetRunId(), workflows.QueryStatus)
	if err == nil {
		err = answer.Get(&l.DeploymentStatus)
	}
	switch {
	case err != nil:
		l.State = "no worker answers"
	case l.Destroying:
		// Temporal's list lags behind: the deployment may have ended by now.
		now, err := to.DescribeWorkflowExecution(asking, info.GetExecution().GetWorkflowId(), info.GetExecution().GetRunId())
		l.Note = to.stuck(asking, now)
		if err == nil && now.GetWorkflowExecutionInfo().GetStatus() != enums.WORKFLOW_EXECUTION_STATUS_RUNNING {
			return to.describe(ctx, now.GetWorkflowExecutionInfo(), ended)
		}
		l.State = "destroying"
	case l.Rolling != nil:
		l.State = fmt.Sprintf("rolling out %d", l.Rolling.Generation)
	case l.Failure != "":
		l.State = "up, last deploy failed"
	case l.Machine != nil && l.Machine.Ended:
		l.State = "ended"
	case l.Machine != nil:
		l.State = "up"
	default:
		l.State = "starting"
	}
	if l.RollbackTo != 0 && strings.HasPrefix(l.State, "up") {
		l.State += fmt.Sprintf(", rolled back to %d", l.RollbackTo)
	}
	return l, true
}

// observe asks the targets for the health of the machines. If a target cannot tell, the
// machine keeps the state of its last deploy.
func (to *connection) observe(ctx context.Context, lines []deploymentLine) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	var all sync.WaitGroup
	for i := range lines {
		l := &lines[i]
		state, rest, _ := strings.Cut(l.State, ",")
		if l.Machine == nil || l.Route.Observe.Activity == "" || state != "up" && state != "ended" {
			continue
		}
		all.Go(func() {
			run, err := to.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: workflows.TaskQueue,
				ID: "observe/" + l.App + "/" + l.Target, StaticSummary: l.App + " on " + l.Target,
			}, workflows.Observe, workflows.ObserveRequest{Step: l.Route.Observe, Machine: *l.Machine})
			var health step.Health
			if err == nil {
				err = run.Get(ctx, &health)
			}
			switch {
			case workflows.NotRegistered(err):
				return
			case err != nil:
				l.State, l.Note = "unknown", workflows.Failure(err).Error()
			default:
				l.Health = &health
				if l.State = string(health.State); health.State == step.Running {
					l.State = "up"
				}
			}
			if rest != "" {
				l.State += "," + rest
			}
		})
	}
	all.Wait()
}

// why adds the failure that ended a deployment, from its history: no worker is needed.
func (to *connection) why(ctx context.Context, info *workflowpb.WorkflowExecutionInfo, l *deploymentLine) {
	asking, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := to.GetWorkflow(asking, info.GetExecution().GetWorkflowId(), info.GetExecution().GetRunId()).Get(asking, nil)
	if err == nil || lost(err) || asking.Err() != nil {
		return
	}
	e := workflows.Failure(err)
	l.Error, l.Failure = failureJSON(e), e.Error()
	generation := info.GetSearchAttributes().GetIndexedFields()[workflows.GenerationAttribute.GetName()]
	if converter.GetDefaultDataConverter().FromPayload(generation, &l.Generation) != nil {
		l.Generation = 0 // it failed before its first generation
	}
}

// splitName splits APP or APP/TARGET. Both are empty if s is.
func splitName(s string) (app, target string, err error) {
	if s == "" {
		return "", "", nil
	}
	app, target, both := strings.Cut(s, "/")
	if err := step.CheckName("", app); err != nil {
		return "", "", err
	}
	if both {
		if err := step.CheckName("", target); err != nil {
			return "", "", err
		}
	}
	return app, target, nil
}
