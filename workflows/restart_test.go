package workflows

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// A deploy of the same image after a restart may boot a machine with another id, as on EC2,
// or boot the same one anew, as qemu does. What the watch told before is then forgotten. It
// stays if the machine was running.
func TestUnchangedDeployAfterARestart(t *testing.T) {
	for name, test := range map[string]struct {
		machine step.Machine
		forgets bool
	}{
		"another machine":   {step.Machine{ID: "i-2"}, true},
		"the same, booted":  {step.Machine{ID: "again-1"}, true},
		"the same, running": {step.Machine{ID: "again-1", Adopted: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWatchedSite(t)
			w.outcome = func(in Request) Outcome {
				if in.Current != nil {
					test.machine.Registration = in.Current.Machine.Registration
					return Outcome{Unchanged: true, Machine: test.machine}
				}
				in.Spec.Host = "h1"
				return Outcome{Machine: step.Machine{ID: "i-1", Registration: step.Registration{Spec: in.Spec, Digest: digest("1")}}}
			}
			w.ends(time.Hour, gone)
			w.runs()
			w.runs()
			w.after(0, func() { w.deploy(step.RestartAlways) })
			w.after(2*time.Hour, func() { w.deploy(step.RestartAlways) })
			w.until(t, time.Hour, func(s DeploymentStatus) {
				if s.Machine.ID != test.machine.ID || s.Restarts != 1 || (s.Watch.Ended == nil) != test.forgets {
					t.Errorf("status %+v", s)
				}
			})
		})
	}
}

// A deploy that boots a machine whose restarts failed forgets their failure and their pause.
func TestDeployForgetsAFailedRestart(t *testing.T) {
	w := newWatchedSite(t)
	w.outcome = func(in Request) Outcome {
		if in.Current != nil {
			return Outcome{Unchanged: true, Machine: in.Current.Machine}
		}
		in.Spec.Host = "h1"
		return Outcome{Machine: step.Machine{ID: "first", Registration: step.Registration{Spec: in.Spec, Digest: digest("1")}}}
	}
	w.ends(time.Hour, gone)
	w.runs()
	w.runs()
	w.fail["Boot"] = &step.Error{Kind: step.BootFailed, Err: errors.New("no console")}
	w.after(0, func() { w.deploy(step.RestartAlways) })
	w.after(2*time.Hour, func() {
		if s := w.status(t); s.Watch.Failure == "" || s.Watch.InRow == 0 {
			t.Errorf("before the deploy: %+v", s.Watch)
		}
		w.deploy(step.RestartAlways)
	})
	w.until(t, time.Hour, func(s DeploymentStatus) {
		if s.Watch.Failure != "" || s.Watch.InRow != 0 || w.env.Now().Sub(s.Watch.Booted) != time.Hour {
			t.Errorf("a machine that a deploy booted an hour ago: %+v", s.Watch)
		}
	})
}

// A destroy that removed the machine but not its image does not lead to a restart. A deploy
// after it is watched again.
func TestNoRestartAfterADestroyThatFailed(t *testing.T) {
	w := newWatchedSite(t)
	register(w.recorded, "Stop", func(_ context.Context, in step.Removal) (out step.Destroyed, err error) {
		if !in.KeepImage {
			err = &step.Error{Kind: step.Unauthorized, Op: "remove the image", Err: errors.New("access denied")}
		}
		return out, err
	})
	deploy := func() {
		in := order("/a", "x")
		in.Policy.Restart, in.Route.Destroy.Activity = step.RestartAlways, "lab.Stop"
		w.update(UpdateDeploy, in)
	}
	w.ends(100*time.Hour, gone) // cancelled by the destroy
	w.ends(0, gone)             // the look after the second deploy
	w.runs()
	var destroy *answer
	w.after(0, deploy)
	w.after(time.Hour, func() { destroy = w.update(UpdateDestroy, DestroyRequest{}) })
	w.after(time.Hour, func() {
		if s := w.status(t); destroy.err == nil || s.Restarts != 0 || s.Watch.Unwatched != "its destroy failed" {
			t.Errorf("destroy %+v, status %+v", destroy, s)
		}
		deploy()
	})
	w.after(time.Hour, func() {
		if s := w.status(t); s.Restarts != 1 || s.Watch.Unwatched != "" {
			t.Errorf("after the next deploy: %+v", s)
		}
		w.update(UpdateDestroy, DestroyRequest{Forget: true})
	})
	if err := w.run(); err != nil {
		t.Error(err)
	}
}
