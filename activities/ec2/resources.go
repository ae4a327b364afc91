package ec2

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// pages is a paginator of the SDK. A page may be empty and have a successor.
type pages[Out any] interface {
	HasMorePages() bool
	NextPage(ctx context.Context, options ...func(*ec2.Options)) (*Out, error)
}

// gather returns the items of all pages. op is for the error.
func gather[Out, T any](ctx context.Context, op string, from pages[Out], items func(*Out) []T) (all []T, err error) {
	for from.HasMorePages() {
		page, err := from.NextPage(ctx)
		if err != nil {
			return nil, failed(op, err)
		}
		all = append(all, items(page)...)
	}
	return all, nil
}

// instances returns the instances whose tags t selects, also terminated ones, without
// helpers. An empty app and target select those of all apps.
func (c *cloud) instances(ctx context.Context, t step.Tags) ([]types.Instance, error) {
	all, err := c.allInstances(ctx, t)
	return slices.DeleteFunc(all, isHelper), err
}

// helpers returns the helpers of backing volume whose tags t selects, also terminated ones.
func (c *cloud) helpers(ctx context.Context, t step.Tags) ([]types.Instance, error) {
	all, err := c.allInstances(ctx, t)
	return slices.DeleteFunc(all, func(in types.Instance) bool { return !isHelper(in) }), err
}

func isHelper(in types.Instance) bool { return value(in.Tags, tagHelper) != "" }

// allInstances returns instances and helpers.
func (c *cloud) allInstances(ctx context.Context, t step.Tags) ([]types.Instance, error) {
	wanted := machine.Wanted(t)
	return gather(ctx, "list instances", ec2.NewDescribeInstancesPaginator(c.ec2, &ec2.DescribeInstancesInput{Filters: matching(t)}),
		func(page *ec2.DescribeInstancesOutput) (all []types.Instance) {
			for _, r := range page.Reservations {
				for _, in := range r.Instances {
					if have, ok := owner(in.Tags); ok && wanted(have) && in.InstanceId != nil && in.State != nil {
						all = append(all, in)
					}
				}
			}
			return all
		})
}

// terminate terminates an instance. It does not wait.
func (c *cloud) terminate(ctx context.Context, id string) error {
	_, err := c.ec2.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{id}})
	return failed("terminate instance "+id, err)
}

// isDead reports whether an instance is terminated or will be in a moment.
func isDead(in types.Instance) bool {
	return in.State.Name == types.InstanceStateNameTerminated || in.State.Name == types.InstanceStateNameShuttingDown
}

// byItself reports whether an instance shut itself down.
func byItself(in types.Instance) bool { return reasonCode(in) == "Client.InstanceInitiatedShutdown" }

// isResult reports whether a dead instance shut itself down, and no Destroy came since.
func isResult(in types.Instance) bool { return byItself(in) && value(in.Tags, tagEnded) == "" }

// close marks an instance that shut itself down: EC2 lists it for an hour, and the next Boot
// makes another.
func (c *cloud) close(ctx context.Context, id string) error {
	return c.tag(ctx, []types.Tag{tag(tagEnded, "yes")}, id)
}

// byEC2 reports whether EC2 itself ended an instance, as for lack of capacity.
func byEC2(in types.Instance) bool { return strings.HasPrefix(reasonCode(in), "Server.") }

// reasonCode returns the code of the reason why an instance ended, "" if EC2 gives none.
func reasonCode(in types.Instance) string {
	if in.StateReason == nil {
		return ""
	}
	return aws.ToString(in.StateReason.Code)
}

// gone reports whether an error of AWS says that the resource does not exist any more.
func gone(err error) bool {
	c := code(err)
	return strings.HasSuffix(c, ".NotFound") || c == "InvalidAMIID.Unavailable"
}

// The kinds of resources, as users read them.
const (
	kindInstance  = "instance"
	kindInterface = "network interface"
	kindVolume    = "volume"
	kindGroup     = "security group"
	kindKeyPair   = "key pair"
	kindHelper    = "helper instance"
	kindImage     = "AMI"
	kindSnapshot  = "snapshot"
	kindImport    = "import task"
	kindObject    = "object"
	kindUpload    = "unfinished upload"
)

// resource is a resource with Morgana's tags that is no instance.
type resource struct {
	kind, id string
	tags     []types.Tag
	created  time.Time
	// attached says that an instance has it. It goes with the instance.
	attached bool
	// place is that of the manifest of an S3-backed AMI.
	place string
}

func (r resource) String() string { return r.kind + " " + r.id }

// parts returns what rollouts of t's app, target and life have beside instances and images,
// in the order in which it can be removed.
func (c *cloud) parts(ctx context.Context, t step.Tags) ([]resource, error) {
	interfaces, err := gather(ctx, "list network interfaces",
		ec2.NewDescribeNetworkInterfacesPaginator(c.ec2, &ec2.DescribeNetworkInterfacesInput{Filters: matching(t)}),
		func(page *ec2.DescribeNetworkInterfacesOutput) (all []resource) {
			for _, n := range page.NetworkInterfaces {
				all = append(all, resource{kindInterface, aws.ToString(n.NetworkInterfaceId), n.TagSet, time.Time{}, n.Status != types.NetworkInterfaceStatusAvailable, ""})
			}
			return all
		})
	if err != nil {
		return nil, err
	}
	volumes, err := gather(ctx, "list volumes",
		ec2.NewDescribeVolumesPaginator(c.ec2, &ec2.DescribeVolumesInput{Filters: matching(t)}),
		func(page *ec2.DescribeVolumesOutput) (all []resource) {
			for _, v := range page.Volumes {
				if v.State == types.VolumeStateDeleting || v.State == types.VolumeStateDeleted {
					continue
				}
				all = append(all, resource{kindVolume, aws.ToString(v.VolumeId), v.Tags, aws.ToTime(v.CreateTime), v.State != types.VolumeStateAvailable, ""})
			}
			return all
		})
	if err != nil {
		return nil, err
	}
	groups, err := c.groups(ctx, matching(t)...)
	if err != nil {
		return nil, err
	}
	keys, err := c.keyPairs(ctx, matching(t)...)
	all := append(interfaces, volumes...)
	for _, k := range keys {
		all = append(all, resource{kindKeyPair, aws.ToString(k.KeyName), k.Tags, aws.ToTime(k.CreateTime), false, ""})
	}
	for _, g := range groups { // the last, because of tagMaking
		all = append(all, resource{kindGroup, aws.ToString(g.GroupId), g.Tags, time.Time{}, false, ""})
	}
	return all, err
}

func (c *cloud) groups(ctx context.Context, filters ...types.Filter) ([]types.SecurityGroup, error) {
	return gather(ctx, "list security groups", ec2.NewDescribeSecurityGroupsPaginator(c.ec2, &ec2.DescribeSecurityGroupsInput{Filters: filters}),
		func(page *ec2.DescribeSecurityGroupsOutput) []types.SecurityGroup { return page.SecurityGroups })
}

func (c *cloud) keyPairs(ctx context.Context, filters ...types.Filter) ([]types.KeyPairInfo, error) {
	out, err := c.ec2.DescribeKeyPairs(ctx, &ec2.DescribeKeyPairsInput{Filters: filters})
	if err != nil {
		return nil, failed("list key pairs", err)
	}
	return out.KeyPairs, nil
}

// images returns the account's own AMIs and snapshots of t's app, target and life. The AMIs
// come first: a snapshot cannot be deleted before its AMI is deregistered.
func (c *cloud) images(ctx context.Context, t step.Tags) ([]resource, error) {
	own := []string{"self"}
	images, err := gather(ctx, "list AMIs",
		ec2.NewDescribeImagesPaginator(c.ec2, &ec2.DescribeImagesInput{Owners: own, Filters: matching(t)}),
		func(page *ec2.DescribeImagesOutput) (all []resource) {
			for _, i := range page.Images {
				created, _ := time.Parse(time.RFC3339, aws.ToString(i.CreationDate)) // zero if there is none
				r := resource{kindImage, aws.ToString(i.ImageId), i.Tags, created, false, ""}
				if i.RootDeviceType == types.DeviceTypeInstanceStore {
					r.place = aws.ToString(i.ImageLocation)
				}
				all = append(all, r)
			}
			return all
		})
	if err != nil {
		return nil, err
	}
	snapshots, err := gather(ctx, "list snapshots",
		ec2.NewDescribeSnapshotsPaginator(c.ec2, &ec2.DescribeSnapshotsInput{OwnerIds: own, Filters: matching(t)}),
		func(page *ec2.DescribeSnapshotsOutput) (all []resource) {
			for _, s := range page.Snapshots {
				all = append(all, resource{kindSnapshot, aws.ToString(s.SnapshotId), s.Tags, aws.ToTime(s.StartTime), false, ""})
			}
			return all
		})
	return append(images, snapshots...), err
}
