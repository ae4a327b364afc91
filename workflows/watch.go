package workflows

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// Watch is what a Deployment knows of its current machine by watching it. A machine with
// restart "never" is not watched.
type Watch struct {
	// Booted is when a rollout or a restart booted the machine.
	Booted time.Time `json:"booted,omitzero"`
	// Ended is how the machine ended the last time, and Seen is when the watch told it.
	Ended *step.Health `json:"ended,omitempty"`
	Seen  time.Time    `json:"seen,omitzero"`
	// Due is when the machine will be restarted, zero while it runs or if it stays ended.
	Due time.Time `json:"due,omitzero"`
	// InRow counts the restarts, failed ones included, since the machine ran for
	// [steady].
	InRow int `json:"inRow,omitempty"`
	// Failure is the text of the last restart's error, empty if it went well.
	Failure string `json:"failure,omitempty"`
	// Unwatched says why the machine is not watched although its policy asks for it, and
	// Again is when the next watch is tried.
	Unwatched string    `json:"unwatched,omitempty"`
	Again     time.Time `json:"again,omitzero"`
}

// succeeded reports whether the machine has ended with success since its last boot.
func (w *Watch) succeeded() bool {
	return w.Ended != nil && w.Ended.Success && !w.Seen.Before(w.Booted)
}

// watch starts the watch of the current machine, unless it runs or is not needed.
func (d *deployment) watch() {
	switch {
	case d.Current == nil, d.watching != nil, !d.Watch.Due.IsZero(), d.until(d.Watch.Again) > 0, d.destroy != nil, len(d.queue) > 0,
		cmp.Or(d.Policy.Restart, step.RestartNever) == step.RestartNever,
		d.Policy.Restart == step.RestartOnFailure && d.Watch.succeeded():
		return
	}
	d.unwatch()
	if d.Repeat == nil {
		d.Watch.Unwatched = "its destroy failed"
		d.describe()
		return
	}
	s, m := d.Current.Route.Watch, d.Current.Machine
	if s.Activity == "" {
		d.notWatched("its route has no step watch")
		return
	}
	ctx, stop := workflow.WithCancel(d.ctx)
	o := watchOptions()
	o.TaskQueue, o.Summary = s.Queue(m.Registration.Spec.Host), "watch machine "+m.ID
	d.watching, d.stopWatch = workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, o), s.Activity, m), stop
	d.describe()
}

// unwatch ends the watch and what it led to, as before a rollout. The next watch begins
// with a look. A watch that runs on until its next heartbeat does no harm.
func (d *deployment) unwatch() {
	if d.watching != nil {
		d.stopWatch()
	}
	d.watching, d.stopWatch = nil, nil
	d.Watch.Due, d.Watch.Again, d.Watch.Unwatched = time.Time{}, time.Time{}, ""
}

// watched takes the result of the watch and decides whether the machine is restarted.
func (d *deployment) watched() {
	var h step.Health
	err := d.watching.Get(d.ctx, &h)
	d.unwatch()
	switch {
	case NotRegistered(err):
		d.notWatched("no worker of its kind has the activity " + d.Current.Route.Watch.Activity)
	case err != nil:
		d.notWatched(Failure(err).Error())
	case h.State != step.Ended && h.State != step.Gone:
		d.notWatched(fmt.Sprintf("the watch ended although the machine is %q", h.State))
	default:
		d.machineEnded(h)
	}
	d.describe()
}

// runs takes the machine of the current generation from a rollout. What the watch told of
// an earlier machine, or of an earlier boot of it, does not hold for one that was booted.
func (d *deployment) runs(m step.Machine) {
	if !m.Adopted || m.ID != d.Current.Machine.ID {
		d.Watch = Watch{Booted: workflow.Now(d.ctx)}
	}
	d.Current.Machine = m
}

func (d *deployment) notWatched(why string) {
	d.Watch.Unwatched, d.Watch.Again = why, workflow.Now(d.ctx).Add(watchAgain)
}

// until returns how long it is until t; negative if t is zero.
func (d *deployment) until(t time.Time) time.Duration {
	if t.IsZero() {
		return -1
	}
	return max(0, t.Sub(workflow.Now(d.ctx)))
}

// describeWatch adds rows to the table of describe.
func (d *deployment) describeWatch(b *strings.Builder) {
	if d.Current == nil || d.Policy.Restart == "" {
		return
	}
	w, at := d.Watch, func(t time.Time) string { return t.UTC().Format(time.DateTime) + " UTC" }
	fmt.Fprintf(b, "| restart | %s |\n| keep | %d |\n", d.Policy.Restart, d.Policy.Keep)
	switch {
	case w.Unwatched != "":
		fmt.Fprintf(b, "| state | not watched: %s |\n", cell(w.Unwatched))
	case !w.Due.IsZero():
		fmt.Fprintf(b, "| state | %s at %s; restart %d is due at %s |\n", cell(w.Ended.Text()), at(w.Seen), w.InRow+1, at(w.Due))
	case d.Current.Machine.Ended && w.Ended != nil:
		fmt.Fprintf(b, "| state | %s at %s |\n", cell(w.Ended.Text()), at(w.Seen))
	case d.watching != nil:
		fmt.Fprintf(b, "| state | running since %s; the pending activity %s has the last look |\n", at(w.Booted), cell(d.Current.Route.Watch.Activity))
	default:
		fmt.Fprintf(b, "| state | booted at %s |\n", at(w.Booted))
	}
	if n := d.record(d.Current.generation()).Restarts; n > 0 && w.Ended != nil {
		fmt.Fprintf(b, "| restarts | %d; it last ended at %s: %s |\n", n, at(w.Seen), cell(w.Ended.Text()))
	}
	if w.Failure != "" {
		fmt.Fprintf(b, "| last restart | failed: %s |\n", cell(w.Failure))
	}
}
