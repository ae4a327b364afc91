package ec2

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/step"
)

// making is the value of [tagMaking]: what a dance is about to make. EC2 may list it late,
// and a worker may be killed before EC2's answer.
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

// make records on the security group what do is about to make, and calls do. [cloud.settle] reads
// the record.
func (d *dance) make(ctx context.Context, kind string, do func() error) error {
	if d.group == "" { // somebody has deleted it
		return do()
	}
	n, err := d.cloud.count(ctx, d.img.Spec.Tags, kind)
	if err == nil {
		err = d.announce(ctx, making{time.Now(), n, kind}.String())
	}
	if err != nil {
		return err
	}
	if err = do(); step.KindOf(err) != "" { // EC2 has refused: nothing will appear
		_ = d.announce(ctx, "none") // if it fails, Destroy waits for nothing
	}
	return err
}

func (d *dance) announce(ctx context.Context, text string) error {
	return known(ctx, "tag "+d.group, func() error {
		_, err := d.cloud.ec2.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{d.group}, Tags: []types.Tag{tag(tagMaking, text)}})
		return err
	})
}

// settle waits until EC2 lists what dances of matching rollouts began to make less than limit
// ago. kind is the kind that is waited for; "" waits for each.
func (c *cloud) settle(ctx context.Context, limit time.Duration, kind string, t step.Tags, match func(step.Tags) bool) error {
	_, err := poll(ctx, limit, func() (bool, error) {
		groups, err := c.groups(ctx, matching(t)...)
		if err != nil {
			return false, err
		}
		for _, g := range groups {
			of, ours := owner(g.Tags)
			m, ok := parseMaking(value(g.Tags, tagMaking))
			if !ours || !match(of) || !ok || kind != "" && m.kind != kind || time.Since(m.at) >= limit {
				continue
			}
			if n, err := c.count(ctx, of, m.kind); err != nil || n <= m.there {
				step.Report(ctx, step.Progress{Note: "waiting for EC2 to list the last " + m.kind})
				return false, err
			}
		}
		return true, nil
	})
	return err
}

// count returns how many resources of a kind a rollout has, terminated helpers too, and of
// the volumes those that are not a helper's own.
func (c *cloud) count(ctx context.Context, of step.Tags, kind string) (n int, err error) {
	if kind == kindHelper {
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
