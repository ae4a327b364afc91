package ec2

import (
	"cmp"
	"context"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// Observe asks EC2 for the instance's state. An instance that shut itself down is Ended
// until it is destroyed; a spot instance, for about an hour.
func (t *Target) Observe(ctx context.Context, m step.Machine) (_ step.Health, err error) {
	defer step.SetOp("observe instance", &err)
	c, s, err := reach(ctx, m.Registration.Spec)
	var in types.Instance
	if err == nil && c != nil {
		in, err = c.instance(ctx, m)
	}
	if err != nil {
		return step.Health{}, err
	}
	h := healthOf(in, s.Port)
	if h.Success {
		text, _, err := c.console(ctx, in)
		if err != nil && !gone(err) { // EC2 forgets a console before its instance
			return step.Health{}, err
		}
		if status := kernelFailure(text); status != "" {
			h.How, h.Success = status, false
		}
	}
	return h, nil
}

// instance returns a machine's instance as EC2 lists it, one without an id if EC2 lists
// none. For a machine without an id it is the rollout's live instance.
func (c *cloud) instance(ctx context.Context, m step.Machine) (types.Instance, error) {
	all, err := c.instances(ctx, m.Registration.Spec.Tags)
	for _, in := range all {
		if aws.ToString(in.InstanceId) == m.ID || m.ID == "" && !isDead(in) {
			return in, nil
		}
	}
	return types.Instance{}, err
}

func healthOf(in types.Instance, port int) step.Health {
	switch {
	case in.InstanceId == nil:
		return step.Health{State: step.Gone}
	case in.State.Name == types.InstanceStateNamePending || in.State.Name == types.InstanceStateNameRunning:
		return step.Health{State: step.Running, Since: aws.ToTime(in.LaunchTime).UTC(), Addresses: addresses(in, port)}
	case isDead(in) && !byItself(in):
		return step.Health{State: step.Gone, How: reason(in), Since: endedAt(in)}
	}
	return step.Health{State: step.Ended, How: reason(in), Success: byItself(in), Since: endedAt(in)}
}

// reasons say by EC2's codes how an instance ended.
var reasons = map[string]string{
	"Client.InstanceInitiatedShutdown":    "shut down by itself",
	"Client.UserInitiatedShutdown":        "was stopped or terminated through EC2's API",
	"Server.SpotInstanceShutdown":         "was stopped: EC2 has no spot capacity",
	"Server.SpotInstanceTermination":      "was terminated: EC2 has no spot capacity",
	"Server.InsufficientInstanceCapacity": "was terminated: EC2 has no capacity",
	"Server.ScheduledStop":                "was stopped: its host is retired",
}

// reason says in one line how an instance ended.
func reason(in types.Instance) string {
	if words := reasons[reasonCode(in)]; words != "" {
		return words
	}
	if in.StateReason != nil {
		words := strings.TrimPrefix(aws.ToString(in.StateReason.Message), reasonCode(in)+": ")
		return "ended: " + cmp.Or(plain(words), reasonCode(in))
	}
	return "has ended"
}

// endTime matches the time in a StateTransitionReason, as "User initiated (2026-11-26
// 05:00:00 GMT)".
var endTime = regexp.MustCompile(`\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) GMT\)`)

// endedAt returns when an instance ended, zero if EC2 does not say.
func endedAt(in types.Instance) time.Time {
	found := endTime.FindStringSubmatch(aws.ToString(in.StateTransitionReason))
	if found == nil {
		return time.Time{}
	}
	at, err := time.Parse(time.DateTime, found[1])
	if err != nil {
		return time.Time{}
	}
	return at
}

// List returns the instances, volumes, network interfaces, AMIs and snapshots of rollouts
// in the region, and what backing volume has for a while, half-made ones too; of backing
// import also the import tasks that run and what is in the bucket. An AMI or snapshot is listed once for each rollout that
// uses it. Terminated instances are not listed.
func (t *Target) List(ctx context.Context, spec step.Spec) (all []step.Resource, err error) {
	defer step.SetOp("list resources", &err)
	c, _, err := reach(ctx, spec)
	if err == nil && c != nil {
		all, err = c.list(ctx, spec.Tags)
	}
	return all, err
}

func (c *cloud) list(ctx context.Context, t step.Tags) (all []step.Resource, err error) {
	wanted := machine.Wanted(t)
	instances, err := c.allInstances(ctx, t)
	if err != nil {
		return nil, err
	}
	for _, in := range instances {
		kind := kindInstance
		if isHelper(in) {
			kind = kindHelper
		}
		if of, _ := owner(in.Tags); in.State.Name != types.InstanceStateNameTerminated {
			all = append(all, step.Resource{Tags: of, Kind: kind, ID: aws.ToString(in.InstanceId), Created: aws.ToTime(in.LaunchTime).UTC(), Where: c.region})
		}
	}
	parts, err := c.parts(ctx, t)
	if err != nil {
		return nil, err
	}
	images, err := c.images(ctx, t)
	if err != nil {
		return nil, err
	}
	for _, r := range append(parts, images...) {
		of, ok := owner(r.tags)
		using := users(r.tags)
		if len(using) == 0 {
			using = []step.Tags{of}
		}
		for _, u := range using {
			if ok && wanted(u) {
				all = append(all, step.Resource{Tags: u, Kind: r.kind, ID: r.id, Created: r.created, Where: c.region})
			}
		}
	}
	if c.bucket == "" {
		return all, nil
	}
	var tasks []importTask
	if c.backing == backingImport {
		if tasks, err = c.importTasks(ctx); err != nil {
			return nil, err
		}
	}
	needed := map[string]bool{} // folders of S3-backed AMIs, which are listed
	for _, r := range images {
		needed[path.Dir(r.place)] = r.place != ""
	}
	for _, task := range tasks {
		if of, _ := owner(task.tags); wanted(of) && !task.over() {
			all = append(all, step.Resource{Tags: of, Kind: kindImport, ID: task.id, Where: c.region})
		}
	}
	left, err := c.leftovers(ctx, t)
	for _, l := range left {
		if kind, key, _ := strings.Cut(l.String(), " morgana/"); wanted(l.of) && !needed[path.Dir(c.bucket+"/"+l.key)] {
			all = append(all, step.Resource{Tags: l.of, Kind: kind, ID: "s3://" + c.bucket + "/morgana/" + key, Created: l.created.UTC(), Where: c.region})
		}
	}
	return all, err
}
