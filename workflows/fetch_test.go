package workflows

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

const aCommit = "0123456789012345678901234567890123456789"

// fetches answers source.Fetch by what make makes of the origin.
func (r *recorded) fetches(made func(*step.Origin)) {
	r.env.RegisterActivityWithOptions(func(ctx context.Context, in step.Spec) (step.Spec, error) {
		r.calls = append(r.calls, "Fetch "+activity.GetInfo(ctx).TaskQueue)
		git := *in.Origin.Git
		in.Origin.Git = &git
		made(&in.Origin)
		return in, nil
	}, activity.RegisterOptions{Name: "source.Fetch"})
}

func archived(o *step.Origin) {
	o.Git.Commit, o.Archive, o.Networks = aCommit, &step.Artifact{URI: "file:///a", SHA256: digest("0")}, []string{"service"}
}

func TestRolloutFetchesFirst(t *testing.T) {
	r := newRecorded(t)
	r.fetches(archived)
	in := r.request()
	in.Spec.Origin = step.Origin{Git: &step.Git{URL: "https://example.org/ann/hello", Ref: "main"}}
	out, err := r.rollout(in)
	if err != nil {
		t.Fatal(err)
	}
	if want := append([]string{"Fetch source"}, whole...); !slices.Equal(r.calls[:len(want)], want) {
		t.Errorf("calls\n got %q\nwant %q", r.calls, want)
	}
	if o := out.Image.Spec.Origin; o.Revision() != aCommit || o.Archive == nil {
		t.Errorf("origin of the image: %+v", o)
	}
	var s RolloutStatus
	r.query(t, QueryStatus, &s)
	if first := s.Stages[0]; s.Commit != aCommit || first.Stage != step.Fetch || first.State != Done || first.Result != "commit "+aCommit+", source 0 bytes" {
		t.Errorf("status %+v", s)
	}
}

// A fetch of somebody else's may not change the deploy, nor leave it without a source.
func TestRolloutRefusesAFetch(t *testing.T) {
	for want, made := range map[string]func(*step.Origin){
		"result of source.Fetch: it has no commit, or neither archive nor kernel": func(o *step.Origin) { o.Git.Commit = aCommit },
		"result of source.Fetch: spec.origin: changed from map[git:map[url:file:///h]] to map[git:map[url:file:///other]]": func(o *step.Origin) {
			archived(o)
			o.Git.URL = "file:///other"
		},
	} {
		r := newRecorded(t)
		r.fetches(made)
		in := r.request()
		in.Spec.Origin = step.Origin{Git: &step.Git{URL: "file:///h"}}
		_, err := r.rollout(in)
		if f := Failure(err); f == nil || f.Kind != step.InvalidSpec || f.Error() != want || len(r.calls) != 1 {
			t.Errorf("got %v after %q, want %s", f, r.calls, want)
		}
	}
}

// A deploy of a branch does not attach to the running rollout, which may have fetched an
// older commit. It attaches to one that has not begun, and one of a commit always attaches.
func TestDeployOfAMovingRef(t *testing.T) {
	s := newSite(t)
	asked := func(ref string) *answer {
		o := order("/a", "x")
		o.Spec.Origin.Git = &step.Git{URL: "file:///h", Ref: ref}
		return s.update(UpdateDeploy, o)
	}
	var answers []*answer
	s.after(0, func() { answers = append(answers, asked("main")) })
	s.after(time.Second, func() { answers = append(answers, asked("main"), asked("main"), asked(aCommit), asked(aCommit)) })
	s.after(time.Minute*3/2, func() { answers = append(answers, asked(aCommit)) })
	s.after(time.Second, func() { answers = append(answers, asked(aCommit)) })
	s.until(t, time.Hour, nil)
	for i, want := range []Accepted{{Tags: step.Tags{Generation: 1}}, {Tags: step.Tags{Generation: 2}}, {Tags: step.Tags{Generation: 2}, Attached: true},
		{Tags: step.Tags{Generation: 3}}, {Tags: step.Tags{Generation: 3}, Attached: true}, {Tags: step.Tags{Generation: 3}, Attached: true},
		{Tags: step.Tags{Generation: 3}, Attached: true}} {
		got, ok := answers[i].got.(Accepted)
		if !ok || got.Tags.Generation != want.Tags.Generation || got.Attached != want.Attached {
			t.Errorf("deploy %d: %+v, %v; want %+v", i, answers[i].got, answers[i].err, want)
		}
	}
}

// The status has the commit of the last deploy that succeeded, also if its image was the same.
// The history has that of a failed one, too.
func TestStatusHasTheCommit(t *testing.T) {
	w := &world{site: &site{recorded: newRecorded(t)}}
	w.env.SetStartWorkflowOptions(client.StartWorkflowOptions{ID: DeploymentID("hello", "dev"), TaskQueue: TaskQueue})
	w.env.RegisterWorkflowWithOptions(Rollout, workflow.RegisterOptions{Name: "Rollout"})
	now := aCommit
	w.fetches(func(o *step.Origin) { archived(o); o.Git.Commit = now })
	in := order("/a", "x")
	in.Spec.Origin.Git = &step.Git{URL: "file:///h", Ref: "main", Path: "a"}
	for i := range 2 {
		w.after(time.Duration(i)*time.Hour, func() { w.update(UpdateDeploy, in) })
		w.after(time.Hour, func() {
			d := w.status(t)
			if d.Commit != now || d.Generation != i+1 || d.Machine.Registration.Spec.Generation != 1 || d.Machine.Registration.Spec.Origin.Revision() != aCommit {
				t.Errorf("status after deploy %d: %+v", i, d)
			}
			now = "f" + aCommit[1:]
		})
	}
	w.after(0, func() {
		now = "e" + aCommit[1:]
		w.fail["Build"] = &step.Error{Kind: step.BuildFailed, Err: errors.New("no luck")}
		w.update(UpdateDeploy, in)
	})
	w.until(t, time.Hour, func(d DeploymentStatus) {
		var all []Generation
		if w.query(t, QueryHistory, &all); len(all) != 3 || all[0].Commit != aCommit || all[1].Commit != "f"+aCommit[1:] ||
			all[2].Commit != now || all[2].End != EndFailed {
			t.Errorf("history %+v", all)
		}
		for _, g := range all {
			if g.Git == nil || *g.Git != (step.Git{URL: "file:///h", Ref: "main", Path: "a"}) {
				t.Errorf("generation %d is from %+v", g.Generation, g.Git)
			}
		}
		if d.Commit != "f"+aCommit[1:] {
			t.Errorf("status after a failed deploy: %+v", d)
		}
	})
}
