package workflows

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

func TestDetailsOfAWatch(t *testing.T) {
	at := func(minute int) time.Time { return time.Date(2026, 11, 26, 9, minute, 0, 0, time.UTC) }
	for name, test := range map[string]struct {
		policy   step.RestartPolicy
		watch    Watch
		ended    bool
		restarts int
		want     string
	}{
		"not restarted": {step.RestartNever, Watch{Booted: at(1)}, false, 0, `restart | never; keep | 2; state | booted at 2026-11-26 09:01:00 UTC`},
		"will be restarted": {step.RestartAlways, Watch{Booted: at(1), Ended: &crashed, Seen: at(2), Due: at(7), InRow: 9, Failure: "port|in use"}, false, 9,
			`restart | always; keep | 2; state | ended (crashed) at 2026-11-26 09:02:00 UTC; restart 10 is due at 2026-11-26 09:07:00 UTC; ` +
				`restarts | 9; it last ended at 2026-11-26 09:02:00 UTC: ended (crashed); last restart | failed: port\|in use`},
		"stays ended": {step.RestartOnFailure, Watch{Booted: at(1), Ended: &succeed, Seen: at(2)}, true, 0,
			`restart | on-failure; keep | 2; state | ended (exit status 0) at 2026-11-26 09:02:00 UTC`},
		"no watch": {step.RestartAlways, Watch{Booted: at(1), Unwatched: "no activity", Due: at(59)}, false, 0, `restart | always; keep | 2; state | not watched: no activity`},
	} {
		d := &deployment{DeploymentState: DeploymentState{Policy: step.Policy{Restart: test.policy, Keep: 2}, Watch: test.watch,
			Current: &Current{Machine: step.Machine{Ended: test.ended, Registration: step.Registration{Spec: step.Spec{Tags: step.Tags{Generation: 1}}}}},
			History: []Generation{{Generation: 1, Restarts: test.restarts}}}}
		var b strings.Builder
		d.describeWatch(&b)
		got := strings.NewReplacer("| |", "", " |\n| ", "; ").Replace(b.String())
		if got = strings.TrimSuffix(strings.TrimPrefix(got, "| "), " |\n"); got != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, test.want)
		}
	}
}

func TestStatusTellsTheStages(t *testing.T) {
	r := newRecorded(t)
	r.fail["Package"] = &step.Error{Kind: step.Unsupported, Err: errors.New("no such loader")}
	_, _ = r.rollout(r.request()) // fails, as told above
	var s RolloutStatus
	r.query(t, QueryStatus, &s)
	var got []string
	for _, st := range s.Stages {
		got = append(got, string(st.Stage)+" "+string(st.State))
	}
	want := []string{"check done", "configure done", "build done", "package failed", "register waiting", "boot waiting"}
	if !slices.Equal(got, want) || !s.Undoing {
		t.Errorf("got %q, want %q", got, want)
	}
}
