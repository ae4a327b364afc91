// Package tree builds kernels in source trees on a worker's host, for all toolchains.
// A toolchain turns a spec into a [Recipe]: commands, and the files that they make.
// This package does the rest:
//
//   - Every rollout has a tree of its own, unpacked fresh, in
//     State/<kind>/<app>.<target>.<life>-<generation>/. Only one process works
//     in it at a time (flock), and the lock dies with its holder.
//   - Commands see the tree at a path that is the same in every rollout (see [place]).
//   - The commands of a stage run in order, in the tree, each as a process group that
//     ends with the stage. If the worker is killed, the group is on record (see [group])
//     and the next Configure, Build or Clean ends it first.
//   - An exit status of 0 is not enough: the kernel must be there, inside the tree, new,
//     and be a kernel.
//   - The same source built by the same commands is built once on a host, even
//     by several targets at the same time (see [Toolchain.Build]).
//   - A command sees only the variables that environ.go names and those of
//     [Recipe].Env: a worker's credentials never reach a build or its log.
//
// A process that leaves its command's process group (setsid) is not ended.
package tree

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

const (
	// treeAge is how long an unused tree is kept. Its deploy is over, but Clean did not run
	// here.
	treeAge = 24 * time.Hour
	// recordAge is how long a record is kept. A key does not describe all of the host, so no
	// record lives for ever.
	recordAge  = 30 * 24 * time.Hour
	sweepEvery = time.Hour
)

// Toolchain implements [step.Toolchain]. It is safe for concurrent use.
type Toolchain struct {
	site   step.Site
	kind   string
	recipe func(step.Spec) (Recipe, error)
	// folder is State/<kind>.
	folder string
	// swept is the Unix time in seconds of the last sweep.
	swept atomic.Int64
}

var (
	_ step.Toolchain = (*Toolchain)(nil)
	_ step.Builder   = (*Toolchain)(nil)
	_ step.Lister    = (*Toolchain)(nil)
)

// New makes the toolchain called kind of a site; its folder is in site.State. recipe
// makes the Recipe of a spec that has options for kind. The options have not been
// checked: for wrong ones recipe fails with InvalidSpec or Unsupported. It must not
// change the spec. New starts nothing.
func New(site step.Site, kind string, recipe func(step.Spec) (Recipe, error)) *Toolchain {
	if site.Log == nil {
		site.Log = slog.New(slog.DiscardHandler)
	}
	return &Toolchain{site: site, kind: kind, recipe: recipe, folder: filepath.Join(site.State, kind)}
}

// Clean removes the trees that spec.Tags match and ends the processes in them. It
// waits at most 5 s for their locks. Nothing to remove is no error.
func (t *Toolchain) Clean(ctx context.Context, spec step.Spec) (step.Destroyed, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, cleanWait, fmt.Errorf("it did not end within %s", cleanWait))
	defer cancel()
	var gone step.Destroyed
	all, err := t.rollouts()
	if err != nil {
		return gone, failed("list build trees", t.folder, err)
	}
	for _, r := range all {
		if !spec.Match(r.tags) {
			continue
		}
		if err := r.remove(ctx, true); err != nil {
			e := failed("remove build tree", r.dir, err)
			e.Left = []string{r.dir}
			return gone, e
		}
		gone.Removed = append(gone.Removed, "build tree "+r.dir)
	}
	// A killed worker left a tree in its place.
	if err := t.vacate(ctx, func(owner string, _ time.Time) bool {
		tags, ok := step.ParseFolder(owner)
		return ok && spec.Match(tags)
	}); err != nil {
		return gone, failed("remove build tree", t.folder, err)
	}
	return gone, nil
}

// List returns the trees on this host that spec.Tags match, those of all apps if App and
// Target are empty.
func (t *Toolchain) List(_ context.Context, spec step.Spec) ([]step.Resource, error) {
	all, err := t.rollouts()
	if err != nil {
		return nil, failed("list build trees", t.folder, err)
	}
	var found []step.Resource
	for _, r := range all {
		if spec.App == "" && spec.Target == "" || spec.Match(r.tags) {
			found = append(found, step.Resource{Tags: r.tags, Kind: "build tree", ID: r.dir, Created: r.lastUse().UTC(), Where: t.site.Host})
		}
	}
	return found, nil
}

// sweep removes trees that were not used for 24 hours and records of builds older than
// 30 days. Configure calls it, so that it needs no goroutine and works in a worker
// that runs for months. It acts at most once an hour and for at most 5 s. A tree that
// cannot be removed is left to the next time.
func (t *Toolchain) sweep(ctx context.Context, now time.Time) {
	last := t.swept.Load()
	if now.Unix()-last < int64(sweepEvery/time.Second) || !t.swept.CompareAndSwap(last, now.Unix()) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, cleanWait)
	defer cancel()
	all, err := t.rollouts()
	if err != nil {
		t.site.Log.Warn("list build trees", "error", err)
	}
	for _, r := range all {
		if now.Sub(r.lastUse()) < treeAge {
			continue
		}
		if err := r.remove(ctx, false); err != nil && !isHeld(err) {
			t.site.Log.Warn("remove old build tree", "tree", r.dir, "error", err)
		}
	}
	if err := t.vacate(ctx, func(_ string, used time.Time) bool { return now.Sub(used) >= treeAge }); err != nil {
		t.site.Log.Warn("remove old build trees", "folder", t.folder, "error", err)
	}
	t.sweepCache(now)
}

// rollouts lists the rollouts that have a folder here.
func (t *Toolchain) rollouts() ([]rollout, error) {
	entries, err := os.ReadDir(t.folder)
	if os.IsNotExist(err) {
		return nil, nil
	}
	var all []rollout
	for _, e := range entries {
		if tags, ok := step.ParseFolder(e.Name()); ok && e.IsDir() {
			all = append(all, rollout{tags: tags, dir: filepath.Join(t.folder, e.Name())})
		}
	}
	return all, err
}
