package ec2

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/morgana-deploy/morgana/step"
)

// addresses returns the addresses of an instance, the public ones first. They are of kind
// tcp if option port is set.
func addresses(in types.Instance, port int) (all []step.Address) {
	kind := "ip"
	if port != 0 {
		kind = "tcp"
	}
	for _, a := range []*string{in.PublicIpAddress, in.PublicDnsName, in.Ipv6Address, in.PrivateIpAddress} {
		if aws.ToString(a) != "" {
			all = append(all, step.Address{Kind: kind, Address: *a, Port: port})
		}
	}
	return all
}

// elasticIP returns an Elastic IP and the id of the instance that has it, "" if none has.
func (c *cloud) elasticIP(ctx context.Context, id string) (ip types.Address, holder string, err error) {
	out, err := c.ec2.DescribeAddresses(ctx, &ec2.DescribeAddressesInput{AllocationIds: []string{id}})
	if err != nil {
		return ip, "", failed("look up Elastic IP "+id, err)
	}
	if len(out.Addresses) != 1 {
		return ip, "", &step.Error{Kind: step.NotFound, Field: "elastic_ip", Err: fmt.Errorf("EC2 does not list %s", id)}
	}
	return out.Addresses[0], aws.ToString(out.Addresses[0].InstanceId), nil
}

// moveAddress moves an Elastic IP to an instance and returns the address. An address that
// is neither free nor at one of the instances from is a Conflict.
func (c *cloud) moveAddress(ctx context.Context, id, to string, from []string) (string, error) {
	ip, holder, err := c.elasticIP(ctx, id)
	if err != nil {
		return "", err
	}
	public := aws.ToString(ip.PublicIp)
	taken := aws.ToString(ip.AssociationId) != ""
	switch {
	case holder == to:
		return public, nil
	case taken && !slices.Contains(from, holder):
		return "", &step.Error{Kind: step.Conflict, Field: "elastic_ip", Hint: "disassociate it, or name another",
			Err: fmt.Errorf("%s is in use by another (%s)", id, aws.ToString(ip.AssociationId))}
	}
	_, err = c.ec2.AssociateAddress(ctx, &ec2.AssociateAddressInput{
		AllocationId: aws.String(id), InstanceId: aws.String(to), AllowReassociation: aws.Bool(taken)})
	if err != nil {
		return "", failed("move Elastic IP "+id, err)
	}
	return public, nil
}

// moveTarget puts an instance into a target group, waits up to limit until it is healthy,
// and takes the instances from out of it. An instance that is not healthy in time stays
// beside the others, and health says what the group reports.
func (c *cloud) moveTarget(ctx context.Context, group, to string, from []string, limit time.Duration) (health string, err error) {
	if err := c.addTarget(ctx, group, to); err != nil {
		return "", err
	}
	members := map[string]*elbtypes.TargetHealth{}
	done, err := poll(ctx, limit, func() (bool, error) {
		if members, err = c.targets(ctx, group); err != nil || members[to] == nil {
			return false, err
		}
		switch members[to].State {
		case elbtypes.TargetHealthStateEnumHealthy, elbtypes.TargetHealthStateEnumUnavailable:
			return true, nil
		case elbtypes.TargetHealthStateEnumUnused: // no load balancer checks it
			return members[to].Reason != elbtypes.TargetHealthReasonEnumNotRegistered, nil
		}
		return false, nil
	})
	if err != nil {
		return "", err
	}
	if !done {
		if h := members[to]; h != nil {
			return fmt.Sprintf("%s is %s: %s", to, h.State, aws.ToString(h.Description)), nil
		}
		return to + " is not in it", nil
	}
	return "", c.dropTargets(ctx, group, slices.DeleteFunc(slices.Clone(from), func(id string) bool { return members[id] == nil }))
}

// targets returns the health of the members of a target group by their instances' ids.
func (c *cloud) targets(ctx context.Context, group string) (map[string]*elbtypes.TargetHealth, error) {
	out, err := c.elb.DescribeTargetHealth(ctx, &elb.DescribeTargetHealthInput{TargetGroupArn: aws.String(group)})
	if err != nil {
		return nil, failed("look up target group", err)
	}
	members := map[string]*elbtypes.TargetHealth{}
	for _, d := range out.TargetHealthDescriptions {
		if d.Target != nil && d.TargetHealth != nil && d.TargetHealth.State != elbtypes.TargetHealthStateEnumDraining {
			members[aws.ToString(d.Target.Id)] = d.TargetHealth
		}
	}
	return members, nil
}

func (c *cloud) addTarget(ctx context.Context, group, id string) error {
	_, err := c.elb.RegisterTargets(ctx, &elb.RegisterTargetsInput{TargetGroupArn: aws.String(group), Targets: []elbtypes.TargetDescription{{Id: aws.String(id)}}})
	return failed("add "+id+" to the target group", err)
}

func (c *cloud) dropTargets(ctx context.Context, group string, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	in := &elb.DeregisterTargetsInput{TargetGroupArn: aws.String(group)}
	for _, id := range ids {
		in.Targets = append(in.Targets, elbtypes.TargetDescription{Id: aws.String(id)})
	}
	if _, err := c.elb.DeregisterTargets(ctx, in); err != nil {
		return failed("take instances out of the target group", err)
	}
	return nil
}

// moveBack gives the Elastic IP and the place in the target group of an instance that will
// be terminated to its heir. Without an heir EC2 frees the address at the instance's end.
func (d *destroy) moveBack(ctx context.Context, all []types.Instance) error {
	if heirs, some := d.heirs(all, tagElasticIP, d.s.ElasticIP); some {
		_, holder, err := d.c.elasticIP(ctx, d.s.ElasticIP)
		if to := heirs[holder]; err == nil && to != "" {
			_, err = d.c.moveAddress(ctx, d.s.ElasticIP, to, []string{holder})
		}
		if err != nil && step.KindOf(err) != step.NotFound {
			return err
		}
	}
	heirs, some := d.heirs(all, tagTargetGroup, d.s.TargetGroup)
	if d.s.TargetGroup == "" || len(heirs) == 0 {
		return nil
	}
	members, err := d.c.targets(ctx, d.s.TargetGroup)
	for id := range members {
		to, leaves := heirs[id]
		if !leaves || err != nil {
			continue
		}
		if to != "" {
			_, err = d.c.moveTarget(ctx, d.s.TargetGroup, to, nil, visible)
		}
		if err == nil {
			err = d.c.dropTargets(ctx, d.s.TargetGroup, []string{id})
		}
	}
	// The user has removed the target group. Or the credentials may not see it, and no
	// instance is to serve in place of one that ends.
	if kind := step.KindOf(err); kind == step.NotFound || kind == step.Unauthorized && !some {
		return nil
	}
	return err
}

// heirs returns the heir of each instance that will be terminated, "" if it has none, and
// whether there is any. It is the newest running instance of the same life that stays and
// that the tag says to have had what. A generation that never had it, because its options
// do not name it or it never was ready, inherits nothing.
func (d *destroy) heirs(all []types.Instance, key, what string) (heirs map[string]string, some bool) {
	newest := map[string]int{} // by life
	heir := map[string]string{}
	for _, in := range all {
		have, _ := owner(in.Tags)
		if what != "" && !d.matches(in) && value(in.Tags, key) == what && in.State.Name == types.InstanceStateNameRunning && have.Generation > newest[have.Life] {
			newest[have.Life], heir[have.Life] = have.Generation, aws.ToString(in.InstanceId)
		}
	}
	heirs = map[string]string{}
	for _, in := range all {
		if d.matches(in) {
			to := heir[value(in.Tags, tagLife)]
			heirs[aws.ToString(in.InstanceId)] = to
			some = some || to != ""
		}
	}
	return heirs, some
}
