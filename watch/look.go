package watch

import (
	"context"
	"fmt"
	"time"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// All returns the activity "<kind>.ObserveAll", which observes many machines at the same
// time. A thousand activities of one look each would take the server seconds.
func All(observe func(context.Context, step.Machine) (step.Health, error)) func(context.Context, []step.Machine) ([]workflows.Observed, error) {
	return func(ctx context.Context, all []step.Machine) ([]workflows.Observed, error) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(ctx, workflows.LookTime)
		defer cancel()
		type answer struct {
			i  int
			is workflows.Observed
		}
		answers := make(chan answer, len(all))
		for i, m := range all {
			go func() {
				h, err := step.Health{}, m.Valid() // names in it become paths
				if err == nil {
					h, err = observe(ctx, m)
				}
				if err != nil {
					answers <- answer{i, workflows.Observed{Failure: err.Error()}}
					return
				}
				answers <- answer{i, workflows.Observed{Health: &h}}
			}()
		}
		out := make([]workflows.Observed, len(all))
		for i := range out {
			out[i].Failure = fmt.Sprintf("no answer within %s", workflows.LookTime)
		}
		for range all {
			select {
			case a := <-answers:
				if a.is.Health != nil || time.Since(began) < workflows.LookTime { // else its error says that it was cancelled
					out[a.i] = a.is
				}
			case <-ctx.Done():
				return out, nil
			}
		}
		return out, nil
	}
}
