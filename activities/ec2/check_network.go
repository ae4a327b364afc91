package ec2

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/morgana-deploy/morgana/step"
)

// subnet is a subnet that the instance may be in.
type subnet struct {
	id, vpc, zone, cidr string
	public              bool // gives public addresses
}

func (k *checker) subnets(ctx context.Context) (err error) {
	k.nets, err = k.cloud.subnets(ctx, k.Subnets, k.Placement.Zone)
	return err
}

// subnets returns the subnets with the ids. Without ids it returns those of the default VPC,
// in the zone if it is not empty.
func (c *cloud) subnets(ctx context.Context, ids []string, zone string) (nets []subnet, err error) {
	in := &ec2.DescribeSubnetsInput{SubnetIds: ids}
	if len(ids) == 0 {
		in.Filters = []types.Filter{filter("default-for-az", "true")}
		if zone != "" {
			in.Filters = append(in.Filters, filter("availability-zone", zone))
		}
	}
	all, err := gather(ctx, "ask about subnets", ec2.NewDescribeSubnetsPaginator(c.ec2, in),
		func(page *ec2.DescribeSubnetsOutput) []types.Subnet { return page.Subnets })
	if err != nil {
		return nil, err
	}
	for _, n := range all {
		nets = append(nets, subnet{aws.ToString(n.SubnetId), aws.ToString(n.VpcId), aws.ToString(n.AvailabilityZone), aws.ToString(n.CidrBlock), aws.ToBool(n.MapPublicIpOnLaunch)})
	}
	const name = "name subnets that aws ec2 describe-subnets lists"
	switch {
	case len(nets) == 0 && zone != "":
		return nil, &step.Error{Kind: step.NotFound, Field: "placement.zone", Hint: "another zone, or " + name, Err: fmt.Errorf("%s has no default subnet", zone)}
	case len(nets) == 0:
		return nil, step.Invalid("subnets", name, "the account has no default VPC in %s", c.region)
	}
	for _, n := range nets[1:] {
		if n.vpc != nets[0].vpc {
			return nil, step.Invalid("subnets", "name subnets of one VPC", "%s is in %s, and %s in %s", n.id, n.vpc, nets[0].id, nets[0].vpc)
		}
	}
	return nets, nil
}

// groups sees that the security groups are in the subnets' VPC and let the port in.
func (k *checker) groups(ctx context.Context) error {
	in := &ec2.DescribeSecurityGroupsInput{GroupIds: k.SecurityGroups}
	if len(k.SecurityGroups) == 0 {
		in.Filters = []types.Filter{filter("vpc-id", k.nets[0].vpc), filter("group-name", "default")}
	}
	all, err := gather(ctx, "ask about security groups", ec2.NewDescribeSecurityGroupsPaginator(k.ec2, in),
		func(page *ec2.DescribeSecurityGroupsOutput) []types.SecurityGroup { return page.SecurityGroups })
	if err != nil {
		return err
	}
	for _, g := range all {
		if vpc := aws.ToString(g.VpcId); vpc != k.nets[0].vpc {
			return step.Invalid("security_groups", "groups of that VPC", "%s is in %s, and the subnets in %s", aws.ToString(g.GroupId), vpc, k.nets[0].vpc)
		}
	}
	if k.Port != 0 && !slices.ContainsFunc(all, func(g types.SecurityGroup) bool { return letsIn(g, k.Port) }) {
		return step.Invalid("security_groups", "name a group with a rule for it, or use expect instead of port", "no rule of the security groups lets TCP port %d in", k.Port)
	}
	return nil
}

// letsIn reports whether a rule of a group lets a TCP port in, from anywhere.
func letsIn(g types.SecurityGroup, port int) bool {
	return slices.ContainsFunc(g.IpPermissions, func(r types.IpPermission) bool {
		protocol := aws.ToString(r.IpProtocol)
		return protocol == "-1" || (protocol == "tcp" || protocol == "6") && aws.ToInt32(r.FromPort) <= int32(port) && int32(port) <= aws.ToInt32(r.ToPort) //nolint:gosec // at most 65535
	})
}

func (k *checker) keyPair(ctx context.Context) error {
	if k.KeyName == "" {
		return nil
	}
	_, err := k.ec2.DescribeKeyPairs(ctx, &ec2.DescribeKeyPairsInput{KeyNames: []string{k.KeyName}})
	return failed("ask about key pair "+k.KeyName, err)
}

func (k *checker) placementGroup(ctx context.Context) error {
	if k.Placement.Group == "" {
		return nil
	}
	_, err := k.ec2.DescribePlacementGroups(ctx, &ec2.DescribePlacementGroupsInput{GroupNames: []string{k.Placement.Group}})
	return failed("ask about placement group "+k.Placement.Group, err)
}

// elasticIP sees that the Elastic IP exists, and that nothing but this target uses it.
func (k *checker) elasticIP(ctx context.Context) error {
	if k.ElasticIP == "" {
		return nil
	}
	a, user, err := k.cloud.elasticIP(ctx, k.ElasticIP)
	if err != nil || a.AssociationId == nil {
		return err
	}
	ours, err := k.instances(ctx, step.Tags{App: k.tags.App, Target: k.tags.Target})
	if err != nil || slices.ContainsFunc(ours, func(in types.Instance) bool { return aws.ToString(in.InstanceId) == user }) {
		return err
	}
	user = cmp.Or(user, aws.ToString(a.NetworkInterfaceId))
	return &step.Error{Kind: step.Conflict, Field: "elastic_ip", Err: fmt.Errorf("%s (%s) is in use by %s, which is not of this target", k.ElasticIP, aws.ToString(a.PublicIp), user),
		Hint: "name another, or disassociate it first: aws ec2 disassociate-address --association-id " + aws.ToString(a.AssociationId)}
}

// targetGroup sees that the target group takes instances of the subnets' VPC.
func (k *checker) targetGroup(ctx context.Context) error {
	if k.TargetGroup == "" {
		return nil
	}
	out, err := k.elb.DescribeTargetGroups(ctx, &elb.DescribeTargetGroupsInput{TargetGroupArns: []string{k.TargetGroup}})
	if err != nil {
		return failed("ask about the target group", err)
	}
	for _, g := range out.TargetGroups {
		if g.TargetType != elbtypes.TargetTypeEnumInstance {
			return step.Invalid("target_group", "a target group of target type instance", "it takes targets of type %s", g.TargetType)
		}
		if vpc := aws.ToString(g.VpcId); vpc != k.nets[0].vpc {
			return step.Invalid("target_group", "a target group of that VPC", "it is in %s, and the subnets in %s", vpc, k.nets[0].vpc)
		}
	}
	return nil
}

// reachable refuses to wait for a port that this worker cannot reach: a subnet without
// public addresses, of which this host is no part. public_ip: false says that the worker
// reaches private addresses by a VPN or a peering, which nothing here can tell. An Elastic
// IP does not help: it moves to the instance only when that is ready.
func (k *checker) reachable(context.Context) error {
	if k.Port == 0 || k.PublicIP != nil {
		return nil
	}
	i := slices.IndexFunc(k.nets, func(n subnet) bool { return !n.public })
	if i < 0 {
		return nil
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("list the addresses of this host: %w", err)
	}
	if near(k.nets[i].cidr, addresses) {
		return nil
	}
	return step.Invalid("port", "public_ip: true; or public_ip: false if the worker reaches the subnet by a VPN; or expect instead of port", "%s gives no public address, so the worker cannot reach the port", k.nets[i].id)
}

// near reports whether an address of this host may be in the VPC of a subnet. A VPC is at
// most a /16.
func near(cidr string, addresses []net.Addr) bool {
	in, err := netip.ParsePrefix(cidr)
	if err != nil {
		return false
	}
	vpc := netip.PrefixFrom(in.Addr(), min(in.Bits(), 16))
	return slices.ContainsFunc(addresses, func(a net.Addr) bool {
		own, err := netip.ParsePrefix(a.String())
		return err == nil && vpc.Contains(own.Addr())
	})
}
