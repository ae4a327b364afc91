package workflows

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"go.temporal.io/sdk/temporal"

	"github.com/morgana-deploy/morgana/step"
)

// lasts makes the second probe last until its rollout is cancelled.
func (w *world) lasts() {
	w.env.OnActivity("lab.Probe", mock.Anything, mock.Anything).Return(step.Probed{Answer: "200 OK"}, nil).Once()
	w.env.OnActivity("lab.Probe", mock.Anything, mock.Anything).Return(step.Probed{}, temporal.NewCanceledError()).After(time.Hour)
}

// beginsAnew registers lab.Begin. Once *ended is set, the machine of generation 1 has ended,
// and a machine that it boots has the id "anew".
func (w *world) beginsAnew(ended *bool) {
	register(w.recorded, "Begin", func(_ context.Context, in step.Registration) (step.Machine, error) {
		m := step.Machine{Registration: in, ID: "m", Ended: *ended && in.Spec.Generation == 1 && w.machines[in.Spec.Tags] != ""}
		if !m.Ended {
			w.machines[in.Spec.Tags], w.images[in.Spec.Tags] = in.Spec.Host, in.Spec.Host
		}
		if *ended {
			m.ID = "anew"
		}
		return m, nil
	})
}

// The status knows the machine that was booted anew after a rollout was cancelled in its
// window.
func TestCancelledInTheWindow(t *testing.T) {
	w := newProbed(t)
	ended := false
	w.beginsAnew(&ended)
	w.lasts()
	w.after(0, func() { w.healthy("1", "lab.Begin") })
	w.after(time.Hour, func() {
		ended = true
		w.healthy("2", "lab.Begin")
	})
	var cancel *answer
	w.after(time.Minute, func() { cancel = w.update(UpdateCancel, nil) })
	w.until(t, 2*time.Hour, func(s DeploymentStatus) {
		w.expect(t, "cancelled", 1, 1)
		if s.Machine.ID != "anew" || s.Failure != "" {
			t.Errorf("status %+v", s)
		}
		if got, ok := cancel.got.(CancelResult); !ok || len(got.Cancelled) != 1 || len(got.Removed) != 1 {
			t.Errorf("cancel %+v", cancel)
		}
	})
}

// The steps after boot, as one that announces the address, run for the machine to which an
// unhealthy rollout goes back.
func TestGoingBackRunsInsertedSteps(t *testing.T) {
	w := newProbed(t)
	announced := 0
	register(w.recorded, "Announce", func(_ context.Context, in step.Machine) (step.Machine, error) {
		announced = in.Of().Generation
		in.Ready = "announced"
		return in, nil
	})
	deploy := func(image string) {
		w.digest = digest(image)
		o := w.order("h1", image)
		o.Policy.Health = &step.Probe{HTTP: "/"}
		o.Route.After = map[step.Stage][]step.Step{step.Boot: {{Activity: "lab.Announce", TaskQueue: "lab"}}}
		w.update(UpdateDeploy, o)
	}
	w.after(0, func() { deploy("1") })
	w.after(time.Hour, func() {
		w.fail["Probe"] = sick
		deploy("2")
	})
	w.until(t, time.Hour, func(s DeploymentStatus) {
		w.expect(t, "unhealthy", 1, 1)
		if announced != 1 || s.Machine.Ready != "announced" {
			t.Errorf("announced is generation %d; the machine that runs is %+v", announced, s.Machine)
		}
	})
}

// A destroy in the window does not boot the machine before.
func TestDestroyInTheWindow(t *testing.T) {
	for _, forget := range []bool{false, true} {
		w := newProbed(t)
		w.lasts()
		w.after(0, func() { w.healthy("1") })
		w.after(time.Hour, func() { w.healthy("2") })
		w.after(time.Minute, func() {
			w.calls = nil
			w.update(UpdateDestroy, DestroyRequest{Forget: forget})
		})
		err := w.run()
		boots := 0
		for _, c := range w.calls {
			if c == "Start lab@h1" {
				boots++
			}
		}
		if err != nil || boots > 0 || len(w.machines) > 0 {
			t.Errorf("forget %v: %v, %d boots, machines %v, calls %q", forget, err, boots, w.machines, w.calls)
		}
	}
}

// A destroy that forgets does not wait for the rollout in its window. The rollout does not
// boot the machine before after the deployment has ended.
func TestForgetInTheWindow(t *testing.T) {
	w := newProbed(t)
	tries := 0
	register(w.recorded, "Slow", func(_ context.Context, in step.Removal) (out step.Destroyed, err error) {
		if in.Spec.Generation == 2 && tries < 8 { // for minutes the host does not answer
			tries++
			return out, errors.New("no route to host")
		}
		for tags := range w.images {
			if in.Match(tags) {
				delete(w.machines, tags)
				delete(w.images, tags)
			}
		}
		return out, nil
	})
	w.lasts()
	deploy := func(image string) {
		w.digest = digest(image)
		o := w.order("h1", image)
		o.Policy.Health = &step.Probe{HTTP: "/"}
		o.Route.Destroy.Activity = "lab.Slow"
		w.update(UpdateDeploy, o)
	}
	w.after(0, func() { deploy("1") })
	w.after(time.Hour, func() { deploy("2") })
	w.after(time.Minute, func() { w.update(UpdateDestroy, DestroyRequest{Forget: true}) })
	if err := w.run(); err != nil || len(w.machines) > 0 {
		t.Errorf("%v, machines %v, calls %q", err, w.machines, w.calls)
	}
}

// A destroy interrupts the boot of the machine before.
func TestDestroyInterruptsGoingBack(t *testing.T) {
	w := newProbed(t)
	begin := func(_ context.Context, in step.Registration) (step.Machine, error) {
		return step.Machine{Registration: in, ID: "m"}, nil
	}
	register(w.recorded, "Begin", begin)
	w.env.OnActivity("lab.Begin", mock.Anything, mock.Anything).Return(begin).Twice()
	w.env.OnActivity("lab.Begin", mock.Anything, mock.Anything).Return(step.Machine{}, temporal.NewCanceledError()).After(time.Hour)
	w.after(0, func() { w.healthy("1", "lab.Begin") })
	w.after(time.Hour, func() {
		w.fail["Probe"] = sick
		w.healthy("2", "lab.Begin")
	})
	var asked time.Time
	w.after(10*time.Minute, func() {
		asked = w.env.Now()
		w.update(UpdateDestroy, DestroyRequest{})
	})
	if err := w.run(); err != nil || w.env.Now().Sub(asked) > 2*time.Minute {
		t.Errorf("%v, %s after the destroy", err, w.env.Now().Sub(asked))
	}
}

// The status completes the error of an unhealthy rollout by what runs after it.
func TestUnhealthySaysWhatRuns(t *testing.T) {
	for name, test := range map[string]struct {
		fails      error
		ended      bool
		hint, left string
	}{
		"it runs":          {hint: "rolled back: generation 1 runs at 127.0.0.1:8080"},
		"its host is away": {fails: away, left: "generation 1 does not run: access denied"},
		"it ends anew":     {ended: true, left: "generation 1 does not run: it ended: as told"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newProbed(t)
			boots := 0
			register(w.recorded, "Begin", func(_ context.Context, in step.Registration) (step.Machine, error) {
				m := step.Machine{Registration: in, ID: "m", Ready: "as told", Addresses: []step.Address{{Kind: "tcp", Address: "127.0.0.1", Port: 8080}}}
				if boots++; boots > 2 {
					m.Ended = test.ended
					return m, test.fails
				}
				return m, nil
			})
			w.after(0, func() { w.healthy("1", "lab.Begin") })
			w.after(time.Hour, func() {
				w.fail["Probe"] = sick
				w.healthy("2", "lab.Begin")
			})
			w.until(t, time.Hour, func(DeploymentStatus) {
				f, s := *sick, w.status(t)
				if s.Back(&f); f.Hint != test.hint || strings.Join(f.Left, "; ") != test.left {
					t.Errorf("hint %q, left %q", f.Hint, f.Left)
				}
			})
		})
	}
}

// An unhealthy first generation leaves nothing.
func TestUnhealthyFirstGeneration(t *testing.T) {
	w := newProbed(t)
	w.fail["Probe"] = sick
	w.after(0, func() { w.healthy("1") })
	if f := Failure(w.run()); f == nil || f.Hint != "it was the first generation, so nothing runs" || len(w.machines) > 0 {
		t.Errorf("failure %+v, machines %v", f, w.machines)
	}
}
