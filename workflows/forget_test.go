package workflows

import (
	"errors"
	"slices"
	"testing"
	"time"
)

// A destroy that forgets ends soon, and names the resources that are left.
func TestForgetEndsSoon(t *testing.T) {
	const left, goesOn = "could not destroy the machine: connection refused", "rollout/hello/dev/1 goes on to remove its resources"
	for name, c := range map[string]struct {
		after  time.Duration // from the deploy to the first destroy
		forget bool          // the first destroy says it
		want   []string
	}{
		"at once":                {time.Hour, true, []string{left}},
		"while it is retried":    {time.Hour, false, []string{left}},
		"while a rollout undoes": {time.Second, false, []string{goesOn, left}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.undoes = time.Hour
			s.fail["Destroy"] = errors.New("connection refused")
			var first, second *answer
			late := false
			s.after(0, func() { s.update(UpdateDeploy, order("/a", "x")) })
			s.after(c.after, func() { first = s.update(UpdateDestroy, DestroyRequest{Forget: c.forget}) })
			if !c.forget {
				s.after(10*time.Second, func() { second = s.update(UpdateDestroy, DestroyRequest{Forget: true}) })
			}
			s.after(time.Minute, func() { late = !first.done })
			if err := s.run(); err != nil || late {
				t.Errorf("late: %t, %v", late, err)
			}
			for _, a := range []*answer{first, second} {
				if a == nil {
					continue
				}
				if got, ok := a.got.(DestroyResult); !ok || a.err != nil || !slices.Equal(got.Left, c.want) {
					t.Errorf("answer %+v", a)
				}
			}
		})
	}
}
