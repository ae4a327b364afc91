package workflows

import (
	"errors"
	"fmt"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

// Sweep runs every act, and its results are in the order of the acts, with failures.
func TestSweep(t *testing.T) {
	r := newRecorded(t)
	r.failAt["lab@away"] = &step.Error{Kind: step.Unauthorized, Err: errors.New("access denied")}
	var acts []*Undo
	for i := range 3 * sweepers {
		spec := step.Spec{Tags: step.Tags{App: "hello", Target: "dev", Life: "aa", Generation: i + 1}, Kind: "lab", Host: "h1"}
		if i == 5 {
			spec.Host = "away"
		}
		acts = append(acts, undoMachine(fmt.Sprint(i), step.NewRoute("lab", "lab"), step.Removal{Spec: spec}))
	}
	r.env.ExecuteWorkflow(Sweep, acts)
	var results []Swept
	if err := r.env.GetWorkflowResult(&results); err != nil || len(results) != len(acts) {
		t.Fatalf("%d results, %v", len(results), err)
	}
	for i, got := range results {
		want := fmt.Sprintf("machine-%d of h1", i+1)
		switch {
		case i == 5 && (got.Failure != "access denied" || len(got.Removed) > 0):
			t.Errorf("act 5: %+v", got)
		case i != 5 && (got.Failure != "" || len(got.Removed) != 1 || got.Removed[0] != want):
			t.Errorf("act %d: %+v, want %s", i, got, want)
		}
	}
}
