package tree

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/morgana-deploy/morgana/source"
	"github.com/morgana-deploy/morgana/step"
)

// Configure unpacks the source and runs the configure commands in it. If this host has
// already built the same kernel there is nothing to configure: the Source has a Host and
// no Tree, and Build takes the kernel from its cache.
//
// Errors: InvalidSpec for options, Unsupported for a program that is missing, NotFound if
// the store does not have the archive, BuildFailed if a command fails, NoSpace.
func (t *Toolchain) Configure(ctx context.Context, spec step.Spec) (step.Source, error) {
	none := step.Source{Spec: spec}
	w, err := t.read(spec)
	if err != nil {
		return none, err
	}
	if err := t.look(ctx, w); err != nil {
		return none, t.sourceBeforeHost(ctx, w, err)
	}
	t.sweep(ctx, time.Now())
	if _, hit, err := t.cached(ctx, w); err != nil || hit {
		return step.Source{Spec: spec, Host: t.site.Host}, err
	}
	if err := w.checkPrograms(t.site.Host); err != nil {
		return none, t.sourceBeforeHost(ctx, w, err)
	}
	l, err := w.rollout.create(ctx)
	if err != nil {
		return none, failed("make build tree", t.folder, err)
	}
	defer l.release()
	if err := t.unpack(ctx, w); err != nil {
		return none, err
	}
	if err := w.lookAtSource(ctx); err != nil {
		return none, err
	}
	b, err := w.takeBaseline(ctx, time.Now())
	if err != nil {
		return none, failed("look at the source", w.rollout.dir, err)
	}
	commands := w.Configure
	if spec.Rebuild {
		commands = slices.Concat(w.Refresh, commands)
	}
	log, err := t.runStage(ctx, w, step.Configure, commands)
	if err != nil {
		return none, err
	}
	if err := t.lookAgain(ctx, w); err != nil {
		return none, err
	}
	b.Key = w.key
	if err := b.write(w.rollout.file(treeFile)); err != nil {
		return none, failed("make build tree", w.rollout.dir, err)
	}
	return step.Source{Spec: spec, Host: t.site.Host, Tree: w.rollout.tree(), Log: log}, nil
}

// sourceBeforeHost returns the error of CheckSource, or else lacks, the error about the
// host. So a user who has forgotten a file need not install a compiler first. It leaves
// no tree.
func (t *Toolchain) sourceBeforeHost(ctx context.Context, w *work, lacks error) error {
	if w.CheckSource == nil || step.KindOf(lacks) != step.Unsupported {
		return lacks
	}
	l, err := w.rollout.create(ctx)
	if err != nil {
		return lacks
	}
	defer l.release()
	if err = t.unpack(ctx, w); err == nil {
		err = w.lookAtSource(ctx)
	}
	if left := w.rollout.removeLocked(ctx); left != nil {
		t.site.Log.Warn("remove build tree", "tree", w.rollout.dir, "error", left)
	}
	if step.KindOf(err) == step.InvalidSpec {
		return err
	}
	return lacks
}

// unpack removes an earlier tree and unpacks the archive.
func (t *Toolchain) unpack(ctx context.Context, w *work) error {
	const op = "unpack source"
	step.Report(ctx, step.Progress{Note: "unpacking the source"})
	for _, old := range []string{w.rollout.file(treeFile), w.rollout.tree()} {
		if err := removeAll(ctx, old); err != nil {
			return failed("remove the last try's tree", w.rollout.dir, err)
		}
	}
	archive := *w.spec.Origin.Archive
	f, err := t.site.Store.Open(ctx, archive)
	if err != nil {
		return failed(op, t.folder, err)
	}
	defer func() { _ = f.Close() }() // only read
	if err := os.Mkdir(w.rollout.tree(), 0o700); err != nil {
		return failed(op, t.folder, err)
	}
	in := reading(ctx, f, archive.Size, "unpacking the source")
	return source.Unpack(in, w.rollout.tree())
}

// lookAtSource calls CheckSource and then removes the files of Discard.
func (w *work) lookAtSource(ctx context.Context) error {
	if w.CheckSource != nil {
		tree, err := os.OpenRoot(w.rollout.tree())
		if err != nil {
			return failed("look at the source", w.rollout.dir, err)
		}
		defer func() { _ = tree.Close() }() // only read
		if err := w.CheckSource(tree); err != nil {
			return err
		}
	}
	for _, name := range w.Discard {
		if err := removeAll(ctx, filepath.Join(w.rollout.tree(), filepath.FromSlash(name))); err != nil {
			return failed("remove what the source has of an earlier build", w.rollout.dir, err)
		}
	}
	return nil
}
