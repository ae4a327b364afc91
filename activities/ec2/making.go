package ec2

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/step"
)

// making is what a rollout is about to make. EC2 may list it late, and a worker may be killed
// before EC2's answer. A tag has the record: [tagMaking] of the security group of a dance, and
// the [useTag] of an AMI for an instance.
type making struct {
	at    time.Time
	there int // how many of the kind the rollout has already
	kind  string
}

func (m making) String() string {
	return fmt.Sprintf("%s %d %s", m.at.UTC().Format(time.RFC3339Nano), m.there, m.kind)
}

func parseMaking(text string) (m making, ok bool) {
	at, rest, _ := strings.Cut(text, " ")
	var failed error
	m.at, failed = time.Parse(time.RFC3339, at)
	n, err := fmt.Sscanf(rest, "%d", &m.there)
	_, m.kind, _ = strings.Cut(rest, " ")
	return m, failed == nil && err == nil && n == 1
}

// make records in tag key of a resource what do is about to make, and calls do.
// [cloud.settle] reads the record.
func (c *cloud) make(ctx context.Context, resource, key string, m making, do func() error) error {
	record := func(text string) error {
		return known(ctx, func() error { return c.tag(ctx, []types.Tag{tag(key, text)}, resource) })
	}
	if err := record(m.String()); err != nil {
		return err
	}
	err := do()
	if step.KindOf(err) != "" { // EC2 has refused: nothing will appear
		_ = record("") // if it fails, Destroy waits for nothing
	}
	return err
}

// settle waits until EC2 lists what matching rollouts began to make less than limit ago. kind is
// the kind that is waited for; "" waits for each.
func (c *cloud) settle(ctx context.Context, limit time.Duration, kind string, t step.Tags, match func(step.Tags) bool) error {
	all := map[step.Tags][]making{}
	add := func(of step.Tags, text string) {
		if m, ok := parseMaking(text); ok && match(of) && (kind == "" || m.kind == kind) {
			all[of] = append(all[of], m)
		}
	}
	groups, err := c.groups(ctx, matching(t)...)
	for _, g := range groups {
		if of, ours := owner(g.Tags); ours {
			add(of, value(g.Tags, tagMaking))
		}
	}
	var images []resource
	if err == nil && kind == "" {
		images, err = c.images(ctx, t)
	}
	for _, r := range images {
		for _, u := range users(r.tags) {
			if use, err := useTag(u); err == nil {
				add(u, value(r.tags, *use.Key))
			}
		}
	}
	if err != nil || len(all) == 0 {
		return err
	}
	_, err = poll(ctx, limit, func() (bool, error) {
		for of, some := range all {
			for _, m := range some {
				if time.Since(m.at) >= limit {
					continue
				}
				if n, err := c.count(ctx, of, m.kind); err != nil || n <= m.there {
					step.Report(ctx, step.Progress{Note: "waiting for EC2 to list the last " + m.kind})
					return false, err
				}
			}
		}
		return true, nil
	})
	return err
}

// count returns how many resources of a kind a rollout has, terminated instances and helpers too,
// and of the volumes those that are not a helper's own.
func (c *cloud) count(ctx context.Context, of step.Tags, kind string) (n int, err error) {
	switch kind {
	case kindInstance:
		all, err := c.instances(ctx, of)
		return len(all), err
	case kindHelper:
		all, err := c.helpers(ctx, of)
		return len(all), err
	}
	list := c.parts
	if kind == kindSnapshot {
		list = c.images
	}
	all, err := list(ctx, of)
	for _, r := range all {
		if made, _ := owner(r.tags); made == of && r.kind == kind && value(r.tags, tagHelper) == "" {
			n++
		}
	}
	return n, err
}
