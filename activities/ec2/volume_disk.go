package ec2

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/step"
)

// volumes lists the rollout's volumes for this image, the written one and then the oldest
// first. Those in state error, or that are being deleted, are not among them.
func (d *dance) volumes(ctx context.Context) ([]types.Volume, error) {
	all, err := gather(ctx, "list volumes", ec2.NewDescribeVolumesPaginator(d.cloud.ec2, &ec2.DescribeVolumesInput{
		Filters: append(matching(d.img.Spec.Tags), filter("tag:"+tagDigest, d.digest))}),
		func(page *ec2.DescribeVolumesOutput) []types.Volume { return page.Volumes })
	all = slices.DeleteFunc(all, func(v types.Volume) bool { made, _ := owner(v.Tags); return made != d.img.Spec.Tags })
	usable := []types.VolumeState{types.VolumeStateCreating, types.VolumeStateAvailable, types.VolumeStateInUse}
	d.unusable = 0
	all = slices.DeleteFunc(all, func(v types.Volume) bool {
		if slices.Contains(usable, v.State) {
			return false
		}
		d.unusable++
		return true
	})
	slices.SortFunc(all, func(a, b types.Volume) int {
		return cmp.Or(strings.Compare(value(b.Tags, tagWritten), value(a.Tags, tagWritten)),
			aws.ToTime(a.CreateTime).Compare(aws.ToTime(b.CreateTime)), cmp.Compare(*a.VolumeId, *b.VolumeId))
	})
	return all, err
}

// volume returns the rollout's volume of an id, the first if that is empty. The volume has no id
// if EC2 lists none.
func (d *dance) volume(ctx context.Context, id string) (types.Volume, error) {
	all, err := d.volumes(ctx)
	for _, v := range all {
		if id == "" || *v.VolumeId == id {
			return v, nil
		}
	}
	return types.Volume{}, err
}

// createVolume makes the volume in a zone. EC2 remembers the tokens of the volumes that cannot
// be used, and of deleted ones: it answers with their ids, but does not list them.
func (d *dance) createVolume(ctx context.Context, zone string) (id *string, err error) {
	step.Report(ctx, step.Progress{Note: "making a volume in " + zone})
	err = d.make(ctx, kindVolume, func() error {
		first := d.unusable
		for n := range maxAttempts {
			in, err := d.volumeInput(zone, first+n)
			if err != nil {
				return err
			}
			out, err := d.cloud.ec2.CreateVolume(ctx, in)
			if code(err) == "IdempotentParameterMismatch" {
				continue
			}
			if err != nil {
				return failed("make a volume", err)
			}
			id = out.VolumeId
			listed, err := poll(ctx, d.limits.unlisted, func() (bool, error) {
				v, err := d.volume(ctx, *id)
				return v.VolumeId != nil, err
			})
			if listed || err != nil {
				return err
			}
		}
		return fmt.Errorf("%d volumes of this rollout were deleted", maxAttempts)
	})
	return id, err
}

func (d *dance) volumeInput(zone string, attempt int) (*ec2.CreateVolumeInput, error) {
	token, err := d.img.Spec.Token(fmt.Sprintf("volume %d %s %s", attempt, zone, d.digest))
	in := &ec2.CreateVolumeInput{AvailabilityZone: &zone, ClientToken: &token, Size: aws.Int32(int32(d.ami.gibibytes())), //nolint:gosec // at most 16 Ti
		VolumeType: types.VolumeTypeGp3, TagSpecifications: tagged(d.plain(tag(tagDigest, d.digest)), types.ResourceTypeVolume)}
	if d.ami.Encrypted {
		in.Encrypted = aws.Bool(true)
	}
	return in, err
}

// attach attaches a volume to the helper. One that is attached to an earlier helper is free
// when that has ended.
func (d *dance) attach(ctx context.Context, id, helper string) error {
	step.Report(ctx, step.Progress{Note: "attaching " + id + " to " + helper})
	return d.await(ctx, "attached "+id, func() (bool, error) {
		v, err := d.volume(ctx, id)
		switch {
		case err != nil:
			return false, err
		case len(v.Attachments) > 0:
			a := v.Attachments[0]
			return aws.ToString(a.InstanceId) == helper && a.State == types.VolumeAttachmentStateAttached, nil
		case v.State != types.VolumeStateAvailable:
			return false, nil
		}
		_, err = d.cloud.ec2.AttachVolume(ctx, &ec2.AttachVolumeInput{VolumeId: &id, InstanceId: &helper, Device: aws.String(volumeDevice)})
		if c := code(err); err == nil || c == "VolumeInUse" || c == "InvalidVolume.NotFound" {
			return false, nil // the list will tell
		}
		return false, ofHelper(unseen("attach "+id, err)) // the helper may have ended: the next try makes another
	})
}

// detach detaches a volume, unless it is free. A helper whose volume is not detached in time is
// terminated, which frees the volume.
func (d *dance) detach(ctx context.Context, id string) error {
	step.Report(ctx, step.Progress{Note: "detaching " + id})
	asked, dismissed, began := false, false, time.Now()
	return d.await(ctx, "detached "+id, func() (bool, error) {
		v, err := d.volume(ctx, id)
		if err != nil || v.State == types.VolumeStateAvailable {
			return err == nil, err
		}
		if !dismissed && time.Since(began) >= d.limits.detached {
			dismissed = true
			return false, d.dismiss(ctx)
		}
		if asked || len(v.Attachments) == 0 {
			return false, nil
		}
		_, err = d.cloud.ec2.DetachVolume(ctx, &ec2.DetachVolumeInput{VolumeId: &id})
		if err != nil && !gone(err) && code(err) != "IncorrectState" {
			return false, failed("detach "+id, err)
		}
		asked = true
		return false, nil
	})
}

// await polls until EC2 has done something.
func (d *dance) await(ctx context.Context, what string, ask func() (bool, error)) error {
	done, err := poll(ctx, ending, ask)
	if err == nil && !done {
		err = fmt.Errorf("EC2 has not %s within %s", what, ending)
	}
	return err
}

// discard deletes a volume.
func (d *dance) discard(ctx context.Context, id string) error {
	if err := d.detach(ctx, id); err != nil {
		return err
	}
	_, err := d.cloud.ec2.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: &id})
	if err != nil && !gone(err) {
		return failed("delete "+id, err)
	}
	return nil
}
