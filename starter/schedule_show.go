package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/api/common/v1"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// scheduleLine is a schedule, and a line of -o json.
type scheduleLine struct {
	App      string `json:"app"`
	Target   string `json:"target"`
	Cron     string `json:"cron,omitempty"`
	Every    string `json:"every,omitempty"`
	Jitter   string `json:"jitter,omitempty"`
	Timezone string `json:"timezone,omitempty"`
	Rebuild  bool   `json:"rebuild,omitempty"`
	Paused   bool   `json:"paused,omitempty"`
	// Note says who paused it.
	Note string `json:"note,omitempty"`
	// CatchUp is how late a redeploy may start that was missed.
	CatchUp string `json:"catchUp"`
	// Next are the next times, none while it is paused.
	Next []time.Time `json:"next,omitempty"`
	// Started, Skipped and Missed count the redeploys that were started, skipped because
	// one ran, and missed because the server was down.
	Started int `json:"started"`
	Skipped int `json:"skipped,omitempty"`
	Missed  int `json:"missed,omitempty"`
	// Last are the last redeploys, the newest first.
	Last []redeployLine `json:"last,omitempty"`
	// Warning says why redeploys fail or cannot change anything.
	Warning string `json:"warning,omitempty"`
}

// redeployLine is a redeploy that a schedule has started.
type redeployLine struct {
	Workflow string    `json:"workflow"`
	Run      string    `json:"run"`
	Time     time.Time `json:"time"`
	Ended    time.Time `json:"ended,omitzero"`
	// State is running, deployed, unchanged, failed, canceled, terminated, timedOut or
	// unknown.
	State string `json:"state"`
	// Result is that of a redeploy that went well.
	Result *workflows.RedeployResult `json:"result,omitempty"`
	Error  *failure                  `json:"error,omitempty"`
}

// describe asks the server for the schedule, with at most last of its redeploys.
func (s *schedule) describe(ctx context.Context, last int) (scheduleLine, error) {
	l := scheduleLine{App: s.app, Target: s.target}
	d, err := s.Describe(ctx)
	if err != nil {
		return l, s.failed(ctx, "show", err)
	}
	for _, calendar := range d.Schedule.Spec.Calendars {
		l.Cron = cmp.Or(calendar.Comment, "a calendar")
	}
	for _, interval := range d.Schedule.Spec.Intervals {
		l.Every = duration(interval.Every)
	}
	if jitter := d.Schedule.Spec.Jitter; jitter > 0 {
		l.Jitter = duration(jitter)
	}
	l.Timezone = d.Schedule.Spec.TimeZoneName
	if action, ok := d.Schedule.Action.(*client.ScheduleWorkflowAction); ok && len(action.Args) == 1 {
		var in workflows.RedeployInput
		if payload, ok := action.Args[0].(*common.Payload); ok && converter.GetDefaultDataConverter().FromPayload(payload, &in) == nil {
			l.Rebuild = in.Rebuild
		}
	}
	l.Paused, l.CatchUp = d.Schedule.State.Paused, duration(d.Schedule.Policy.CatchupWindow)
	if l.Next = d.Info.NextActionTimes; l.Paused {
		l.Next, l.Note = nil, d.Schedule.State.Note
	}
	l.Started, l.Skipped, l.Missed = d.Info.NumActions, d.Info.NumActionsSkippedOverlap, d.Info.NumActionsMissedCatchupWindow
	actions := slices.Clone(d.Info.RecentActions)
	slices.Reverse(actions)
	for _, a := range actions[:min(last, len(actions))] {
		if a.StartWorkflowResult != nil {
			l.Last = append(l.Last, s.to.redeployed(ctx, a))
		}
	}
	return l, nil
}

// deployed reports whether the deployment runs.
func (s *schedule) deployed(ctx context.Context) (bool, error) {
	info, err := s.to.newest(ctx, workflows.DeploymentID(s.app, s.target))
	return info.GetStatus() == enums.WORKFLOW_EXECUTION_STATUS_RUNNING, err
}

// warning says why redeploys fail or cannot change anything, "" if they can or it is not
// known.
func (s *schedule) warning(ctx context.Context, rebuild bool) string {
	ctx, cancel := context.WithTimeout(ctx, unanswered)
	defer cancel()
	if runs, err := s.deployed(ctx); err == nil && !runs {
		return s.name() + " is not deployed, so its redeploys fail"
	}
	status, err := s.to.statusOf(ctx, s.app, s.target)
	builds := status.Route.Build.TaskQueue != "prebuilt"
	switch {
	case err != nil:
	case status.Git == nil && !builds:
		return s.name() + " is deployed from a kernel file, so its redeploys cannot change anything"
	case status.Git == nil && !rebuild:
		return s.name() + " is deployed from a folder, whose source stays that of the last deploy: only --rebuild can change anything"
	case status.Git != nil && status.Git.Pinned() && (!rebuild || !builds):
		return s.name() + " is deployed from one commit: a branch as source.ref, or --rebuild, can change something"
	}
	return ""
}

// redeployed returns how a redeploy stands or ended. It asks the server, not a worker.
func (to *connection) redeployed(ctx context.Context, a client.ScheduleActionResult) redeployLine {
	l := redeployLine{Workflow: a.StartWorkflowResult.WorkflowID, Run: a.StartWorkflowResult.FirstExecutionRunID,
		Time: a.ActualTime, State: "unknown"}
	asking, cancel := context.WithTimeout(ctx, unanswered)
	defer cancel()
	about, err := to.DescribeWorkflowExecution(asking, l.Workflow, l.Run)
	if absent(err) {
		err = &step.Error{Kind: step.NotFound, Err: errors.New("the server keeps its history no more")}
	}
	if err != nil {
		l.Error = failureJSON(workflows.Failure(err))
		return l
	}
	status := about.GetWorkflowExecutionInfo().GetStatus()
	l.State = strings.ToLower(status.String()[:1]) + status.String()[1:]
	if status == enums.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return l
	}
	l.Ended = about.GetWorkflowExecutionInfo().GetCloseTime().AsTime()
	var out workflows.RedeployResult
	switch err := to.GetWorkflow(asking, l.Workflow, l.Run).Get(asking, &out); {
	case err != nil:
		l.Error = failureJSON(workflows.Failure(err))
	case out.Unchanged:
		l.State, l.Result = "unchanged", &out
	default:
		l.State, l.Result = "deployed", &out
	}
	return l
}

func (c *cli) scheduleList() *cobra.Command {
	return &cobra.Command{
		Use:   "list [APP[/TARGET]]",
		Short: "List the schedules",
		Long: `List the schedules: their times, the next redeploy, and how the last one ended.
A schedule that was just made may be missing for some seconds.`,
		Example: "  morgana schedule list\n  morgana schedule list -o json | jq -r 'select(.last[0].state == \"failed\") | .app'",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.listSchedules(cmd.Context(), strings.Join(args, ""))
		},
	}
}

func (c *cli) listSchedules(ctx context.Context, which string) error {
	app, target, err := splitName(which)
	if err != nil {
		return err
	}
	to, err := c.connect(ctx, false)
	if err != nil {
		return err
	}
	defer to.Close()
	found, err := to.schedules(ctx, app, target)
	if err != nil {
		return err
	}
	lines, errs := make([]scheduleLine, len(found)), make([]error, len(found))
	atATime(16, len(found), func(i int) { lines[i], errs[i] = found[i].describe(ctx, 1) })
	w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
	head := "APP\tTARGET\tTIMES\tNEXT\tLAST\tRESULT"
	for i, l := range lines {
		switch {
		case step.KindOf(errs[i]) == step.NotFound: // removed meanwhile
			continue
		case errs[i] != nil:
			return errs[i]
		case c.output == "json":
			c.emit(l)
			continue
		}
		last, result := "-", "-"
		if len(l.Last) > 0 {
			last, result = clock(l.Last[0].Time), l.Last[0].result()
		}
		if head != "" {
			_, _ = fmt.Fprintln(w, head) // Flush returns the error
			head = ""
		}
		_, _ = fmt.Fprintln(w, strings.Join([]string{l.App, l.Target, cleanLine(l.times()), l.next(), last, result}, "\t"))
	}
	if head != "" && c.output != "json" {
		c.say("there are no schedules%s; see morgana schedule set --help", prefixed(" of ", which))
	}
	return w.Flush()
}

// schedules lists the schedules of an app and target, or of all. Temporal's list lags
// behind.
func (to *connection) schedules(ctx context.Context, app, target string) (found []*schedule, err error) {
	query := workflows.AppAttribute.GetName() + " IS NOT NULL"
	if app != "" { // checked to be a name: needs no quoting
		query = fmt.Sprintf("%s = '%s'", workflows.AppAttribute.GetName(), app)
	}
	list, err := to.ScheduleClient().List(ctx, client.ScheduleListOptions{Query: query})
	if err != nil {
		return nil, to.refused("list schedules", err)
	}
	for list.HasNext() {
		entry, err := list.Next()
		if err != nil {
			return nil, to.refused("list schedules", err)
		}
		name, ours := strings.CutPrefix(entry.ID, "schedule/")
		a, t, err := splitName(name)
		if !ours || err != nil || t == "" || target != "" && t != target {
			continue
		}
		found = append(found, to.schedule(ctx, a, t))
	}
	slices.SortFunc(found, func(x, y *schedule) int { return cmp.Compare(x.name(), y.name()) })
	return found, nil
}

func (c *cli) scheduleShow() *cobra.Command {
	return c.scheduleChange("show", "Show a schedule, its next times and its last redeploys",
		`Show a schedule, its next times, and how its last ten redeploys ended, as long as the
server keeps their history.`, c.showSchedule)
}

func (c *cli) showSchedule(ctx context.Context, s *schedule) error {
	l, err := s.describe(ctx, 10)
	if err != nil {
		return err
	}
	l.Warning = s.warning(ctx, l.Rebuild)
	if c.output == "json" {
		c.emit(l)
		return nil
	}
	c.print("%s: %s", s.name(), l.when())
	if l.Warning != "" {
		c.print("note: %s", cleanLine(l.Warning))
	}
	if l.Paused {
		c.print("paused: %s", cleanLine(l.Note))
	}
	c.print("started %d, skipped %d while one ran, missed %d while the server was down for more than %s", l.Started, l.Skipped, l.Missed, l.CatchUp)
	w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
	for _, t := range l.Next[:min(5, len(l.Next))] {
		_, _ = fmt.Fprintf(w, "next\t%s\n", clock(t)) // Flush returns the error
	}
	for i, r := range l.Last {
		took := "-"
		if !r.Ended.IsZero() {
			took = r.Ended.Sub(r.Time).Round(100 * time.Millisecond).String()
		}
		if i == 0 {
			_, _ = fmt.Fprintln(w, "\nLAST\tTOOK\tRESULT")
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\n", clock(r.Time), took, r.result())
	}
	return w.Flush()
}

// times returns the times of a schedule: "0 4 * * * (UTC)", "every 24h".
func (l scheduleLine) times() string {
	text := "every " + l.Every
	if l.Cron != "" {
		text = fmt.Sprintf("%s (%s)", l.Cron, cmp.Or(l.Timezone, "UTC"))
	}
	if l.Jitter != "" {
		text += ", jitter " + l.Jitter
	}
	if l.Rebuild {
		text += ", rebuild"
	}
	return text
}

func (l scheduleLine) when() string {
	if l.Cron != "" {
		return "redeployed at " + cleanLine(l.times())
	}
	return "redeployed " + cleanLine(l.times())
}

// next returns the next time: "paused" or "none" if there is none.
func (l scheduleLine) next() string {
	switch {
	case l.Paused:
		return "paused"
	case len(l.Next) == 0:
		return "none, no time fits"
	}
	return clock(l.Next[0])
}

// result says in one line how a redeploy stands or ended.
func (r redeployLine) result() string {
	text := r.State
	if out := r.Result; out != nil {
		text += fmt.Sprintf(": generation %d runs", out.Running)
		if out.Revision != "" {
			text += fmt.Sprintf(", commit %.12s", out.Revision)
		}
		for _, left := range out.Left {
			text += "; " + left
		}
	}
	if e := r.Error; e != nil {
		parts := slices.DeleteFunc([]string{text, e.Op, e.Field, e.Message}, func(s string) bool { return s == "" })
		text = strings.Join(parts, ": ")
	}
	return cleanLine(text)
}

// clock formats a time in the user's time zone.
func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }
