package command

import (
	"context"
	"os"
	"time"

	"github.com/morgana-deploy/morgana/source"
	"github.com/morgana-deploy/morgana/step"
)

// Configure unpacks the source and runs the configure commands in it. If this
// host has built the same before there is nothing to configure: the Source has
// a Host and no Tree, and Build takes the kernel from its cache.
//
// Errors: InvalidSpec for options, Unsupported for a program that is missing,
// NotFound if the store does not have the archive, BuildFailed if a command
// fails, NoSpace.
func (t *Toolchain) Configure(ctx context.Context, spec step.Spec) (step.Source, error) {
	none := step.Source{Spec: spec}
	r, err := t.read(spec)
	if err != nil {
		return none, err
	}
	t.sweep(ctx, time.Now())
	if _, hit, err := t.cached(ctx, r); err != nil || hit {
		return step.Source{Spec: spec, Host: t.site.Host}, err
	}
	if err := r.checkPrograms(t.site.Host); err != nil {
		return none, err
	}
	l, err := r.rollout.create(ctx)
	if err != nil {
		return none, failed("make build tree", t.folder, err)
	}
	defer l.release()
	if err := t.unpack(ctx, r); err != nil {
		return none, err
	}
	if err := r.checkOwnProgram(); err != nil {
		return none, err
	}
	b, err := r.takeBaseline(ctx, time.Now())
	if err != nil {
		return none, failed("look at the source", r.rollout.dir, err)
	}
	log, err := t.runStage(ctx, r, step.Configure, r.options.Configure)
	if err != nil {
		return none, err
	}
	if err := b.write(r.rollout.file(treeFile)); err != nil {
		return none, failed("make build tree", r.rollout.dir, err)
	}
	return step.Source{Spec: spec, Host: t.site.Host, Tree: r.rollout.tree(), Log: log}, nil
}

// unpack makes the tree anew.
func (t *Toolchain) unpack(ctx context.Context, r *recipe) error {
	const op = "unpack source"
	step.Report(ctx, step.Progress{Note: "unpacking the source"})
	for _, old := range []string{r.rollout.file(treeFile), r.rollout.tree()} {
		if err := removeAll(ctx, old); err != nil {
			return failed("remove the last try's tree", r.rollout.dir, err)
		}
	}
	archive := *r.spec.Origin.Archive
	f, err := t.site.Store.Open(ctx, archive)
	if err != nil {
		return failed(op, t.folder, err)
	}
	defer func() { _ = f.Close() }() // only read
	if err := os.Mkdir(r.rollout.tree(), 0o700); err != nil {
		return failed(op, t.folder, err)
	}
	in := reading(ctx, f, archive.Size, "unpacking the source")
	return source.Unpack(in, r.rollout.tree())
}
