package workflows

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// told returns the history in short: "1 replaced by 4, 2 failed".
func (s *site) told(t *testing.T) string {
	t.Helper()
	var all []Generation
	s.query(t, QueryHistory, &all)
	var texts []string
	for _, g := range all {
		text := fmt.Sprintf("%d %s", g.Generation, g.End)
		if g.By != 0 {
			text += fmt.Sprintf(" by %d", g.By)
		}
		if g.Kept {
			text += " *"
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ", ")
}

// The history says how each generation ended, survives continue-as-new, and can be asked
// for after destroy.
func TestHistory(t *testing.T) {
	s := newSite(t)
	s.result[2] = &step.Error{Kind: step.BuildFailed, Op: "build", Err: errors.New("exit status 2")}
	s.outcome = func(in Request) Outcome {
		out := Outcome{Machine: step.Machine{ID: "m", Registration: step.Registration{Spec: in.Spec, ID: "ami-1"}}, Image: step.Image{Digest: digest("7")}}
		if out.Unchanged = in.Spec.Generation == 3; out.Unchanged {
			out.Machine = in.Current.Machine
		}
		return out
	}
	for i := range 4 {
		s.after(time.Duration(min(i, 1))*time.Hour, func() { s.update(UpdateDeploy, order("/a", fmt.Sprint(i))) })
	}
	s.after(time.Second, func() {
		if got, want := s.told(t), "1 current *, 2 failed by 1, 3 unchanged by 1, 4 rolling out"; got != want {
			t.Errorf("history %s, want %s", got, want)
		}
		s.env.SetContinueAsNewSuggested(true)
	})
	state := s.continues(t)
	if g := state.History[1]; g.Failure != "build: exit status 2" || g.Why != ByDeploy || g.Folder != "/a" || g.Ended.Sub(g.Asked) != s.took {
		t.Errorf("generation 2: %+v", g)
	}
	if g := state.History[3]; g.Digest != digest("7") || g.Image != "ami-1" {
		t.Errorf("generation 4: %+v", g)
	}

	began := state.Started
	again := newSite(t)
	again.after(time.Hour, func() {
		if got, want := again.told(t), "1 replaced by 4 *, 2 failed by 1, 3 unchanged by 1, 4 current *"; got != want {
			t.Errorf("history %s, want %s", got, want)
		}
		if d := again.status(t); began.IsZero() || !d.Started.Equal(began) {
			t.Errorf("started at %s, want %s", d.Started, began)
		}
		again.update(UpdateDestroy, DestroyRequest{})
	})
	again.env.ExecuteWorkflow(Deployment, state)
	if err := again.env.GetWorkflowError(); err != nil {
		t.Fatal(err)
	}
	if got, want := again.told(t), "1 replaced by 4, 2 failed by 1, 3 unchanged by 1, 4 destroyed"; got != want {
		t.Errorf("history after destroy %s, want %s", got, want)
	}
}

// The list is bounded. The current generation stays in it, however many deploys change
// nothing.
func TestHistoryIsBounded(t *testing.T) {
	s := newSite(t)
	s.took = time.Second
	s.outcome = func(in Request) Outcome {
		out := Outcome{Machine: step.Machine{ID: "m", Registration: step.Registration{Spec: in.Spec}}}
		if out.Unchanged = in.Spec.Generation > 2 && in.Spec.Generation < 60; out.Unchanged {
			out.Machine = in.Current.Machine
		}
		return out
	}
	for i := range 115 {
		s.after(time.Duration(min(i, 1))*time.Minute, func() { s.update(UpdateDeploy, order("/a", fmt.Sprint(i))) })
		switch i + 1 {
		case 59:
			s.after(time.Minute, func() {
				got := s.told(t)
				if n := strings.Count(got, ",") + 1; n != maxHistory || !strings.HasPrefix(got, "1 replaced by 2 *, 2 current *, 12 unchanged") {
					t.Errorf("%d generations: %s", n, got)
				}
			})
		case 115:
			s.after(time.Minute, func() {
				got := s.told(t)
				if n := strings.Count(got, ",") + 1; n != maxHistory || !strings.HasPrefix(got, "66 replaced by 67, ") {
					t.Errorf("%d generations: %s", n, got)
				}
			})
		}
	}
	s.until(t, time.Hour, nil)
}
