package xen

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// grace is how long a domain that handles shutdown requests may take to shut down.
const grace = 10 * time.Second

// Destroy shuts down the domains whose tags match, and destroys those that still run
// after the grace period. Unless KeepImage is set, it also removes their folders, and the
// images that no rollout uses any more. A foreign domain with the name of a rollout is
// left alone and is a Conflict; the rest is still removed.
func (t *Target) Destroy(ctx context.Context, what step.Removal) (done step.Destroyed, err error) {
	spec := what.Spec
	defer step.SetOp(fmt.Sprintf("destroy %s.%s", spec.App, spec.Target), &err)
	// Without app and target the tags would match other deployments.
	if err := errors.Join(step.CheckName("app", spec.App), step.CheckName("target", spec.Target)); err != nil {
		return done, err
	}
	d, err := t.reach(spec)
	if err != nil || d == nil {
		return done, err
	}
	all, err := d.list(ctx)
	if err != nil {
		return done, err
	}
	var names []string
	for _, r := range all {
		if name, err := r.Tags.Folder(); err == nil && what.Match(r.Tags) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	keep := ""
	if what.KeepImage {
		keep = "keep"
	}
	var failure error // the first one
	var left []string
	for _, name := range slices.Compact(names) {
		step.Report(ctx, step.Progress{Note: "destroying " + name})
		out, err := d.do(ctx, "destroy", name, uuidOf(name), strconv.Itoa(int(grace.Seconds())), keep)
		for line := range strings.Lines(out) {
			done.Removed = append(done.Removed, strings.TrimSpace(line))
		}
		if err != nil {
			failure, left = cmp.Or(failure, err), append(left, "domain "+name)
		}
	}
	return done, step.Leaving(failure, left)
}

// reach opens the host of a spec, even of a spec that Check refuses: an earlier
// generation may have used that host. It returns nil if the options or their host cannot
// be parsed.
func (t *Target) reach(spec step.Spec) (*dom0, error) {
	var where struct {
		Host string `json:"host"`
		Tool string `json:"tool"`
	}
	if err := json.Unmarshal(spec.Options, &where); err != nil && len(spec.Options) > 0 {
		return nil, nil
	}
	if where.Tool != "xm" {
		where.Tool = "xl"
	}
	d, err := t.dom0(where.Host, where.Tool)
	if step.KindOf(err) == step.InvalidSpec {
		return nil, nil
	}
	return d, err
}
