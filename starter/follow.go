package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	enums "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// look is the time between two calls of method look.
const look = 250 * time.Millisecond

// follower watches one target's rollout and shows its changes.
type follower struct {
	to      *connection
	project *config.Project
	target  config.Target
	show    screen
	seen    map[step.Stage]workflows.StageState
	// notes holds the notes of the current call of look, before those of the last one.
	notes, before map[string]bool
	// answered is the time of the last answer of a worker. silent is set from a note that
	// no answer comes until the next answer.
	answered time.Time
	silent   bool
}

// deploy asks for the rollout and follows it to its end. A failure is shown
// and returned.
func (f *follower) deploy(ctx context.Context, in workflows.DeployRequest, detach bool) error {
	return f.run(ctx, in.Spec.Tags, detach, func(accepted *workflows.Accepted, say func(string)) error {
		return f.to.update(ctx, in.Spec.App+"/"+in.Spec.Target, workflows.UpdateDeploy, true, []any{in}, accepted, say)
	})
}

// run asks for a rollout and follows it to its end.
func (f *follower) run(ctx context.Context, t step.Tags, detach bool, ask func(accepted *workflows.Accepted, say func(string)) error) error {
	var accepted workflows.Accepted
	say := func(note string) { f.emit(event{Event: "waiting", Note: note}, t) }
	if err := ask(&accepted, say); err != nil {
		return f.failed(t, err)
	}
	f.emit(event{Event: "accepted", Rollout: accepted.RolloutID, Attached: accepted.Attached, Of: accepted.Of,
		UI: f.to.link(accepted.RolloutID)}, accepted.Tags)
	if detach {
		return nil
	}
	out, err := f.follow(ctx, accepted)
	s := f.settled(ctx, accepted.Tags, err)
	if temporal.IsCanceledError(err) {
		cause := "cancelled"
		if s.Destroying {
			cause += ": the deployment is being destroyed"
		}
		err = &step.Error{Op: accepted.RolloutID, Err: errors.New(cause), Hint: "nothing of this deploy is left"}
	}
	if err != nil {
		e := *workflows.Failure(err)
		s.Back(&e)
		return f.failed(accepted.Tags, &e)
	}
	f.emit(event{Event: "deployed", Machine: &out.Machine, Unchanged: out.Unchanged, Commit: out.Image.Spec.Origin.Revision(), Left: out.Left}, accepted.Tags)
	return nil
}

func (f *follower) failed(t step.Tags, err error) error {
	if errors.Is(err, errDetached) {
		return err
	}
	e := located(f.project, f.target, err, f.seen[step.Configure] != workflows.Failed && f.seen[step.Build] != workflows.Failed)
	f.emit(event{Event: "failed", Error: failureJSON(e)}, t)
	return e
}

// located adds to the error of a rollout its place in morgana.yaml. byTarget says that it
// is no error of the toolchain.
func located(p *config.Project, t config.Target, err error, byTarget bool) *step.Error {
	e := *workflows.Failure(err)
	switch {
	case p == nil: // a rollback reads no morgana.yaml
	case e.Field != "": // an option of morgana.yaml: Op is its place there
		e.Op = p.Locate(t.Name, e.Field)
		e.Hint = config.SetHint(e.Op, e.Hint)
	case e.Kind == step.Unsupported && byTarget:
		// The target cannot boot the kernel, for example: Op is the target's place.
		e.Op = strings.TrimSuffix(p.Locate(t.Name, "")+": "+e.Op, ": ")
	}
	return &e
}

// settled waits until the Deployment has recorded the rollout's end, which status and
// destroy read there, and returns its status. After a probe that failed the Deployment first
// boots the machine before.
func (f *follower) settled(ctx context.Context, t step.Tags, err error) (s workflows.DeploymentStatus) {
	limit := 5 * time.Second
	if err != nil && f.seen[step.Probing] != "" {
		limit = workflows.Patience
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		s = workflows.DeploymentStatus{}
		err := f.to.query(ctx, workflows.DeploymentID(t.App, t.Target), "", workflows.QueryStatus, &s)
		if err != nil || s.Rolling == nil || *s.Rolling != t {
			return s
		}
		if limit > 5*time.Second && s.Machine != nil {
			f.waits(t, "failed; booting the machine before")
		}
		if step.Pause(ctx, look/5) != nil {
			return s
		}
	}
}

func (f *follower) emit(e event, t step.Tags) {
	e.Time, e.App, e.Target, e.Generation = time.Now(), t.App, t.Target, t.Generation
	f.show.event(e)
}

// follow waits for the rollout's end.
func (f *follower) follow(ctx context.Context, accepted workflows.Accepted) (out workflows.Outcome, err error) {
	f.seen, f.notes, f.answered = map[step.Stage]workflows.StageState{}, map[string]bool{}, time.Now()
	run, err := f.find(ctx, accepted)
	if err != nil {
		return out, err
	}
	type ending struct {
		out workflows.Outcome
		err error
	}
	ended := make(chan ending, 2)
	await := func() {
		var e ending
		e.err = run.Get(ctx, &e.out)
		ended <- e
	}
	go await()
	missed := false
	for {
		select {
		case e := <-ended:
			switch {
			case ctx.Err() != nil:
				return out, errDetached
			case !lost(e.err):
				// The last look shows the failed stage. On a busy host it may fail.
				for range 3 {
					if f.look(ctx, run, accepted.Tags) {
						break
					}
				}
				return e.out, e.err
			}
			// The call gave up. look says why, and the server may come back.
			if step.Pause(ctx, time.Second) != nil {
				return out, errDetached
			}
			go await()
		case <-time.After(look):
			// The server sometimes (once in 500, measured) does not wake a long
			// poll when the workflow ends: ask anew.
			if closed := f.look(ctx, run, accepted.Tags); closed && !missed {
				missed = true
				go await()
			}
		}
	}
}

// find waits for the rollout to start: another rollout may run first. An older run of
// the same id belongs to an earlier life of the deployment.
func (f *follower) find(ctx context.Context, accepted workflows.Accepted) (client.WorkflowRun, error) {
	since := time.Now()
	for misses := 0; ; {
		asking, cancel := context.WithTimeout(ctx, unanswered)
		about, err := f.to.DescribeWorkflowExecution(asking, accepted.RolloutID, "")
		if err == nil {
			run := about.GetWorkflowExecutionInfo().GetExecution().GetRunId()
			if s, err := f.status(asking, accepted.RolloutID, run); err == nil && s.Tags == accepted.Tags {
				cancel()
				return f.to.GetWorkflow(ctx, accepted.RolloutID, run), nil
			}
		}
		cancel()
		if err != nil && !absent(err) && ctx.Err() == nil && !lost(err) {
			return nil, err
		}
		dropped, ended := f.dropped(ctx, accepted.Tags)
		if !dropped {
			misses = 0
		} else if misses++; misses == 3 { // a rollout that leaves the queue may be missed once
			if !ended {
				return nil, &step.Error{Op: accepted.RolloutID, Err: errors.New("cancelled before it began"), Hint: "deploy again"}
			}
			asking, cancel := context.WithTimeout(ctx, unanswered)
			defer cancel()
			err := f.to.GetWorkflow(asking, workflows.DeploymentID(accepted.Tags.App, accepted.Tags.Target), "").Get(asking, nil)
			if !early(err) { // the deployment failed
				return nil, err
			}
			return nil, &step.Error{Kind: step.Conflict, Op: accepted.RolloutID,
				Err: errors.New("dropped before it began: the deployment was destroyed"), Hint: "deploy again"}
		}
		switch {
		case lost(err):
			f.unheard(accepted.Tags, f.to.noServer)
		case time.Since(f.answered) > unanswered:
			f.unheard(accepted.Tags, f.to.noWorker)
		case time.Since(since) > 2*time.Second:
			f.waits(accepted.Tags, "waiting for the rollout that is going on (morgana status)")
		}
		if step.Pause(ctx, look/2) != nil {
			return nil, errDetached
		}
	}
}

// dropped reports whether the Deployment neither runs nor will run the rollout, and whether
// the Deployment itself has ended.
func (f *follower) dropped(ctx context.Context, t step.Tags) (yes, ended bool) {
	ctx, cancel := context.WithTimeout(ctx, unanswered)
	defer cancel()
	about, err := f.to.DescribeWorkflowExecution(ctx, workflows.DeploymentID(t.App, t.Target), "")
	if err != nil {
		return false, false
	}
	if about.GetWorkflowExecutionInfo().GetStatus() != enums.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return true, true
	}
	var s workflows.DeploymentStatus
	if f.to.query(ctx, workflows.DeploymentID(t.App, t.Target), "", workflows.QueryStatus, &s) != nil {
		return false, false
	}
	f.heard(t)
	return !s.Destroying && !slices.Contains(s.Queued, t) && (s.Rolling == nil || *s.Rolling != t), false
}

func (f *follower) status(ctx context.Context, id, run string) (s workflows.RolloutStatus, err error) {
	if err = f.to.query(ctx, id, run, workflows.QueryStatus, &s); err == nil {
		f.heard(s.Tags)
	}
	return s, err
}

// heard notes an answer of a worker, and shows that one answers again.
func (f *follower) heard(t step.Tags) {
	f.answered = time.Now()
	if f.silent {
		f.silent = false
		f.waits(t, "a worker answers again")
	}
}

// unheard shows why no worker answers.
func (f *follower) unheard(t step.Tags, why func(since time.Time) string) {
	f.silent = true
	f.waits(t, why(f.answered))
}

// look shows the stages that changed, and the progress of the running step or why it
// waits. It shows a note if the server or the worker does not answer. It reports whether
// the rollout is over, which the server knows even if the worker is gone.
func (f *follower) look(ctx context.Context, run client.WorkflowRun, t step.Tags) (closed bool) {
	asking, cancel := context.WithTimeout(ctx, unanswered)
	defer cancel()
	f.notes, f.before = map[string]bool{}, f.notes
	about, err := f.to.DescribeWorkflowExecution(asking, run.GetID(), run.GetRunID())
	if err != nil {
		if ctx.Err() == nil && lost(err) {
			f.unheard(t, f.to.noServer)
		}
		return false
	}
	s, err := f.status(asking, run.GetID(), run.GetRunID())
	if ctx.Err() == nil && lost(err) {
		f.unheard(t, f.to.noWorker)
	}
	for _, st := range s.Stages {
		if st.State == workflows.Waiting || f.seen[st.Stage] == st.State {
			continue
		}
		if st.State != workflows.Running && st.State != workflows.Skipped && f.seen[st.Stage] == "" {
			f.stage(t, workflows.StageStatus{Stage: st.Stage, State: workflows.Running, Started: st.Started})
		}
		f.seen[st.Stage] = st.State
		f.stage(t, st)
	}
	if s.Undoing {
		f.waits(t, "failed; removing what it made")
	}
	for _, p := range about.GetPendingActivities() {
		note, stuck := pending(p)
		if stuck {
			f.waits(t, note)
		} else {
			f.notice(t, note)
		}
	}
	if len(f.notes) == 0 && len(f.before) > 0 {
		f.emit(event{Event: "progress"}, t) // an event without a note clears the old note
	}
	return about.GetWorkflowExecutionInfo().GetStatus() != enums.WORKFLOW_EXECUTION_STATUS_RUNNING
}

func (f *follower) stage(t step.Tags, s workflows.StageStatus) {
	e := event{Event: "stage", Stage: string(s.Stage), State: string(s.State), Result: s.Result}
	if !s.Ended.IsZero() {
		e.Seconds = s.Ended.Sub(s.Started).Seconds()
	}
	f.emit(e, t)
}

// pending returns the progress of an activity. If stuck is set, note is what the activity
// waits for.
func pending(p *workflowpb.PendingActivityInfo) (note string, stuck bool) {
	switch {
	case p.GetAttempt() > 1 && p.GetLastFailure() != nil && p.GetState() == enums.PENDING_ACTIVITY_STATE_SCHEDULED:
		return fmt.Sprintf("try %d of %s follows: %s", p.GetAttempt(), p.GetActivityType().GetName(), p.GetLastFailure().GetMessage()), true
	case p.GetState() == enums.PENDING_ACTIVITY_STATE_SCHEDULED &&
		time.Since(p.GetScheduledTime().AsTime()) > 3*time.Second:
		return "waiting for a worker to take " + p.GetActivityType().GetName(), true
	}
	var progress step.Progress
	if converter.GetDefaultDataConverter().FromPayloads(p.GetHeartbeatDetails(), &progress) != nil {
		return "", false
	}
	return progressLine(progress), progress.Waiting
}

func progressLine(p step.Progress) string {
	done := ""
	switch {
	case p.Total > 0 && p.Unit == "bytes":
		done = fmt.Sprintf("%d%% of %s ", 100*p.Done/p.Total, workflows.Size(p.Total))
	case p.Total > 0:
		done = fmt.Sprintf("%d of %d %s ", p.Done, p.Total, p.Unit)
	case p.Done > 0 && p.Unit == "bytes":
		done = workflows.Size(p.Done) + " "
	case p.Done > 0:
		done = fmt.Sprintf("%d %s ", p.Done, p.Unit)
	}
	return strings.TrimSpace(done + p.Note)
}

// notice shows the progress of the running step. waits shows why the rollout waits.
func (f *follower) notice(t step.Tags, note string) { f.tell("progress", t, note) }

func (f *follower) waits(t step.Tags, note string) { f.tell("waiting", t, note) }

// tell shows a note, unless this call of look or the last one has shown it.
func (f *follower) tell(what string, t step.Tags, note string) {
	if note != "" && !f.notes[note] && !f.before[note] {
		f.emit(event{Event: what, Note: note}, t)
	}
	f.notes[note] = true
}
