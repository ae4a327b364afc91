package workflows

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"go.temporal.io/sdk/temporal"

	"github.com/morgana-deploy/morgana/step"
)

func TestObserve(t *testing.T) {
	absent := temporal.NewApplicationError("no such activity", "ActivityNotRegisteredError")
	away := &step.Error{Kind: step.NotFound, Err: errors.New("no such host")}
	for name, test := range map[string]struct {
		fail map[string]error
		want string
	}{
		"at once":                            {nil, `[{"health":{"state":"gone"}},{"failure":"late"}]`},
		"a kind without ObserveAll":          {map[string]error{"ObserveAll": absent}, `[{"health":{"state":"running","how":"m1"}},{"health":{"state":"running","how":"m2"}}]`},
		"a kind without any":                 {map[string]error{"ObserveAll": absent, "Observe": absent}, `[{},{}]`},
		"a kind without, on a host far away": {map[string]error{"ObserveAll": absent, "Observe": away}, `[{"failure":"no such host"},{"failure":"no such host"}]`},
	} {
		r := newRecorded(t)
		r.fail = test.fail
		register(r, "Observe", func(_ context.Context, m step.Machine) (step.Health, error) {
			return step.Health{State: step.Running, How: m.ID}, nil
		})
		register(r, "ObserveAll", func(_ context.Context, all []step.Machine) ([]Observed, error) {
			return []Observed{{Health: &step.Health{State: step.Gone}}, {Failure: "late"}}[:len(all)], nil
		})
		r.env.ExecuteWorkflow(Observe, ObserveRequest{Step: step.NewRoute("lab", "lab").Observe, Machines: []step.Machine{{ID: "m1"}, {ID: "m2"}}})
		var out []Observed
		if err := errors.Join(r.env.GetWorkflowError(), r.env.GetWorkflowResult(&out)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, _ := json.Marshal(out); string(got) != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}
