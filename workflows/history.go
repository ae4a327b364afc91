package workflows

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// maxHistory bounds a Deployment's list of generations, which is a part of its state, and
// that of the images that were rolled back.
const maxHistory = 50

// Why is the reason for a generation.
type Why string

// The reasons for a generation.
const (
	ByDeploy   Why = "deploy"
	ByRollback Why = "rollback"
	BySchedule Why = "schedule"
)

// End is how a generation stands, or how it ended.
type End string

// The ends of a generation.
const (
	EndQueued  End = "queued"
	EndRolling End = "rolling out"
	// EndCurrent: its machine is the current one.
	EndCurrent   End = "current"
	EndReplaced  End = "replaced"
	EndUnchanged End = "unchanged"
	EndFailed    End = "failed"
	EndCancelled End = "cancelled"
	// EndRolledBack: it was not healthy, or a rollback replaced it.
	EndRolledBack End = "rolled back"
	EndDestroyed  End = "destroyed"
)

// Generation is a generation in a Deployment's history.
type Generation struct {
	Generation int       `json:"generation"`
	Asked      time.Time `json:"asked"`
	Ended      time.Time `json:"ended,omitzero"`
	Why        Why       `json:"why"`
	// Of is the generation whose image a rollback boots.
	Of int `json:"of,omitempty"`
	// Project, Folder and Host are those of its origin.
	Project string `json:"project,omitempty"`
	Folder  string `json:"folder,omitempty"`
	Host    string `json:"host,omitempty"`
	// Git is the repository of its source, nil if that is a folder.
	Git *step.Git `json:"git,omitempty"`
	// Commit is the [step.Origin.Revision] of its source; of one in git, after its fetch.
	Commit string `json:"commit,omitempty"`
	// Digest is the image's digest, Image the target's name for the image.
	Digest string `json:"digest,omitempty"`
	Image  string `json:"image,omitempty"`
	// Restarts is how often its machine was booted again.
	Restarts int `json:"restarts,omitempty"`
	End      End `json:"end"`
	// By is the generation that replaced it, or that it left running.
	By int `json:"by,omitempty"`
	// Failure is the text of its rollout's error.
	Failure string `json:"failure,omitempty"`
	// Logs are the logs of configure and build, under the names of the stages.
	Logs []step.File `json:"logs,omitempty"`
	// Kept says that its image is still registered.
	Kept bool `json:"kept,omitempty"`
}

// begin adds a request to the history. If the history is full it drops the oldest
// generation that was unchanged or failed by a schedule, or else the oldest that neither
// runs nor is kept.
func (d *deployment) begin(next Request) {
	o := next.Spec.Origin
	d.History = append(d.History, Generation{Generation: next.Spec.Generation, Asked: workflow.Now(d.ctx), Why: next.Why, Of: next.Of,
		Project: o.Project, Folder: o.Folder, Host: o.Host, Git: next.repeat().Spec.Origin.Git, Commit: o.Revision(), End: EndQueued})
	if len(d.History) <= maxHistory {
		return
	}
	at := slices.IndexFunc(d.History, func(g Generation) bool { return g.End == EndUnchanged || g.Why == BySchedule && g.End == EndFailed })
	if at < 0 {
		at = slices.IndexFunc(d.History, func(g Generation) bool { return !d.images(g.Generation) && !g.Ended.IsZero() })
	}
	if at >= 0 {
		d.History = slices.Delete(d.History, at, at+1)
	}
}

// record returns the history's entry of a generation. If it was dropped, record returns
// an entry that is not in the history.
func (d *deployment) record(generation int) *Generation {
	for i := range d.History {
		if d.History[i].Generation == generation {
			return &d.History[i]
		}
	}
	return &Generation{Generation: generation}
}

// ended records how a generation ended.
func (d *deployment) ended(generation int, end End, by int) *Generation {
	g := d.record(generation)
	g.End, g.By, g.Ended = end, by, workflow.Now(d.ctx)
	return g
}

// failed records the error of a rollout.
func (d *deployment) failed(t step.Tags, err error) {
	by := 0
	if d.Current != nil {
		by = d.Current.generation()
	}
	f, end := Failure(err), EndFailed
	switch {
	case cancelled(err):
		end = EndCancelled
	case by != 0 && f.Kind == step.Unhealthy:
		end = EndRolledBack
		d.avoid(details(err).Digest)
	}
	g := d.ended(t.Generation, end, by)
	g.Logs, g.Digest, g.Commit = details(err).Logs, details(err).Digest, cmp.Or(details(err).Commit, g.Commit)
	if end != EndCancelled {
		g.Failure = fmt.Sprintf("%.1000s", f)
	}
}

// cancelled reports whether err is that of a rollout that was cancelled. It may have left
// resources.
func cancelled(err error) bool { return temporal.IsCanceledError(err) || details(err).Cancelled }

// avoid keeps schedules from rolling out an image that was rolled back.
func (d *deployment) avoid(digest string) {
	if digest != "" {
		d.allow(digest)
		d.RolledBack = append(d.RolledBack, digest)
		d.RolledBack = d.RolledBack[max(0, len(d.RolledBack)-maxHistory):]
	}
}

// allow ends that, since the image is current.
func (d *deployment) allow(digest string) {
	d.RolledBack = slices.DeleteFunc(d.RolledBack, func(r string) bool { return r == digest })
}

// lastRollout returns the newest generation that does not wait for its rollout or its end.
func (d *deployment) lastRollout() Generation {
	for _, g := range slices.Backward(d.History) {
		if g.End != EndQueued && g.End != EndRolling {
			return g
		}
	}
	return Generation{}
}

// images reports whether the image of a generation is registered.
func (d *deployment) images(generation int) bool {
	return d.Current != nil && d.Current.generation() == generation ||
		slices.ContainsFunc(d.Kept, func(k *Current) bool { return k.generation() == generation })
}

// history answers the query [QueryHistory], the oldest generation first.
func (d *deployment) history() ([]Generation, error) {
	all := slices.Clone(d.History)
	for i := range all {
		all[i].Kept = d.images(all[i].Generation)
	}
	return all, nil
}

func (c *Current) generation() int { return c.Machine.Registration.Spec.Generation }

// removal returns the act that removes the image of a generation that does not run.
func (c *Current) removal() *Undo {
	return undoMachine(fmt.Sprintf("remove the image of generation %d", c.generation()), c.Route, step.Removal{Spec: c.Machine.Registration.Spec})
}
