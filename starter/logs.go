package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/converter"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/store"
	"github.com/morgana-deploy/morgana/workflows"
)

// logsFlags are the flags of "morgana logs".
type logsFlags struct {
	stage      string
	generation int
}

func (c *cli) logsCommand() *cobra.Command {
	var f logsFlags
	cmd := &cobra.Command{
		Use:   "logs [APP[/TARGET]]",
		Short: "Print what configure and build printed",
		Long: `Print the whole output of configure and build, of the last deploy or of a
generation. After a rollback it is that of the generation whose image was booted.
It is stored when the stage ends, also if it failed or was cancelled. If the
kernel is from an earlier build, its log is that build's. Without a name the deploy is
that of the app in morgana.yaml.

On a terminal colours pass and other control sequences do not. A file or a pipe
gets the text unchanged. With -o json each line of a log is an object.`,
		Example: `  morgana logs
  morgana logs hello/dev --stage build
  morgana logs hello/dev --generation 3 > build.log
  morgana logs hello/dev -o json | jq -r .line`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("generation") && f.generation < 1 {
				return step.Invalid("--generation", "1 or more; see morgana status", "%d is no generation", f.generation)
			}
			return c.logs(cmd.Context(), strings.Join(args, ""), f)
		},
	}
	c.projectFlags(cmd)
	cmd.Flags().StringVar(&f.stage, "stage", "", "configure or build (default: both)")
	cmd.Flags().IntVarP(&f.generation, "generation", "g", 0, "generation (default: the last)")
	return cmd
}

func (c *cli) logs(ctx context.Context, which string, f logsFlags) error {
	if f.stage != "" && f.stage != string(step.Configure) && f.stage != string(step.Build) {
		return step.Invalid("--stage", step.OneOf(f.stage, string(step.Configure), string(step.Build)), "stage %q has no log", f.stage)
	}
	to, app, target, err := c.one(ctx, which, true)
	if err != nil {
		return err
	}
	defer to.Close()
	stages, t, err := to.stagesOf(ctx, app, target, f.generation)
	if err != nil {
		return err
	}
	logged := func(st workflows.StageStatus) bool {
		return st.Log != nil && (f.stage == "" || f.stage == string(st.Stage))
	}
	if !slices.ContainsFunc(stages, logged) {
		all, _ := to.history(ctx, app, target) // only its logs and hints are missed
		if made := madeIn(all, t.Generation); f.generation == 0 && made != t.Generation {
			if stages, t, err = to.stagesOf(ctx, app, target, made); err != nil {
				return err
			}
		}
		if !slices.ContainsFunc(stages, logged) {
			return noLog(t, stages, f.stage, all)
		}
	}
	s, err := store.Open(ctx, to.settings.Store)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }() // only read
	for _, st := range stages {
		if logged(st) {
			if err := c.printLog(ctx, s, t, st); err != nil {
				return err
			}
		}
	}
	return nil
}

// madeIn returns the generation that made the image of a generation: another one if it is
// a rollback.
func madeIn(all []workflows.Generation, generation int) int {
	for _, g := range slices.Backward(all) { // a rollback is newer than that
		if g.Generation == generation && g.Of != 0 {
			generation = g.Of
		}
	}
	return generation
}

// noLog returns the error of a rollout that has no log, with the reason and the
// generations that have logs.
func noLog(t step.Tags, stages []workflows.StageStatus, stage string, all []workflows.Generation) error {
	e := &step.Error{Kind: step.NotFound, Err: fmt.Errorf("%s has no log of %s", workflows.RolloutID(t), cmp.Or(stage, "configure or build"))}
	for _, st := range stages {
		if st.Stage != step.Configure && st.Stage != step.Build || stage != "" && stage != string(st.Stage) {
			continue
		}
		switch st.State {
		case workflows.Running:
			e.Hint = fmt.Sprintf("%s still runs; its log is stored when it ends", st.Stage)
		case workflows.Waiting, workflows.Skipped:
			e.Hint = fmt.Sprintf("%s did not run", st.Stage)
		case workflows.Done:
			e.Hint = fmt.Sprintf("%s ran no command: %s", st.Stage, st.Result)
		case workflows.Failed:
			e.Hint = fmt.Sprintf("%s failed before its first command: %s", st.Stage, st.Result)
		}
	}
	var have []string
	for _, g := range all {
		if slices.ContainsFunc(g.Logs, func(log step.File) bool { return stage == "" || log.Name == stage }) {
			have = append(have, fmt.Sprintf("-g %d", g.Generation))
		}
	}
	if len(have) > 0 {
		e.Hint = strings.TrimPrefix(e.Hint+"; there are logs of "+strings.Join(have, ", "), "; ")
	}
	return e
}

// statusOf asks a running deployment for its status.
func (to *connection) statusOf(ctx context.Context, app, target string) (s workflows.DeploymentStatus, err error) {
	if err := to.query(ctx, workflows.DeploymentID(app, target), "", workflows.QueryStatus, &s); err != nil {
		return s, notDeployed(app+"/"+target, err)
	}
	return s, nil
}

// stagesOf returns the stages of a deployment's rollout, running or ended. Generation 0 is
// the last one.
func (to *connection) stagesOf(ctx context.Context, app, target string, generation int) ([]workflows.StageStatus, step.Tags, error) {
	name := app + "/" + target
	t := step.Tags{App: app, Target: target, Generation: generation}
	about, err := to.DescribeWorkflowExecution(ctx, workflows.DeploymentID(app, target), "")
	if err != nil {
		return nil, t, notDeployed(name, err)
	}
	info := about.GetWorkflowExecutionInfo()
	var last int
	if converter.GetDefaultDataConverter().FromPayload(info.GetSearchAttributes().GetIndexedFields()[workflows.GenerationAttribute.GetName()], &last) != nil || last == 0 {
		return nil, t, notDeployed(name, nil)
	}
	switch {
	case generation == 0:
		t.Generation = last
	case generation > last:
		return nil, t, &step.Error{Kind: step.NotFound, Err: fmt.Errorf("%s has no generation %d", name, generation),
			Hint: fmt.Sprintf("the last one is %d", last)}
	}
	t.Life = workflows.LifeOf(info.GetFirstRunId())
	var s workflows.RolloutStatus
	asking, cancel := context.WithTimeout(ctx, 2*unanswered)
	defer cancel()
	err = to.query(asking, workflows.RolloutID(t), "", workflows.QueryStatus, &s)
	switch {
	case ctx.Err() != nil:
		return nil, t, errDetached
	case absent(err), err == nil && s.Tags.Life != t.Life:
		if stages := to.keptLogs(ctx, t); len(stages) > 0 {
			return stages, t, nil
		}
		e := &step.Error{Kind: step.NotFound, Err: fmt.Errorf("the server has no history of %s", workflows.RolloutID(t)),
			Hint: "it keeps the history of an ended deploy for the namespace's retention time"}
		if info.GetStatus() == enums.WORKFLOW_EXECUTION_STATUS_RUNNING {
			e.Hint = "the deploy has not begun, or ended longer ago than the namespace's retention time"
		}
		return nil, t, e
	case err != nil:
		return nil, t, notDeployed(name, err)
	}
	return s.Stages, s.Tags, nil
}

// keptLogs returns the stages whose logs the Deployment knows, of a rollout that the server
// knows no more.
func (to *connection) keptLogs(ctx context.Context, t step.Tags) (stages []workflows.StageStatus) {
	all, err := to.history(ctx, t.App, t.Target)
	if err != nil {
		return nil // the caller has an error of its own
	}
	for _, g := range all {
		for _, log := range g.Logs {
			if g.Generation == t.Generation {
				stages = append(stages, workflows.StageStatus{Stage: step.Stage(log.Name), Log: &log.Artifact})
			}
		}
	}
	return stages
}

// printLog prints the log of a stage.
func (c *cli) printLog(ctx context.Context, s step.Store, t step.Tags, st workflows.StageStatus) error {
	log, err := s.Open(ctx, *st.Log)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // only read
	w := c.consoleWriter(false)
	defer w.end()
	if c.output != "json" && w.filter == nil {
		_, err := files.Copy(ctx, c.out, log)
		return err
	}
	lines := bufio.NewReader(files.Reader(ctx, log))
	for {
		line, err := lines.ReadString('\n')
		switch {
		case line == "":
		case c.output == "json":
			c.emit(logLine{t.App, t.Target, t.Generation, st.Stage, strings.TrimSuffix(line, "\n")})
		default:
			w.piece(step.ConsoleText{Text: line})
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// logLine is a line of "morgana logs -o json".
type logLine struct {
	App        string     `json:"app"`
	Target     string     `json:"target"`
	Generation int        `json:"generation"`
	Stage      step.Stage `json:"stage"`
	Line       string     `json:"line"`
}
