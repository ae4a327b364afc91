package main

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // a host may lack the names of time zones

	"github.com/robfig/cron"
	"github.com/spf13/cobra"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// catchUp is how late a redeploy may start that was missed while the server was down. An
// hour covers a restart, and does not move a nightly redeploy into the day.
const catchUp = time.Hour

func (c *cli) scheduleCommand() *cobra.Command {
	all := &cobra.Command{
		Use:   "schedule",
		Short: "Redeploy an app at set times",
		Long: `Redeploy an app at set times, by a Temporal Schedule. A redeploy takes the last
request again: a source in git is fetched anew, and the image is sent only if it
is another one. If nothing has changed, the machine is left as it is. If a redeploy
fails, the machine that ran before still runs.

A redeploy is skipped while one runs. One that was missed because the server was
down starts when it is up again, up to ` + duration(catchUp) + ` late. morgana destroy removes the
schedule. In Temporal it is schedule/APP/TARGET. This finds the redeploys that failed:

    temporal workflow list --query "WorkflowType = 'Redeploy' AND ExecutionStatus = 'Failed'"`,
		Example: `  morgana schedule set hello/dev --cron "0 4 * * *" --timezone Europe/Berlin
  morgana schedule list
  morgana schedule show hello/dev
  morgana schedule trigger hello/dev
  morgana schedule remove hello/dev`,
		Args: cobra.NoArgs,
	}
	all.AddCommand(c.scheduleSet(), c.scheduleList(), c.scheduleShow(),
		c.scheduleChange("pause", "Stop the redeploys until resume",
			"Stop the redeploys of a deployment. trigger still starts one.", c.pause),
		c.scheduleChange("resume", "Go on with the redeploys after pause",
			"Go on with the redeploys of a deployment. Those of the time of the pause are not made up for.", c.resume),
		c.scheduleChange("trigger", "Start a redeploy now",
			"Start a redeploy now, of a paused schedule too. morgana schedule show tells how it ends.", c.trigger),
		c.scheduleChange("remove", "Remove the schedule, not the deployment",
			"Remove the schedule of a deployment. A redeploy that runs goes on; see morgana cancel.", c.unschedule))
	return all
}

// scheduleChange makes a subcommand that does one thing with a schedule.
func (c *cli) scheduleChange(name, short, long string, do func(context.Context, *schedule) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: name + " [APP[/TARGET]]", Short: short, Long: long + "\nWithout a name the deployment is that of the app in morgana.yaml.",
		Example: "  morgana schedule " + name + " hello/dev",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := c.schedule(cmd.Context(), strings.Join(args, ""))
			if err != nil {
				return err
			}
			defer s.to.Close()
			return do(cmd.Context(), s)
		},
	}
	c.projectFlags(cmd)
	return cmd
}

// schedule is the schedule of a deployment, which may not exist.
type schedule struct {
	client.ScheduleHandle
	to          *connection
	app, target string
}

// schedule connects and returns the schedule of the one deployment that which names.
func (c *cli) schedule(ctx context.Context, which string) (*schedule, error) {
	to, app, target, err := c.one(ctx, which, true)
	if err != nil {
		return nil, err
	}
	return to.schedule(ctx, app, target), nil
}

func (to *connection) schedule(ctx context.Context, app, target string) *schedule {
	return &schedule{to.ScheduleClient().GetHandle(ctx, workflows.ScheduleID(app, target)), to, app, target}
}

func (s *schedule) name() string { return s.app + "/" + s.target }

// failed explains why a call to the server about a schedule failed.
func (s *schedule) failed(ctx context.Context, op string, err error) error {
	switch {
	case ctx.Err() != nil:
		return errDetached
	case absent(err):
		return &step.Error{Kind: step.NotFound, Err: fmt.Errorf("%s has no schedule", s.name()),
			Hint: fmt.Sprintf(`morgana schedule list names those there are; morgana schedule set %s --cron "0 4 * * *" makes one`, s.name())}
	}
	return s.to.refused(op+" "+s.GetID(), err)
}

// times are the flags of "morgana schedule set".
type times struct {
	cron, every, jitter, timezone string
	rebuild                       bool
}

func (c *cli) scheduleSet() *cobra.Command {
	var t times
	cmd := &cobra.Command{
		Use:   "set [APP[/TARGET]]",
		Short: "Make a schedule, or change its times",
		Long: `Make the schedule of a deployment, or give it other times. The last redeploys and a
pause stay. The fields of --cron are minute, hour, day of the month, month and day of
the week; @hourly, @daily, @weekly and @monthly can stand for them. The times of
--every are counted from 1970 in UTC: those of 24h are at midnight.

A deployment from a folder keeps the source of its last deploy, so only --rebuild
can change anything. Without a name the deployment is that of the app in morgana.yaml.`,
		Example: `  morgana schedule set hello/dev --cron "0 4 * * *" --timezone Europe/Berlin
  morgana schedule set hello/dev --cron "30 5 * * 1-5" --rebuild
  morgana schedule set hello/dev --every 24h --jitter 30m`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.setSchedule(cmd.Context(), strings.Join(args, ""), t)
		},
	}
	c.projectFlags(cmd)
	cmd.Flags().StringVar(&t.cron, "cron", "", `times as cron writes them: "0 4 * * *"`)
	cmd.Flags().StringVar(&t.every, "every", "", "time from one redeploy to the next: 90m, 24h, 7d")
	cmd.Flags().StringVar(&t.jitter, "jitter", "", "delay each redeploy by a random time up to this: 30m")
	cmd.Flags().StringVar(&t.timezone, "timezone", "", "time zone of --cron: Europe/Berlin (default UTC)")
	cmd.Flags().BoolVar(&t.rebuild, "rebuild", false, "look up dependencies anew, and take no kernel of an earlier build")
	return cmd
}

// spec returns the times as Temporal takes them. The server reads cron.
func (t times) spec() (*client.ScheduleSpec, error) {
	s := &client.ScheduleSpec{TimeZoneName: t.timezone}
	var err error
	switch {
	case t.cron == "" && t.every == "":
		return nil, step.Invalid("", `give --cron "0 4 * * *" or --every 24h`, "a schedule needs a time")
	case t.cron != "" && t.every != "":
		return nil, step.Invalid("--every", "leave one of them out", "--cron and --every exclude each other")
	case t.every != "":
		var every time.Duration
		if every, err = readDuration("--every", t.every); err != nil {
			return nil, err
		}
		if every < time.Second {
			return nil, step.Invalid("--every", "1s or more", "%s is too short", t.every)
		}
		s.Intervals = []client.ScheduleIntervalSpec{{Every: every}}
	default:
		expression, _, _ := strings.Cut(t.cron, "#")
		expression = strings.TrimSpace(expression)
		if err := checkCron(expression); err != nil {
			return nil, err
		}
		// The server keeps the fields in its own form, and the comment.
		s.CronExpressions = []string{expression + " # " + expression}
	}
	if t.jitter != "" {
		if s.Jitter, err = readDuration("--jitter", t.jitter); err != nil {
			return nil, err
		}
	}
	if t.timezone == "" {
		return s, nil
	}
	if t.every != "" {
		return nil, step.Invalid("--timezone", "leave it out, or use --cron", "--every has no time zone")
	}
	if _, err := time.LoadLocation(t.timezone); err != nil || t.timezone == time.Local.String() {
		return nil, step.Invalid("--timezone", "a name of the tz database, as Europe/Berlin, America/New_York or UTC",
			"%q is no time zone", t.timezone)
	}
	return s, nil
}

// fiveFields is the hint for a --cron that cannot be read.
const fiveFields = `five fields: minute, hour, day of the month, month and weekday, as "0 4 * * *"`

// checkCron refuses what the server takes and a user does not mean: years and seconds, and
// times that never come. The server reads the rest.
func checkCron(expression string) error {
	fields := strings.Fields(expression)
	switch {
	case strings.Contains(expression, "TZ="):
		return step.Invalid("--cron", "--timezone Europe/Berlin", "%q has a time zone", expression)
	case len(fields) != 5 && (len(fields) != 1 || !strings.HasPrefix(expression, "@")):
		return step.Invalid("--cron", fiveFields, "%q has %d fields", expression, len(fields))
	}
	if times, err := cron.ParseStandard(expression); err == nil && times.Next(time.Now()).IsZero() {
		return step.Invalid("--cron", "a day that the month has", "no time fits %q", expression)
	}
	return nil
}

const maxDays = 10_000 // of a length of time

// readDuration reads a time as time.ParseDuration does, or in days: "7d".
func readDuration(flag, text string) (time.Duration, error) {
	number := strings.TrimRight(text, "dh")
	n, errNumber := strconv.Atoi(number)
	if errNumber == nil && n >= 0 && n < maxDays && text == number+"d" {
		return time.Duration(n) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil && errNumber == nil && n > 0 && (text == number+"d" || text == number+"h") || d >= maxDays*24*time.Hour {
		return 0, step.Invalid(flag, "less than "+strconv.Itoa(maxDays)+"d", "%s is too long", text)
	}
	if err != nil || d < 0 {
		return 0, step.Invalid(flag, "a time as 90m, 24h or 7d", "%q is no length of time", text)
	}
	return d, nil
}

// duration formats a length of time without zero parts: "24h", "1h30m".
func duration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func (c *cli) setSchedule(ctx context.Context, which string, t times) error {
	spec, err := t.spec()
	if err != nil {
		return err
	}
	s, err := c.schedule(ctx, which)
	if err != nil {
		return err
	}
	defer s.to.Close()
	switch runs, err := s.deployed(ctx); {
	case err != nil:
		return err
	case !runs:
		return &step.Error{Kind: step.NotFound, Err: fmt.Errorf("%s is not deployed", s.name()), Hint: "deploy it first; see morgana status"}
	}
	switch err := s.set(ctx, spec, t.rebuild); {
	case t.cron != "" && badArgument(err) != "":
		return step.Invalid("--cron", fiveFields, "%q: %s", t.cron, badArgument(err))
	case badArgument(err) != "":
		return step.Invalid("", "see morgana schedule set --help", "%s", badArgument(err))
	case err != nil:
		return s.failed(ctx, "set", err)
	}
	line, err := s.describe(ctx, 0)
	if err != nil {
		return err
	}
	line.Warning = s.warning(ctx, t.rebuild)
	if c.output == "json" {
		c.emit(line)
		return nil
	}
	c.print("%s: %s; next: %s", s.name(), line.when(), line.next())
	if line.Warning != "" {
		c.say("note: %s", line.Warning)
	}
	return nil
}

// badArgument returns the text of the server's error for an argument that it refuses, ""
// for another error.
func badArgument(err error) string {
	var bad *serviceerror.InvalidArgument
	if !errors.As(err, &bad) {
		return ""
	}
	return strings.TrimPrefix(strings.TrimPrefix(bad.Message, "Invalid schedule spec: "), "CronString ")
}

// set makes the schedule or changes it.
func (s *schedule) set(ctx context.Context, spec *client.ScheduleSpec, rebuild bool) error {
	attributes := temporal.NewSearchAttributes(workflows.AppAttribute.ValueSet(s.app), workflows.TargetAttribute.ValueSet(s.target))
	summary := s.app + " on " + s.target
	action := &client.ScheduleWorkflowAction{
		ID: "redeploy/" + s.name(), Workflow: "Redeploy", TaskQueue: workflows.TaskQueue,
		Args: []any{workflows.RedeployInput{App: s.app, Target: s.target,
			RedeployRequest: workflows.RedeployRequest{Rebuild: rebuild}}},
		TypedSearchAttributes: attributes,
		Memo:                  map[string]any{"schedule": s.GetID()},
		StaticSummary:         summary,
		StaticDetails:         "A redeploy by " + s.GetID() + ". `morgana schedule show " + s.name() + "` lists the last ones.",
	}
	policy := client.SchedulePolicies{Overlap: enums.SCHEDULE_OVERLAP_POLICY_SKIP, CatchupWindow: catchUp}
	note := "redeploys " + summary
	_, err := s.to.ScheduleClient().Create(ctx, client.ScheduleOptions{
		ID: s.GetID(), Spec: *spec, Action: action, Overlap: policy.Overlap, CatchupWindow: policy.CatchupWindow,
		Note: note, Memo: map[string]any{"morgana": note}, TypedSearchAttributes: attributes,
	})
	if !errors.Is(err, temporal.ErrScheduleAlreadyRunning) {
		return err
	}
	return s.Update(ctx, client.ScheduleUpdateOptions{DoUpdate: func(have client.ScheduleUpdateInput) (*client.ScheduleUpdate, error) {
		now := have.Description.Schedule
		now.Spec, now.Action, now.Policy = spec, action, &policy
		return &client.ScheduleUpdate{Schedule: &now, TypedSearchAttributes: &attributes}, nil
	}})
}

// did prints the result of a subcommand. json is the event's name.
func (c *cli) did(s *schedule, event, format string, args ...any) {
	if c.output == "json" {
		c.emit(about{event, s.app, s.target})
		return
	}
	c.print("%s: %s", s.name(), fmt.Sprintf(format, args...))
}

// by returns the note of a pause or resume: who did it.
func by(what string) string {
	if u, err := user.Current(); err == nil {
		what += " by " + u.Username
	}
	return what + ", " + time.Now().Format(time.DateTime)
}

func (c *cli) pause(ctx context.Context, s *schedule) error {
	if err := s.Pause(ctx, client.SchedulePauseOptions{Note: by("paused")}); err != nil {
		return s.failed(ctx, "pause", err)
	}
	c.did(s, "paused", "paused: morgana schedule resume goes on")
	return nil
}

func (c *cli) resume(ctx context.Context, s *schedule) error {
	if err := s.Unpause(ctx, client.ScheduleUnpauseOptions{Note: by("resumed")}); err != nil {
		return s.failed(ctx, "resume", err)
	}
	line, err := s.describe(ctx, 0)
	if err != nil {
		return err
	}
	c.did(s, "resumed", "%s; next: %s", line.when(), line.next())
	return nil
}

func (c *cli) trigger(ctx context.Context, s *schedule) error {
	now, err := s.Describe(ctx)
	if err == nil && len(now.Info.RunningWorkflows) > 0 {
		c.did(s, "running", "a redeploy runs already: %s", now.Info.RunningWorkflows[0].WorkflowID)
		return nil
	}
	if err == nil {
		err = s.Trigger(ctx, client.ScheduleTriggerOptions{})
	}
	if err != nil {
		return s.failed(ctx, "trigger", err)
	}
	c.did(s, "triggered", "a redeploy starts: morgana schedule show tells how it ends")
	return nil
}

func (c *cli) unschedule(ctx context.Context, s *schedule) error {
	switch err := s.Delete(ctx); {
	case absent(err):
		c.did(s, "absent", "there is no schedule, so there is nothing to remove")
		return nil
	case err != nil:
		return s.failed(ctx, "remove", err)
	}
	c.did(s, "removed", "removed the schedule")
	return nil
}
