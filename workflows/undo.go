package workflows

import (
	"fmt"
	"slices"

	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// Undo is an act that removes the resources that a step may have made in one place. It is
// added before the step runs, since the step's result may be lost. It finds resources by
// their tags, and finding none is no error.
type Undo struct {
	// Name describes the act: "remove the build tree".
	Name string    `json:"name"`
	Step step.Step `json:"step"`
	// Host is the host of Step's queue. For a tree it is known after configure only.
	Host string `json:"host,omitempty"`
	// One of them is set: Machine, the input of a target's Destroy, or Tree, the
	// input of a toolchain's Clean.
	Machine *step.Removal `json:"machine,omitempty"`
	Tree    *step.Spec    `json:"tree,omitempty"`
	// Kept says that a failed rollout kept the resource for debugging.
	Kept bool `json:"kept,omitempty"`
	// Guess says that there may be nothing to remove. A failure is then ignored.
	Guess bool `json:"guess,omitempty"`
	// Failure is the text of its last error, empty if it was not tried.
	Failure string `json:"failure,omitempty"`

	// never says that there is nothing to remove: the stage did not run, or made no
	// tree.
	never bool
}

func undoTree(route step.Route, spec step.Spec) *Undo {
	return &Undo{Name: "remove the build tree", Step: route.Clean, Tree: &spec}
}

func undoMachine(name string, route step.Route, what step.Removal) *Undo {
	return &Undo{Name: name, Step: route.Destroy, Host: what.Spec.Host, Machine: &what}
}

func (u *Undo) run(ctx workflow.Context, o workflow.ActivityOptions) (removed step.Destroyed, err error) {
	var in any = u.Tree
	if u.Machine != nil {
		in = u.Machine
	}
	u.Failure = ""
	err = execute(ctx, u.Step, u.Host, o, u.Name, in, &removed)
	if err != nil {
		workflow.GetLogger(ctx).Error("undo", "name", u.Name, "error", err)
		u.Failure = Failure(err).Error()
	}
	return removed, err
}

// keepsImage reports whether the act removes a machine only, and not its image.
func (u *Undo) keepsImage() bool { return u.Machine != nil && u.Machine.KeepImage }

// spec returns the Spec of the resource.
func (u *Undo) spec() *step.Spec {
	if u.Machine != nil {
		return &u.Machine.Spec
	}
	return u.Tree
}

// left describes a resource that was not removed, and why.
func (u *Undo) left() string {
	if u.Failure != "" {
		return "could not " + u.Name + ": " + u.Failure
	}
	why := "its rollout was terminated"
	if u.Kept {
		why = "kept"
	}
	t, host := u.spec().Tags, ""
	if u.Host != "" {
		host = ", host " + u.Host
	}
	return fmt.Sprintf("%s: morgana destroy will %s (%s/%s life %s generation %d%s)",
		why, u.Name, t.App, t.Target, t.Life, t.Generation, host)
}

// everything returns the act that removes all resources of the app and target in the
// same place, of every life and generation.
func (u Undo) everything() *Undo {
	open := *u.spec()
	open.Life, open.Generation = "", 0
	if u.Machine != nil {
		u.Machine = &step.Removal{Spec: open}
	} else {
		u.Tree = &open
	}
	return &u
}

// samePlace reports whether two acts have the same step and host, or without a host the same
// options. If they have the same tags, they then remove the same resources.
func (u *Undo) samePlace(other *Undo) bool {
	return u.Step == other.Step && u.Host == other.Host && (u.Tree == nil) == (other.Tree == nil) &&
		(u.Host != "" || string(u.spec().Options) == string(other.spec().Options))
}

// undoList is a list of acts. Those of a failed rollout run in reverse order.
type undoList []*Undo

func (l *undoList) add(u *Undo) *Undo {
	*l = append(*l, u)
	return u
}

// take removes the acts that call s from the list and returns them.
func (l *undoList) take(s step.Step) (taken undoList) {
	*l = slices.DeleteFunc(*l, func(u *Undo) bool {
		if u.Step == s {
			taken = append(taken, u)
		}
		return u.Step == s
	})
	return taken
}

// runAll runs all acts in reverse order. It returns what they removed, and the acts that
// failed.
func (l undoList) runAll(ctx workflow.Context, o workflow.ActivityOptions) (all step.Destroyed, remains undoList) {
	for _, u := range slices.Backward(l) {
		if u.never {
			continue
		}
		removed, err := u.run(ctx, o)
		if err != nil {
			remains = append(remains, u)
		}
		all.Removed = append(all.Removed, removed.Removed...)
	}
	return all, remains
}

// runTogether runs all acts at the same time and returns those that failed, without
// guesses.
func (l undoList) runTogether(ctx workflow.Context, o workflow.ActivityOptions) undoList {
	together(ctx, l, func(ctx workflow.Context, u *Undo) { _, _ = u.run(ctx, o) }) // u.Failure says how it went
	return slices.DeleteFunc(l, func(u *Undo) bool { return u.Failure == "" || u.Guess })
}

func (l undoList) left() (texts []string) {
	for _, u := range l {
		texts = append(texts, u.left())
	}
	return texts
}

// together calls do for all items at the same time and waits until all calls have
// returned.
func together[T any](ctx workflow.Context, items []T, do func(ctx workflow.Context, item T)) {
	all := workflow.NewWaitGroup(ctx)
	for _, item := range items {
		all.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer all.Done()
			do(ctx, item)
		})
	}
	all.Wait(ctx)
}
