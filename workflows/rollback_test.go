package workflows

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

func (w *world) rollback(to int) *answer { return w.update(UpdateRollback, RollbackRequest{To: to}) }

// refused asks for a rollback, which is to be refused before it is written to history.
func (w *world) refused(t *testing.T, to int, kind step.Kind, text, hint string) {
	a := w.rollback(to)
	t.Cleanup(func() {
		f := Failure(a.err)
		if a.accepted || f == nil || f.Kind != kind || f.Error() != text || !strings.Contains(f.Hint, hint) {
			t.Errorf("got %+v of %+v\nwant %s %s\nhint: %s", f, a, kind, text, hint)
		}
	})
}

// A rollback registers and boots the image of an earlier generation, and does no more. A
// deploy of the version that was rolled back rolls it out again.
func TestRollback(t *testing.T) {
	w := newWorld(t)
	w.after(0, func() { w.keeping(2, "h1", "1") })
	w.after(time.Hour, func() { w.keeping(2, "h2", "2") })
	w.after(time.Hour, func() {
		w.calls = nil
		w.rollback(0)
	})
	w.after(time.Hour, func() {
		w.expect(t, "after the rollback", 3, 2, 3)
		want := []string{"Register lab@h1", "Start lab@h1", "Remove lab@h1 generation 1", "Remove lab@h2 generation 2"}
		if slices.Sort(w.calls[2:]); !slices.Equal(w.calls, want) {
			t.Errorf("calls %q, want %q", w.calls, want)
		}
		if d := w.status(t); d.RolledBackTo != 1 || d.Machine.Registration.Digest != digest("1") {
			t.Errorf("status %+v", d)
		}
		if got, want := w.told(t), "1 replaced by 2, 2 rolled back by 3 *, 3 current *"; got != want {
			t.Errorf("history %s, want %s", got, want)
		}
		w.refused(t, 0, step.NotFound, "hello/dev has no earlier generation with another image that was not rolled back", "--to 2")
		w.refused(t, 1, step.Conflict, "generation 3 of hello/dev, which runs, is a rollback to generation 1", "--to 2")
	})
	w.after(time.Hour, func() { w.keeping(2, "h2", "2") })
	w.after(time.Hour, func() {
		w.expect(t, "after the deploy", 4, 3, 4)
		if d := w.status(t); d.RolledBackTo != 0 || d.Machine.Registration.Digest != digest("2") {
			t.Errorf("status %+v", d)
		}
		w.rollback(0)
	})
	w.after(time.Hour, func() {
		w.expect(t, "after the second rollback", 5, 4, 5)
		w.rollback(4) // forward again
	})
	w.until(t, time.Hour, func(DeploymentStatus) {
		w.expect(t, "forward again", 6, 5, 6)
		if got := w.told(t); !strings.HasSuffix(got, "4 rolled back by 5, 5 replaced by 6 *, 6 current *") {
			t.Errorf("history %s", got)
		}
	})
}

// A rollback that fails leaves the machine that runs, and the image that it should boot.
func TestRollbackFails(t *testing.T) {
	w := newWorld(t)
	w.after(0, func() { w.keeping(2, "h1", "1") })
	w.after(time.Hour, func() { w.keeping(2, "h1", "2") })
	w.after(time.Hour, func() {
		w.fail["Start"] = &step.Error{Kind: step.BootFailed, Err: errors.New("silent")}
		w.rollback(1)
	})
	w.after(time.Hour, func() {
		w.expect(t, "after a rollback that failed", 2, 1, 2)
		delete(w.fail, "Start")
		w.rollback(0)
	})
	w.until(t, time.Hour, func(DeploymentStatus) { w.expect(t, "after the next one", 4, 2, 4) })
}

// A rollback that is impossible is refused with the generations that are possible.
func TestRollbackRefuses(t *testing.T) {
	w := newWorld(t)
	var first, again *answer
	w.after(0, func() { w.keeping(2, "h1", "1") })
	w.after(time.Hour, func() {
		w.refused(t, 0, step.NotFound, "hello/dev has no earlier generation to go back to", "keep in morgana.yaml")
	})
	w.after(time.Hour, func() { w.keeping(2, "h1", "1") })
	w.after(time.Hour, func() {
		w.fail["Start"] = &step.Error{Kind: step.BootFailed, Err: errors.New("silent")}
		w.keeping(2, "h1", "2")
	})
	w.after(time.Hour, func() {
		delete(w.fail, "Start")
		w.keeping(2, "h1", "3")
	})
	w.after(time.Hour, func() { w.keeping(2, "h1", "4") })
	w.after(time.Hour, func() {
		w.refused(t, 9, step.NotFound, "hello/dev has no generation 9", "morgana history hello/dev")
		w.refused(t, -1, step.NotFound, "hello/dev has no generation -1", "morgana history hello/dev")
		w.refused(t, 5, step.Conflict, "generation 5 of hello/dev runs already", "--to 4")
		w.refused(t, 1, step.NotFound, "the image of generation 1 of hello/dev was removed", "--to 4")
		w.refused(t, 2, step.NotFound, "generation 2 of hello/dev has the image of generation 1", "--to 4")
		w.refused(t, 3, step.NotFound, "generation 3 of hello/dev never became the current one", "--to 4")
	})
	w.after(time.Hour, func() {
		w.keeping(2, "h1", "5")
		w.keeping(2, "h1", "6") // it waits, and will be unchanged
		w.refused(t, 0, step.Conflict, "generation 6 of hello/dev is being rolled out", "morgana cancel hello/dev")
	})
	w.after(time.Hour, func() {
		first, again = w.rollback(5), w.rollback(5)
		w.refused(t, 4, step.Conflict, "generation 8 of hello/dev is being rolled out", "morgana cancel hello/dev")
		w.update(UpdateDestroy, DestroyRequest{})
		w.refused(t, 5, step.Conflict, "hello/dev is being destroyed", "then roll back again")
	})
	if err := w.run(); err != nil {
		t.Fatal(err)
	}
	if a, b := first.got.(Accepted), again.got.(Accepted); a.Attached || a.Of != 5 || !b.Attached || b.Tags != a.Tags {
		t.Errorf("the same rollback twice: %+v, %+v", a, b)
	}
}

// A later redeploy begins with what the user asked for, not with an old commit.
func TestAskedAgain(t *testing.T) {
	done := step.Spec{Host: "h1", Alone: true, Origin: step.Origin{Archive: &step.Artifact{}, Git: &step.Git{URL: "u", Ref: "main", Commit: "c0ffee"}}}
	asked := (&Request{Spec: done}).repeat().Spec
	got := fmt.Sprintf("%+v %+v", asked, *asked.Origin.Git)
	want := step.Spec{Origin: step.Origin{Git: &step.Git{URL: "u", Ref: "main"}}}
	if asked.Host != "" || asked.Alone || asked.Origin.Archive != nil || *asked.Origin.Git != *want.Origin.Git {
		t.Error(got)
	}
	if done.Origin.Git.Commit == "" {
		t.Error("repeat has changed its request")
	}
}
