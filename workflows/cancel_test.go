package workflows

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"

	"github.com/morgana-deploy/morgana/step"
)

// Cancel ends the rollouts, waits for the undo of the running one, and leaves the machine.
func TestCancelEndsTheRollouts(t *testing.T) {
	s := newSite(t)
	s.undoes = time.Minute
	var nothing, cancel, again, next *answer
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
	s.after(time.Hour, func() { nothing = s.update(UpdateCancel, nil) })
	s.after(time.Second, func() { s.update(UpdateDeploy, order("/a", "y")) })
	s.after(time.Second, func() { s.update(UpdateDeploy, order("/a", "z")) })
	s.after(time.Second, func() { cancel = s.update(UpdateCancel, nil) })
	s.after(time.Second, func() {
		again = s.update(UpdateCancel, nil)
		next = s.update(UpdateDeploy, order("/a", "y")) // the same as the one that is being cancelled
		if cancel.done || again.done {
			t.Error("cancel did not wait for the undo")
		}
	})
	s.after(time.Hour, func() { s.update(UpdateDeploy, order("/a", "u")) })
	s.after(time.Second, func() { s.update(UpdateCancel, nil) })
	s.until(t, time.Hour, func(d DeploymentStatus) {
		if d.Machine == nil || d.Machine.Registration.Spec.Generation != 4 || d.Failure != "" {
			t.Errorf("status %+v", d)
		}
	})
	if got, ok := nothing.got.(CancelResult); !ok || nothing.err != nil || len(got.Cancelled) != 0 {
		t.Errorf("nothing to cancel: %+v", nothing)
	}
	if got, ok := cancel.got.(CancelResult); !ok || !slices.Equal(got.Cancelled, []int{2, 3}) || !slices.Equal(got.Removed, []string{"image 1"}) {
		t.Errorf("cancelled: %+v", cancel)
	}
	if got, ok := again.got.(CancelResult); !ok || !slices.Equal(got.Cancelled, []int{2}) {
		t.Errorf("cancelled again: %+v", again)
	}
	if got, ok := next.got.(Accepted); !ok || got.Attached || got.Tags.Generation != 4 {
		t.Errorf("a deploy while cancelling: %+v", next)
	}
}

// A cancelled first rollout ends the deployment, and cancel has its result.
func TestCancelOfTheFirstRollout(t *testing.T) {
	s := newSite(t)
	var cancel *answer
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
	s.after(time.Second, func() { cancel = s.update(UpdateCancel, nil) })
	if f := Failure(s.run()); f == nil || f.Error() != "cancelled" {
		t.Errorf("failure %+v", f)
	}
	if got, ok := cancel.got.(CancelResult); !ok || !slices.Equal(got.Cancelled, []int{1}) {
		t.Errorf("cancelled: %+v", cancel)
	}
}

// A deploy that was cancelled and has left resources was cancelled; it has not failed.
func TestCancelOfARolloutThatLeavesResources(t *testing.T) {
	w := newWorld(t)
	w.env.OnActivity("lab.Boot", mock.Anything, mock.Anything).Return(nil, nil).After(time.Hour)
	w.after(0, func() { w.deploy("h1", "1") })
	w.after(time.Hour, func() {
		w.digest = digest("2")
		o := w.order("h2", "2")
		o.Keep, o.Route.Boot.Activity = true, "lab.Boot"
		w.update(UpdateDeploy, o)
	})
	w.after(time.Minute, func() { w.update(UpdateCancel, nil) })
	w.until(t, time.Hour, func(s DeploymentStatus) {
		if s.LastDeploy != EndCancelled || s.Failure != "" || len(s.Left) != 2 || s.Machine.Of().Generation != 1 {
			t.Errorf("status %+v", s)
		}
	})
}

// The status of a rollout has the logs of configure and build, of a failed stage too.
func TestStagesHaveTheirLogs(t *testing.T) {
	r := newRecorded(t)
	log := step.Artifact{URI: "file:///log", SHA256: digest("7"), Size: 3}
	r.fail["Build"] = &step.Error{Kind: step.BuildFailed, Op: "build", Err: errors.New("exit status 2"), Log: &log}
	_, err := r.rollout(r.request())
	if Failure(err) == nil || *Failure(err).Log != log {
		t.Errorf("failure %+v", Failure(err))
	}
	if logs := details(err).Logs; len(logs) != 2 || logs[0].Name != "configure" || logs[1] != (step.File{Name: "build", Artifact: log}) {
		t.Errorf("logs %+v", logs)
	}
	var s RolloutStatus
	r.query(t, QueryStatus, &s)
	for _, st := range s.Stages {
		switch {
		case st.Stage == step.Build && (st.Log == nil || *st.Log != log),
			st.Stage == step.Configure && (st.Log == nil || st.Log.URI != "file:///configured"):
			t.Errorf("%s has the log %+v", st.Stage, st.Log)
		}
	}
}

// A deploy that was cancelled is not repeated by a schedule, and does not own the app.
func TestACancelledDeployIsNotRepeated(t *testing.T) {
	s := newSite(t)
	var foreign *answer
	s.after(0, func() { s.update(UpdateDeploy, order("/a", "good")) })
	s.after(time.Hour, func() {
		bad := order("/b", "bad")
		bad.TakeOver = true
		s.update(UpdateDeploy, bad)
		s.update(UpdateDeploy, order("/b", "queued"))
	})
	s.after(time.Second, func() { s.update(UpdateCancel, nil) })
	s.after(time.Hour, func() {
		foreign = s.update(UpdateDeploy, order("/b", "bad"))
		s.update(UpdateRedeploy, RedeployRequest{})
	})
	s.until(t, time.Hour, func(d DeploymentStatus) {
		if got := s.ran[len(s.ran)-1].Spec; string(got.Options) != `{"args":"good"}` || got.Generation != 4 {
			t.Errorf("the redeploy rolled out generation %d with %s", got.Generation, got.Options)
		}
		if d.Folder != "/a" || foreign.accepted {
			t.Errorf("status %+v, a deploy of another project: %+v", d, foreign)
		}
	})
}
