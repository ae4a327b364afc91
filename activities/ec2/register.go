package ec2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// registering is one call of Register.
type registering struct {
	*Target
	cloud   *cloud
	img     step.Image
	options Options
	digest  string // of the AMI
	folder  string // the rollout's name
	ami     ami
	tags    []types.Tag // of a snapshot and of an AMI
	use     types.Tag   // is one of tags
	limits  limits
}

// backings make a completed snapshot of the image and return its id. None of the snapshots
// that are found has the whole image. A try adopts what an earlier try made.
var backings = map[string]func(r *registering, ctx context.Context, f found) (id string, err error){
	backingDirect: (*registering).send,
	backingImport: (*registering).imported,
	backingVolume: (*registering).danced,
}

// Register makes a snapshot or a bundle of the disk and an AMI of it. If a rollout of this
// life has made them of the same image, it adopts them and sends nothing. An upload that
// was cut off goes on, and a snapshot of an earlier image of this life is its parent: only
// blocks that differ are sent.
//
// Errors: Unauthorized names the missing permission. Conflict: another AMI of the account
// has the name.
func (t *Target) Register(ctx context.Context, img step.Image) (_ step.Registration, err error) {
	defer step.SetOp("register image", &err)
	reg := step.Registration{Spec: img.Spec, Digest: img.Digest}
	if err := img.Valid(); err != nil {
		return reg, err
	}
	if got := step.DigestOf(img.Files); got != img.Digest {
		return reg, step.Invalid("digest", "deploy again", "the image's files have digest %s, not %s", got, img.Digest)
	}
	r := &registering{Target: t, img: img, digest: machine.ContentDigest(img), limits: t.limits}
	if err := r.prepare(ctx); err != nil {
		return reg, err
	}
	found, err := r.images(ctx, append(matching(img.Spec.Tags), filter("tag:"+tagDigest, r.digest), filter("state", "available", "pending"))...)
	if err != nil {
		return reg, err
	}
	if reg.Adopted = len(found) > 0; reg.Adopted {
		reg.ID = aws.ToString(found[0].ImageId)
		var ids []string
		for _, m := range found[0].BlockDeviceMappings {
			if m.Ebs != nil && m.Ebs.SnapshotId != nil {
				ids = append(ids, *m.Ebs.SnapshotId)
			}
		}
		if err := r.adopt(ctx, append(ids, reg.ID)...); err != nil {
			return reg, err
		}
	} else {
		var snapshot, bundle string
		if r.options.Backing == backingBundle {
			bundle, err = r.bundled(ctx)
		} else {
			snapshot, err = r.snapshot(ctx)
		}
		if err != nil {
			return reg, err
		}
		if reg.ID, reg.Adopted, err = r.image(ctx, snapshot, bundle); err != nil {
			return reg, err
		}
	}
	if err := r.available(ctx, reg.ID); err != nil {
		return reg, err
	}
	switch r.options.Backing { // an earlier try may have left something, also if the AMI is another rollout's
	case backingImport:
		err = r.cloud.sweep(ctx, r.img.Spec.Tags)
	case backingVolume:
		err = r.tidy(ctx)
	}
	return reg, err
}

// prepare reads the image's ami.json and opens the account.
func (r *registering) prepare(ctx context.Context) error {
	s, err := read(r.img.Spec.Options)
	if err != nil {
		return err
	}
	r.options = s.Options
	if r.folder, err = r.img.Spec.Folder(); err != nil {
		return err
	}
	if r.tags, err = tagsOf(r.img.Spec.Tags); err != nil {
		return err
	}
	if r.use, err = useTag(r.img.Spec.Tags); err != nil {
		return err
	}
	r.tags = append(r.tags, tag(tagDigest, r.digest), r.use)
	for _, name := range []string{packedDisk, blocksFile} {
		if _, ok := step.FileNamed(r.img.Files, name); !ok {
			return step.Invalid("", "only images of the ec2 target can be registered here", "the image has no %s", name)
		}
	}
	b, err := r.machines.Part(ctx, r.img, amiFile)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &r.ami); err != nil {
		return step.Invalid("", "deploy again", "the image's file %s: %w", amiFile, err)
	}
	if a := r.ami; a.Architecture == "" || a.Virtualization != virtHVM && a.Virtualization != virtPV || a.Size <= 0 {
		return step.Invalid("", "deploy again", "the image's file %s lacks the architecture, the virtualization or the size", amiFile)
	}
	step.Report(ctx, step.Progress{Note: "asking EC2 for the image"})
	if r.cloud, err = open(ctx, s); err == nil {
		err = r.cloud.own(ctx)
	}
	return err
}

// file returns a file of the image. prepare has seen that it is there.
func (r *registering) file(name string) step.Artifact {
	a, _ := step.FileNamed(r.img.Files, name)
	return a
}

// images lists the account's AMIs that the filters find.
func (r *registering) images(ctx context.Context, filters ...types.Filter) ([]types.Image, error) {
	return gather(ctx, "list AMIs", ec2.NewDescribeImagesPaginator(r.cloud.ec2, &ec2.DescribeImagesInput{Owners: []string{"self"}, Filters: filters}),
		func(page *ec2.DescribeImagesOutput) []types.Image { return page.Images })
}

// adopt adds the rollout's use to resources. It does so whatever tags they have: an earlier
// call may have tagged some of them only.
func (r *registering) adopt(ctx context.Context, ids ...string) error {
	return r.cloud.tag(ctx, []types.Tag{r.use}, ids...)
}

// image registers an AMI of a snapshot, or of a bundle, which is the place of its manifest.
// RegisterImage has no client token. If its answer was lost, the name is taken, by an AMI
// with our tags.
func (r *registering) image(ctx context.Context, snapshot, bundle string) (id string, adopted bool, err error) {
	step.Report(ctx, step.Progress{Note: "registering the image"})
	name := fmt.Sprintf("morgana/%s/%.12s", r.folder, r.digest)
	in := &ec2.RegisterImageInput{
		Name: &name, Description: aws.String("made by morgana"),
		// AWS's defaults are i386 and paravirtual.
		Architecture: types.ArchitectureValues(r.ami.Architecture), VirtualizationType: &r.ami.Virtualization,
		BootMode: types.BootModeValues(r.ami.BootMode), RootDeviceName: aws.String(r.ami.rootDevice()),
		BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String(r.ami.rootDevice()),
			Ebs: &types.EbsBlockDevice{SnapshotId: &snapshot, DeleteOnTermination: aws.Bool(true), VolumeType: types.VolumeTypeGp3}}},
		TagSpecifications: tagged(r.tags, types.ResourceTypeImage),
	}
	if bundle != "" {
		in.ImageLocation, in.RootDeviceName, in.BlockDeviceMappings = &bundle, nil, nil
	}
	if r.ami.KernelID != "" {
		in.KernelId = &r.ami.KernelID
	}
	if r.ami.Virtualization == virtHVM {
		in.EnaSupport = aws.Bool(true) // without it Nitro types refuse the AMI
	}
	out, err := r.cloud.ec2.RegisterImage(ctx, in)
	switch {
	case err == nil:
		return aws.ToString(out.ImageId), false, nil
	case code(err) != "InvalidAMIName.Duplicate":
		return "", false, unseen("register "+name, err)
	}
	var found []types.Image
	there, err := poll(ctx, visible, func() (bool, error) {
		var err error
		found, err = r.images(ctx, filter("name", name))
		return len(found) > 0, err
	})
	if err == nil && !there {
		err = errors.New("EC2 says that the name " + name + " is taken, but lists no such AMI yet")
	}
	if err != nil {
		return "", false, err
	}
	id = aws.ToString(found[0].ImageId)
	if made, ok := owner(found[0].Tags); !ok || !r.img.Spec.Match(made) || value(found[0].Tags, tagDigest) != r.digest {
		return "", false, &step.Error{Kind: step.Conflict, Err: fmt.Errorf("the AMI %s, which morgana did not make, has the name %s", id, name),
			Hint: "deregister it or deploy under another app name; morgana never changes it"}
	}
	return id, true, nil
}

// available waits until an AMI can be used.
func (r *registering) available(ctx context.Context, id string) error {
	var state types.ImageState
	ok, err := poll(ctx, visible, func() (bool, error) {
		out, err := r.cloud.ec2.DescribeImages(ctx, &ec2.DescribeImagesInput{ImageIds: []string{id}})
		switch {
		case gone(err):
			return false, nil
		case err != nil:
			return false, failed("describe "+id, err)
		case len(out.Images) == 0:
			return false, nil
		}
		if state = out.Images[0].State; state == types.ImageStateFailed || state == types.ImageStateInvalid || state == types.ImageStateError {
			why := ""
			if reason := out.Images[0].StateReason; reason != nil {
				why = ": " + aws.ToString(reason.Message)
			}
			return false, &step.Error{Kind: step.Conflict, Err: fmt.Errorf("EC2 could not make the AMI %s%s", id, why), Hint: "destroy this rollout and deploy again"}
		}
		return state == types.ImageStateAvailable, nil
	})
	if err == nil && !ok {
		err = fmt.Errorf("the AMI %s is not available after %s, its state is %q", id, visible.Round(time.Second), state)
	}
	return err
}
