// Package command is the toolchain that configures and builds a kernel by any
// commands: make, dune, cargo, a script of the project's own.
//
// What it guarantees, whatever the commands do:
//
//   - Every rollout has a tree of its own, unpacked fresh, in
//     State/command/<app>.<target>.<life>-<generation>/. Only one process works
//     in it at a time (flock), and the lock dies with its holder.
//   - The commands of a stage run in order, in the tree, as process groups. When
//     the stage ends, in whatever way, its groups are ended. If the worker is
//     killed, the group it ran is on record (see [group]) and the next Configure,
//     Build or Clean ends it first.
//   - A build is judged by its artifact, not by its exit status: the kernel must
//     be there, inside the tree, new, and be a kernel.
//   - The same source built by the same commands is built once on a host, even
//     by several targets at the same time (see [Toolchain.Build]).
//   - A command sees only the variables that environ.go names and those of
//     [Options].Env: a worker's credentials never reach a build or its log.
//
// A command that leaves its process group (setsid) is out of reach.
package command

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// Kind is the name of this toolchain in morgana.yaml.
const Kind = "command"

// Options of the toolchain. Paths are relative to the source folder, use
// slashes, and may not lead out of it.
type Options struct {
	// Configure is the commands of stage configure, each a list of a program
	// and its arguments. No shell reads them: for one, write
	// ["sh", "-c", "..."]. A program named with a slash ("./configure") is the
	// source's own, any other is looked up in PATH. Default: none.
	Configure [][]string `json:"configure,omitempty"`
	// Build is the commands of stage build, at least one, as in Configure.
	Build [][]string `json:"build"`
	// Kernel is the file that the build makes, as "dist/hello.xen".
	Kernel string `json:"kernel"`
	// Files travel with the kernel, known by the last part of their path, which
	// must differ from the others'. They may be a part of the source.
	Files []string `json:"files,omitempty"`
	// Env is added to the environment of all commands. It is kept in the
	// deploy's history in the clear and so is not for secrets.
	Env map[string]string `json:"env,omitempty"`
	// Timeout bounds the commands of each stage, as "90m". Default "1h".
	Timeout string `json:"timeout,omitempty"`
}

const (
	defaultTimeout = time.Hour
	// treeAge is how long an unused tree is kept: its deploy is over, and the
	// host died or was cut off before Clean.
	treeAge = 24 * time.Hour
	// recordAge is how long a build is remembered. A record does not see that
	// a compiler was upgraded, so it may not live for ever.
	recordAge  = 30 * 24 * time.Hour
	sweepEvery = time.Hour
)

// Toolchain implements [step.Toolchain]. It is safe for concurrent use.
type Toolchain struct {
	site step.Site
	// folder is State/command.
	folder string
	// swept is when the janitor last ran, in seconds since 1970.
	swept atomic.Int64
}

var _ step.Toolchain = (*Toolchain)(nil)

// New makes the toolchain of a site. It starts nothing.
func New(site step.Site) *Toolchain {
	if site.Log == nil {
		site.Log = slog.New(slog.DiscardHandler)
	}
	return &Toolchain{site: site, folder: filepath.Join(site.State, Kind)}
}

// Clean removes the trees that spec.Tags match and ends what runs in them. It
// waits at most 5 s for their users to let go. Nothing to remove is no error.
func (t *Toolchain) Clean(ctx context.Context, spec step.Spec) (step.Destroyed, error) {
	ctx, cancel := context.WithTimeout(ctx, cleanWait)
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
	return gone, nil
}

// sweep is the janitor: it removes trees that nobody has used for 24 hours and
// records of builds older than 30 days. Configure calls it, so that it needs no
// goroutine and works in a worker that runs for months; it acts at most once an
// hour and for at most 5 s. What it cannot remove it leaves to the next time.
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
		if tags, ok := parseFolder(e.Name()); ok && e.IsDir() {
			all = append(all, rollout{tags: tags, dir: filepath.Join(t.folder, e.Name())})
		}
	}
	return all, err
}
