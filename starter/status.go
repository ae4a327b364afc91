package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	enums "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

func (c *cli) statusCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "status [APP[/TARGET]]",
		Short: "List deployments and their machines",
		Long: `List the deployments that run: one for each app on a target that has a machine
or is getting one. Temporal is asked; nothing is kept elsewhere.`,
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
	State   string    `json:"state"` // up rolling failed destroying ended ...
	Started time.Time `json:"started"`
	workflows.DeploymentStatus
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
	if c.output == "json" {
		for _, l := range lines {
			c.emit(l)
		}
		return nil
	}
	if len(lines) == 0 {
		c.say("no deployments run")
		return nil
	}
	w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "APP\tTARGET\tKIND\tGENERATION\tSTATE\tMACHINE\tADDRESSES\tAGE")
	for _, l := range lines {
		machine, addresses, generation := "-", "-", "-"
		if m := l.Machine; m != nil {
			machine, generation = m.ID, fmt.Sprint(m.Registration.Spec.Generation)
			if len(m.Addresses) > 0 {
				addresses = strings.Join(m.Addresses, ",")
			}
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.App, l.Target, dash(l.Kind), generation, l.State,
			machine, addresses, time.Since(l.Started).Round(time.Second))
	}
	return w.Flush()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// deployments lists them, newest first, with what each says of itself.
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
			if l, ok := to.describe(ctx, info); ok && (target == "" || l.Target == target) {
				lines = append(lines, l)
			}
		}
		if page = answer.GetNextPageToken(); len(page) == 0 {
			return lines, nil
		}
	}
}

func (to *connection) describe(ctx context.Context, info *workflowpb.WorkflowExecutionInfo) (deploymentLine, bool) {
	parts := strings.Split(info.GetExecution().GetWorkflowId(), "/")
	if len(parts) != 3 {
		return deploymentLine{}, false
	}
	l := deploymentLine{App: parts[1], Target: parts[2], Started: info.GetStartTime().AsTime()}
	if info.GetStatus() != enums.WORKFLOW_EXECUTION_STATUS_RUNNING {
		l.State = strings.ToLower(info.GetStatus().String())
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
	return l, true
}

// splitName reads APP or APP/TARGET; "" is neither.
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
