package workflows

import (
	"cmp"
	"fmt"
	"slices"

	"go.temporal.io/sdk/workflow"

	"github.com/morgana-deploy/morgana/step"
)

// undo is what to do if a rollout fails, last added first. An entry is added
// before the act it undoes, for the act may happen and its answer be lost; so
// what it calls finds things by tag and is content with finding nothing.
type undo struct {
	entries []*undoEntry
}

type undoEntry struct {
	name string
	step step.Step
	in   any // a Spec for Clean, a Removal for Destroy
	tags step.Tags
	// host may become known only after the act.
	host string
	// never says that the act did not even begin.
	never bool
}

func (u *undo) clean(s step.Step, spec step.Spec) *undoEntry {
	return u.add(&undoEntry{name: "remove the build tree", step: s, in: spec, tags: spec.Tags})
}

func (u *undo) destroy(name string, s step.Step, what step.Removal) *undoEntry {
	return u.add(&undoEntry{name: name, step: s, in: what, tags: what.Spec.Tags, host: what.Spec.Host})
}

func (u *undo) add(e *undoEntry) *undoEntry {
	u.entries = append(u.entries, e)
	return e
}

// only gives the entries that call s.
func (u *undo) only(s step.Step) *undo {
	return &undo{slices.DeleteFunc(slices.Clone(u.entries), func(e *undoEntry) bool { return e.step != s })}
}

// forget drops the entries that call s.
func (u *undo) forget(s step.Step) {
	u.entries = slices.DeleteFunc(u.entries, func(e *undoEntry) bool { return e.step == s })
}

// runAll undoes everything and names what it could not.
func (u *undo) runAll(ctx workflow.Context, o workflow.ActivityOptions) (left []string) {
	for _, e := range slices.Backward(u.entries) {
		if e.never {
			continue
		}
		var removed step.Destroyed
		err := execute(ctx, e.step, e.host, o, summary(e.tags, e.name), e.in, &removed)
		if err != nil {
			workflow.GetLogger(ctx).Error("undo", "what", e.name, "error", err)
			left = append(left, e.left(err))
		}
	}
	return left
}

func (u *undo) names() (names []string) {
	for _, e := range u.entries {
		names = append(names, fmt.Sprintf("kept, until morgana destroy: to undo: %s (%s/%s life %s generation %d, host %s)",
			e.name, e.tags.App, e.tags.Target, e.tags.Life, e.tags.Generation, cmp.Or(e.host, "unknown")))
	}
	return names
}

func (e *undoEntry) left(err error) string {
	return "could not " + e.name + ": " + Failure(err).Error()
}
