package ec2

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/step"
)

// securityGroup makes the security group of the helper, or returns that of an earlier try.
// Its name is unique in a VPC.
func (d *dance) securityGroup(ctx context.Context, vpc string) (made types.SecurityGroup, err error) {
	step.Report(ctx, step.Progress{Note: "making a security group"})
	begun, name := d.keys.file(groupBegun), d.groupName()
	if err := os.WriteFile(begun, nil, 0o600); err != nil { // [destroy.awaitGroup] reads its time
		return made, err
	}
	out, err := d.cloud.ec2.CreateSecurityGroup(ctx, d.groupInput(name, vpc))
	switch {
	case err == nil:
		made.GroupId = out.GroupId
		return made, nil
	case code(err) != "InvalidGroup.Duplicate":
		if err = failed("make the security group "+name, err); step.KindOf(err) != "" {
			_ = os.Remove(begun) // if it fails, Destroy waits for nothing
		}
		return made, err
	}
	var found []types.SecurityGroup
	_, err = poll(ctx, visible, func() (bool, error) {
		found, err = d.cloud.groups(ctx, filter("group-name", name), filter("vpc-id", vpc))
		return len(found) > 0, err
	})
	if err == nil && len(found) == 0 {
		err = errors.New("EC2 says that there is a security group " + name + ", but lists none yet")
	}
	if err != nil {
		return made, err
	}
	if made, ok := owner(found[0].Tags); !ok || !d.img.Spec.Match(made) {
		return found[0], &step.Error{Kind: step.Conflict, Err: fmt.Errorf("the security group %s, which morgana did not make, has the name %s", aws.ToString(found[0].GroupId), name),
			Hint: "delete it; morgana never changes it"}
	}
	return found[0], nil
}

// make calls do, which makes a resource, unless somebody has deleted the group: after
// [cloud.make] without it Destroy waits for nothing.
func (d *dance) make(ctx context.Context, kind string, do func() error) error {
	if d.group == "" {
		return do()
	}
	n, err := d.cloud.count(ctx, d.img.Spec.Tags, kind)
	if err != nil {
		return err
	}
	return d.cloud.make(ctx, d.group, tagMaking, making{time.Now(), n, kind}, do)
}

// findGroup sets group to that of the rollout, if there is one.
func (d *dance) findGroup(ctx context.Context) error {
	all, err := d.cloud.groups(ctx, matching(d.img.Spec.Tags)...)
	for _, g := range all {
		if made, _ := owner(g.Tags); made == d.img.Spec.Tags {
			d.group = aws.ToString(g.GroupId)
		}
	}
	return err
}

// awaitGroup waits until EC2 lists the security group that a dance began to make a moment ago. It
// is the first that a dance makes at EC2. The folder of keys on this host tells whether the dance
// came so far, and when. Without that folder the dance may have been on another host: then one
// rollout that has no snapshot is waited for as long as EC2 may take. A removal of all
// rollouts is not: it comes after that of each.
func (d *destroy) awaitGroup(ctx context.Context) error {
	var at time.Time
	folders := d.keysOf(d.what.Match)
	for _, folder := range folders {
		if info, err := os.Stat(filepath.Join(folder, groupBegun)); err == nil && info.ModTime().After(at) {
			at = info.ModTime()
		}
	}
	if at.IsZero() {
		if d.c.backing != backingVolume || len(folders) > 0 || d.what.Spec.Generation == 0 {
			return nil
		}
		images, err := d.c.images(ctx, d.what.Spec.Tags)
		if err != nil || slices.ContainsFunc(images, func(r resource) bool {
			made, ok := owner(r.tags)
			return ok && d.what.Match(made) || slices.ContainsFunc(users(r.tags), d.what.Match)
		}) {
			return err
		}
		at = time.Now()
	}
	limit := time.Until(at.Add(d.limits.unlisted))
	if limit <= 0 {
		return nil
	}
	_, err := poll(ctx, limit, func() (bool, error) {
		groups, err := d.c.groups(ctx, matching(d.what.Spec.Tags)...)
		step.Report(ctx, step.Progress{Note: "waiting for EC2 to list the last " + kindGroup})
		return slices.ContainsFunc(groups, func(g types.SecurityGroup) bool {
			made, ok := owner(g.Tags)
			return ok && d.what.Match(made)
		}), err
	})
	return err
}

func (d *dance) groupName() string { return "morgana/" + d.folder }

func (d *dance) groupInput(name, vpc string) *ec2.CreateSecurityGroupInput {
	return &ec2.CreateSecurityGroupInput{GroupName: &name, VpcId: &vpc, Description: aws.String("ssh to a helper of morgana"),
		TagSpecifications: tagged(d.plain(), types.ResourceTypeSecurityGroup)}
}

// admit lets the worker's address into the group by ssh, and nothing else.
func (d *dance) admit(ctx context.Context, group types.SecurityGroup, helper types.Instance) error {
	from, err := d.workerAddress(ctx, helper)
	if err != nil {
		return err
	}
	there := false
	var others []types.IpPermission // of an earlier worker, or of somebody else
	for _, rule := range group.IpPermissions {
		if aws.ToString(rule.IpProtocol) == "tcp" && aws.ToInt32(rule.FromPort) == sshPort && aws.ToInt32(rule.ToPort) == sshPort {
			n := len(rule.IpRanges)
			rule.IpRanges = slices.DeleteFunc(slices.Clone(rule.IpRanges), func(r types.IpRange) bool { return aws.ToString(r.CidrIp) == from })
			there = there || len(rule.IpRanges) < n
		}
		if len(rule.IpRanges)+len(rule.Ipv6Ranges)+len(rule.UserIdGroupPairs)+len(rule.PrefixListIds) > 0 {
			others = append(others, rule)
		}
	}
	if len(others) > 0 {
		_, err := d.cloud.ec2.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{GroupId: group.GroupId, IpPermissions: others})
		if err != nil && !gone(err) {
			return failed("close the security group "+aws.ToString(group.GroupId)+" to others", err)
		}
	}
	if there {
		return nil
	}
	return known(ctx, func() error {
		_, err := d.cloud.ec2.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: group.GroupId,
			IpPermissions: []types.IpPermission{{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(sshPort), ToPort: aws.Int32(sshPort), IpRanges: []types.IpRange{{CidrIp: &from}}}}})
		if code(err) == "InvalidPermission.Duplicate" {
			return nil
		}
		return unseen("let "+from+" into the security group", err)
	})
}
