package ec2

import (
	"context"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/step"
)

// dance makes a snapshot as the guides of MirageOS did by hand: a helper, which is an
// instance of Linux, writes the disk to a volume, and EC2 makes a snapshot of that.
//
// Each act adopts what an earlier try made, which it finds by the tags. So a try goes on at
// the act where the last one was cut off.
type dance struct {
	*registering
	keys *helperKeys
	// group is the id of the security group, "" if there is none. Its tags say what the
	// dance is about to make: see [making].
	group string
	// unusable is how many listed volumes of the rollout cannot be used.
	unusable int
}

// volumeDevice is the name of the volume on the helper, as the guides have it.
const volumeDevice = "/dev/sdh"

// danced returns a completed snapshot of the image that a dance made.
func (r *registering) danced(ctx context.Context, f found) (id string, err error) {
	if err := f.tooBroken(); err != nil {
		return "", err
	}
	d := &dance{registering: r}
	if f.begun == nil && f.done == nil { // CreateSnapshot has no client token
		if err := r.cloud.settle(ctx, r.limits.unlisted, kindSnapshot, r.img.Spec.Tags, r.img.Spec.Match); err != nil {
			return "", err
		}
		if f, err = r.find(ctx); err != nil {
			return "", err
		}
	}
	switch {
	case f.done != nil:
		return *f.done.SnapshotId, nil
	case f.begun != nil:
		id = *f.begun.SnapshotId
	default:
		if id, err = d.take(ctx); err != nil {
			return "", err
		}
	}
	if err := d.dismiss(ctx); err != nil { // it costs money, and the snapshot may take minutes
		return "", err
	}
	return id, r.awaitSnapshot(ctx, id)
}

// dropSpares removes the rollout's other snapshots of the image. EC2 may have listed one of them
// so late that another was made.
func (r *registering) dropSpares(ctx context.Context, id string) error {
	f, err := r.find(ctx)
	for _, s := range f.all {
		made, _ := owner(s.Tags)
		shared := slices.ContainsFunc(users(s.Tags), func(u step.Tags) bool { return u != made })
		if err == nil && *s.SnapshotId != id && made == r.img.Spec.Tags && value(s.Tags, tagDigest) == r.digest && !shared {
			if err = r.remove(ctx, *s.SnapshotId); code(err) == "InvalidSnapshot.InUse" { // by an AMI
				err = nil
			}
		}
	}
	return err
}

// take begins a snapshot of a volume that has the image.
func (d *dance) take(ctx context.Context) (string, error) {
	v, err := d.volume(ctx, "")
	if err == nil && value(v.Tags, tagWritten) == "" {
		v, err = d.fill(ctx, v)
	}
	if err == nil {
		err = d.detach(ctx, *v.VolumeId)
	}
	if err == nil && d.group == "" {
		err = d.findGroup(ctx)
	}
	if err != nil {
		return "", err
	}
	var id string
	err = d.make(ctx, kindSnapshot, func() error {
		out, err := d.cloud.ec2.CreateSnapshot(ctx, &ec2.CreateSnapshotInput{VolumeId: v.VolumeId, Description: aws.String("morgana " + d.folder),
			TagSpecifications: tagged(d.tags, types.ResourceTypeSnapshot)})
		if err != nil {
			return unseen("make a snapshot of "+*v.VolumeId, err)
		}
		id = aws.ToString(out.SnapshotId)
		return nil
	})
	return id, err
}

// fill writes the image to a volume, or to a new one if v has no id.
func (d *dance) fill(ctx context.Context, v types.Volume) (_ types.Volume, err error) {
	if d.keys, err = d.openKeys(ctx, d.folder); err != nil { // before all that may refuse: see [destroy.awaitGroup]
		return v, err
	}
	nets, err := d.cloud.helperNets(ctx, d.options)
	if err != nil {
		return v, err
	}
	group, err := d.securityGroup(ctx, nets[0].vpc)
	if err != nil {
		return v, err
	}
	d.group = aws.ToString(group.GroupId)
	if err := d.keyPair(ctx); err != nil {
		return v, err
	}
	helper, err := d.helper(ctx, nets, aws.ToString(v.AvailabilityZone))
	if err != nil {
		return v, err
	}
	if err := d.admit(ctx, group, helper); err != nil {
		return v, err
	}
	zone := aws.ToString(helper.Placement.AvailabilityZone)
	if v.VolumeId != nil && aws.ToString(v.AvailabilityZone) != zone {
		// The zone of an earlier helper had no capacity for another one.
		if err := d.discard(ctx, *v.VolumeId); err != nil {
			return v, err
		}
		v = types.Volume{}
	}
	fresh := v.VolumeId == nil
	if fresh {
		if v.VolumeId, err = d.createVolume(ctx, zone); err != nil {
			return v, err
		}
	}
	if err := d.attach(ctx, *v.VolumeId, *helper.InstanceId); err != nil {
		return v, err
	}
	if err := d.write(ctx, helper, *v.VolumeId, fresh); err != nil {
		return v, err
	}
	return v, d.cloud.tag(ctx, []types.Tag{tag(tagWritten, "yes")}, *v.VolumeId)
}

// plain returns the tags of what the dance makes, without those of an image, and more.
func (d *dance) plain(more ...types.Tag) []types.Tag {
	own, _ := tagsOf(d.img.Spec.Tags) // prepare has called it
	return append(own, more...)
}

// dismiss begins to terminate the rollout's helpers.
func (d *dance) dismiss(ctx context.Context) error {
	all, err := d.cloud.helpers(ctx, d.img.Spec.Tags)
	for _, in := range all {
		if err == nil && !isDead(in) {
			if err = d.cloud.terminate(ctx, *in.InstanceId); gone(err) {
				err = nil
			}
		}
	}
	return err
}

// tidy removes what the dance made beside the snapshot. [Target.Destroy] does the same for a
// dance that did not come to its end.
func (r *registering) tidy(ctx context.Context) error {
	step.Report(ctx, step.Progress{Note: "removing the helper"})
	list := func() ([]types.Instance, error) { return r.cloud.helpers(ctx, r.img.Spec.Tags) }
	all, err := list()
	if err != nil {
		return err
	}
	d := &destroy{Target: r.Target, c: r.cloud, what: step.Removal{Spec: r.img.Spec}}
	if err := d.end(ctx, all, list); err != nil {
		return err
	}
	if err := d.parts(ctx); err != nil {
		return err
	}
	return d.err
}
