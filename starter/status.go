package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	enums "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/converter"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

func (c *cli) statusCommand() *cobra.Command {
	var all, watch bool
	cmd := &cobra.Command{
		Use:   "status [APP[/TARGET]]",
		Short: "List deployments and their machines",
		Long: `List the deployments that run: one for each app on a target that has a machine
or is getting one. Temporal is asked for them, and the targets for their machines:
up, ended, gone, or unreachable if the target does not answer within 15 s.

With --watch the list is drawn again every few seconds until Ctrl-C, also while the
server does not answer; with -o json, each line is printed when it changes.`,
		Example: "  morgana status\n  morgana status hello/dev -o json\n  morgana status --all    # ended ones too\n  morgana status --watch",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.status(cmd.Context(), strings.Join(args, ""), all, watch)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "ended deployments too, as long as the server keeps them")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on, and show what changes")
	return cmd
}

// deploymentLine is a line of "morgana status -o json".
type deploymentLine struct {
	App    string `json:"app"`
	Target string `json:"target"`
	// State is one word: up, ended, gone, unreachable, starting, rolling, failed, cancelled,
	// destroying or unknown; for an ended deployment destroyed, failed, canceled, terminated or timedout.
	State string `json:"state"`
	workflows.DeploymentStatus
	// Health is the machine's state as the target reports it now, nil if it cannot report
	// one or was not reached.
	Health *step.Health `json:"health,omitempty"`
	// Note says why the target did not report it, or what destroy waits for.
	Note string `json:"note,omitempty"`
	// Error is the failure that ended the deployment, if any.
	Error *failure `json:"error,omitempty"`
}

func (c *cli) status(ctx context.Context, which string, all, watch bool) error {
	app, target, err := splitName(which)
	if err != nil {
		return err
	}
	to, err := c.connect(ctx, false)
	if err != nil {
		return err
	}
	defer to.Close()
	if watch {
		return c.watch(ctx, which, func() ([]deploymentLine, error) { return to.observed(ctx, app, target, all) })
	}
	lines, err := to.observed(ctx, app, target, all)
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
		c.say("%s", noneOf(which))
		return nil
	}
	return table(c.out, lines, time.Now(), false)
}

func noneOf(which string) string {
	if which != "" {
		return "no deployment of " + which + " runs"
	}
	return "no deployments run"
}

// table writes the deployments. Columns without a value in any line are left out: the
// restarts, the commits, and the failures, which are last because they are long. A narrow
// table has short cells, and the failures in lines below it.
func table(to io.Writer, lines []deploymentLine, now time.Time, narrow bool) error {
	rows := [][]string{{"APP", "TARGET", "KIND", "GENERATION", "STATE", "AGE", "RESTARTS", "MACHINE", "ADDRESSES", "COMMIT", "FAILURE"}}
	var below []string
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
		state, past, failure := l.state(), l.past(), l.failure()
		if narrow {
			if past = joined("; ", past, failure); past != "" {
				below = append(below, cleanLine(l.App+"/"+l.Target+": "+past))
			}
			state, machine, past, failure = short(state, 20), short(machine, 12), "", ""
		}
		rows = append(rows, []string{l.App, l.Target, cmp.Or(l.Kind, "-"), generation, joined(", ", state, past), l.age(now),
			cmp.Or(l.restarts(), "-"), machine, addresses, cmp.Or(shortCommit(l.Commit), "-"), failure})
	}
	if narrow {
		rows[0][3] = "GEN"
	}
	w := tabwriter.NewWriter(to, 0, 8, 2, ' ', 0)
	for _, row := range rows {
		var cells []string
		for i := range row {
			optional := slices.Contains([]string{"RESTARTS", "COMMIT", "FAILURE"}, rows[0][i])
			if !optional || slices.ContainsFunc(rows[1:], func(r []string) bool { return r[i] != "" && r[i] != "-" }) {
				cells = append(cells, cleanLine(row[i]))
			}
		}
		_, _ = fmt.Fprintln(w, strings.Join(cells, "\t")) // Flush returns the error
	}
	for _, l := range below {
		_, _ = fmt.Fprintln(w, l)
	}
	return w.Flush()
}

// joined joins the texts that are not empty.
func joined(by string, texts ...string) string {
	return strings.Join(slices.DeleteFunc(texts, func(t string) bool { return t == "" }), by)
}

// short cuts a text to so many characters.
func short(text string, most int) string {
	if all := []rune(text); len(all) > most {
		return string(all[:most-1]) + "…"
	}
	return text
}

// state returns the State with how the machine ended.
func (l *deploymentLine) state() string {
	switch {
	case l.State == "rolling":
		return fmt.Sprintf("rolling out %d", l.Rolling.Generation)
	case l.Health != nil && l.Health.How != "":
		return l.State + " (" + l.Health.How + ")"
	}
	return l.State
}

// past says how the last deploys of a machine did.
func (l *deploymentLine) past() string {
	if l.Machine == nil || l.Destroying || l.State == "rolling" {
		return ""
	}
	var last, back string
	if l.LastDeploy != "" {
		last = "last deploy " + string(l.LastDeploy)
	}
	if l.RolledBackTo != 0 {
		back = fmt.Sprintf("rolled back to %d", l.RolledBackTo)
	}
	return joined(", ", last, back)
}

// age returns how long the machine has been in its state: since the target's time, or since
// the machine was booted, or else since the deployment began. It is "-" for a machine that
// ended or is gone since an unknown time.
func (l *deploymentLine) age(now time.Time) string {
	since := l.Started
	switch h := l.Health; {
	case h != nil && !h.Since.IsZero():
		since = h.Since
	case h != nil && h.State != step.Running && l.Machine != nil && !l.Machine.Ended:
		if l.Watch.Ended == nil || !l.Watch.Seen.After(l.Watch.Booted) {
			return "-"
		}
		since = l.Watch.Seen
	case l.Machine != nil && !l.Watch.Booted.IsZero():
		since = l.Watch.Booted
	}
	return max(0, now.Sub(since)).Round(time.Second).String()
}

// restarts returns the number of restarts, and what the next one waits for; "" for a machine
// that is not restarted.
func (l *deploymentLine) restarts() string {
	if l.Machine == nil || cmp.Or(l.Policy.Restart, step.RestartNever) == step.RestartNever {
		return ""
	}
	return fmt.Sprint(l.Restarts)
}

// failure returns the texts of all that went wrong.
func (l *deploymentLine) failure() string {
	w, texts := l.Watch, []string{l.Note, l.Failure}
	if w.Failure != "" {
		texts = append(texts, "restart: "+w.Failure)
	}
	switch {
	case w.Unwatched != "":
		texts = append(texts, "not watched: "+w.Unwatched)
	case !w.Due.IsZero():
		texts = append(texts, "restart "+fmt.Sprint(w.InRow+1)+" is due at "+w.Due.Local().Format(time.TimeOnly))
	}
	return joined("; ", texts...)
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
	infos, err := to.list(ctx, query)
	if err != nil {
		return nil, err
	}
	found, listed := make([]deploymentLine, len(infos)), make([]bool, len(infos))
	atATime(20, len(infos), func(i int) { found[i], listed[i] = to.describe(ctx, infos[i], all) })
	for i, l := range found {
		if listed[i] && (target == "" || l.Target == target) {
			lines = append(lines, l)
		}
	}
	return lines, nil
}

// describe returns the line of a deployment. ok is false for an ended deployment, unless
// ended is set.
func (to *connection) describe(ctx context.Context, info *workflowpb.WorkflowExecutionInfo, ended bool) (_ deploymentLine, ok bool) {
	parts := strings.Split(info.GetExecution().GetWorkflowId(), "/")
	if len(parts) != 3 {
		return deploymentLine{}, false
	}
	l := deploymentLine{App: parts[1], Target: parts[2]}
	l.Started = info.GetStartTime().AsTime()
	if status := info.GetStatus(); status != enums.WORKFLOW_EXECUTION_STATUS_RUNNING {
		if !ended || status == enums.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW { // its next run is listed
			return l, false
		}
		switch l.State = strings.ToLower(status.String()); status {
		case enums.WORKFLOW_EXECUTION_STATUS_COMPLETED:
			l.State = "destroyed"
		case enums.WORKFLOW_EXECUTION_STATUS_FAILED:
			to.why(ctx, info, &l)
		}
		return l, true
	}
	asking, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := to.query(asking, info.GetExecution().GetWorkflowId(), info.GetExecution().GetRunId(), workflows.QueryStatus, &l.DeploymentStatus)
	switch {
	case err != nil:
		l.State, l.Note = "unknown", "no worker answers"
	case l.Destroying, l.Rolling == nil && l.Machine == nil && l.LastDeploy != "":
		// Temporal's list lags behind: the deployment may have ended by now.
		now, err := to.DescribeWorkflowExecution(asking, info.GetExecution().GetWorkflowId(), info.GetExecution().GetRunId())
		l.Note = to.stuck(asking, now)
		status := now.GetWorkflowExecutionInfo().GetStatus()
		if err == nil && status != enums.WORKFLOW_EXECUTION_STATUS_RUNNING && status != enums.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW {
			return to.describe(ctx, now.GetWorkflowExecutionInfo(), ended)
		}
		switch {
		case l.Destroying:
			l.State = "destroying"
		case l.LastDeploy == workflows.EndCancelled:
			l.State = string(l.LastDeploy)
		default: // it stays for what its deploy has left
			l.State = "failed"
		}
	case l.Rolling != nil:
		l.State = "rolling"
	case l.Machine != nil && l.Machine.Ended:
		l.State = "ended"
	case l.Machine != nil:
		l.State = "up"
	default:
		l.State = "starting"
	}
	return l, true
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
