package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/morgana-deploy/morgana/step"
)

// Build runs the build commands in the configured tree and puts the kernel, its
// files and the log into the store.
//
// The same source is built once on a host with the same options and environment: other
// calls wait for the first and take its kernel. Its record serves later deploys for 30
// days, as long as the store has the kernel. A rebuild takes no earlier kernel, and its own
// serves later deploys.
//
// Errors: TreeGone if the tree is gone, or if tools or environment have changed since
// Configure; BuildFailed if a command fails, or if the kernel is missing, not new or not a
// kernel; NoSpace.
func (t *Toolchain) Build(ctx context.Context, src step.Source) (step.Kernel, error) {
	none := step.Kernel{Spec: src.Spec}
	w, err := t.read(src.Spec)
	if err != nil {
		return none, err
	}
	switch err := t.look(ctx, w); {
	case step.KindOf(err) == step.Unsupported:
		return none, w.treeGone(src, errChanged) // configure says what is missing
	case err != nil:
		return none, err
	}
	key, err := t.lockKey(ctx, w)
	if err != nil {
		return none, err
	}
	defer key.release()
	if k, hit, err := t.cached(ctx, w); err != nil || hit {
		return k, err
	}
	// The folder follows from the tags. src.Tree is only compared with it, so that no value
	// makes a worker run commands elsewhere.
	if src.Tree != w.rollout.tree() {
		return none, w.treeGone(src, fs.ErrNotExist)
	}
	if _, err := os.Stat(w.rollout.file(treeFile)); err != nil {
		return none, w.treeGone(src, err)
	}
	l, err := w.rollout.lock(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return none, w.treeGone(src, err)
	}
	if err != nil {
		return none, failed("use build tree", w.rollout.dir, err)
	}
	defer l.release()
	b, err := readBaseline(w.rollout.file(treeFile))
	if err != nil {
		return none, w.treeGone(src, err)
	}
	if b.Key != w.key {
		return none, w.treeGone(src, errChanged)
	}
	log, err := t.runStage(ctx, w, step.Build, w.Build)
	if errors.Is(err, errGone) {
		return none, w.treeGone(src, err)
	}
	if err != nil {
		return none, err
	}
	k, err := t.kernel(ctx, w, b)
	if err != nil {
		return none, withLog(err, log)
	}
	k.Log = log
	if !t.unchanged(ctx, w) {
		return k, nil // the host changed during the build: the key does not describe it
	}
	if err := t.remember(w, k); err != nil {
		return none, failed("remember the build", t.folder, err)
	}
	return k, nil
}

var (
	errGone    = errors.New("is not there")
	errChanged = errors.New("was configured with other tools or another environment than this worker has now")
)

// treeGone returns the error (TreeGone) that makes Configure run again.
func (w *work) treeGone(src step.Source, err error) error {
	tree := src.Tree
	if tree == "" {
		tree = w.rollout.tree()
	}
	if err = Cause(err); errors.Is(err, fs.ErrNotExist) {
		err = errGone
	}
	return &step.Error{Kind: step.TreeGone, Op: "find the configured tree", Err: fmt.Errorf("%s %w", tree, err),
		Hint: "configure has to run again"}
}

// withLog adds the log to a BuildFailed, and its URI to the hint.
func withLog(err error, log *step.Artifact) error {
	var e *step.Error
	if log != nil && errors.As(err, &e) && e.Kind == step.BuildFailed {
		e.Hint, e.Log = e.Hint+"\nwhole log: "+log.URI, log
	}
	return err
}
