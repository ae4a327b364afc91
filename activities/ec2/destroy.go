package ec2

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/step"
)

// ending is how long an instance may take to be terminated.
const ending = 10 * time.Minute

// Destroy terminates the instances whose tags match, with their volumes and network
// interfaces. An Elastic IP or a place in the target group first moves back to the newest
// other instance of the same life that had it. Then each AMI and snapshot loses its use by these
// rollouts; one that no rollout uses any more is removed. With KeepImage AMIs and snapshots
// stay as they are. Error.Left names what could not be removed; the rest is removed.
func (t *Target) Destroy(ctx context.Context, what step.Removal) (_ step.Destroyed, err error) {
	defer step.SetOp(fmt.Sprintf("destroy %s.%s", what.Spec.App, what.Spec.Target), &err)
	d := &destroy{Target: t, what: what}
	if err = d.run(ctx); err == nil {
		err = step.Leaving(d.err, d.left)
	}
	return d.done, err
}

// destroy is one call of Destroy.
type destroy struct {
	*Target
	what step.Removal
	s    settings
	c    *cloud
	done step.Destroyed
	left []string
	err  error // the first one
}

func (d *destroy) run(ctx context.Context) (err error) {
	spec := d.what.Spec
	// Without app and target the tags would match other deployments.
	if err := errors.Join(step.CheckName("app", spec.App), step.CheckName("target", spec.Target)); err != nil {
		return err
	}
	if d.c, d.s, err = reach(ctx, spec); err != nil || d.c == nil {
		return err
	}
	if err := d.instances(ctx); err != nil {
		return err
	}
	if err := d.parts(ctx); err != nil {
		return err
	}
	if d.what.KeepImage {
		return ctx.Err()
	}
	if err := d.imports(ctx); err != nil {
		d.note("the imports by bucket "+d.c.bucket, err)
	}
	images, err := d.c.images(ctx, spec.Tags)
	if err != nil {
		return err
	}
	removed := map[string]bool{}
	for _, r := range images {
		removed[r.id] = d.image(ctx, r)
	}
	if err := d.bundles(ctx, images, removed); err != nil {
		d.note("the bundles", err)
	}
	return ctx.Err()
}

// parts removes what is neither an instance nor an image. Other volumes that are attached
// end with their instance.
func (d *destroy) parts(ctx context.Context) error {
	parts, err := d.c.parts(ctx, d.what.Spec.Tags)
	if err != nil {
		return err
	}
	for _, r := range parts {
		made, ok := owner(r.tags)
		if !ok || !d.what.Match(made) || r.attached && value(r.tags, tagDigest) == "" {
			continue
		}
		d.note(r.String(), d.delete(ctx, r))
	}
	d.dropKeys(d.what.Match)
	return nil
}

// note records that a resource was removed or that it was not. A resource that another call
// has removed is neither.
func (d *destroy) note(what string, err error) {
	switch {
	case err == nil:
		d.done.Removed = append(d.done.Removed, what)
	case !gone(err):
		d.left = append(d.left, what)
		if d.err == nil {
			d.err = err
		}
	}
}

// instances terminates the instances and waits until they are terminated. It lists them
// again and again: EC2 may list one late.
func (d *destroy) instances(ctx context.Context) error {
	of := d.what.Spec.Tags
	of.Life, of.Generation = "", 0
	all, err := d.listed(ctx, of)
	if err != nil {
		return err
	}
	if err := d.moveBack(ctx, all); err != nil {
		for _, in := range all {
			if d.matches(in) && !isDead(in) {
				d.left = append(d.left, kindInstance+" "+aws.ToString(in.InstanceId))
			}
		}
		d.err = err
		return step.Leaving(d.err, d.left)
	}
	return d.end(ctx, all, func() ([]types.Instance, error) { return d.c.allInstances(ctx, of) })
}

// end terminates the instances among all that match, and lists them again until they are
// terminated.
func (d *destroy) end(ctx context.Context, all []types.Instance, list func() ([]types.Instance, error)) error {
	waiting := map[string]bool{} // ids; false: it cannot be terminated
	if d.terminate(ctx, all, waiting) {
		return nil
	}
	_, err := poll(ctx, ending, func() (bool, error) {
		all, err := list()
		return err == nil && d.terminate(ctx, all, waiting), err
	})
	if err != nil {
		return err
	}
	for id, is := range waiting {
		if is {
			d.note(kindInstance+" "+id, errors.New("EC2 has not terminated it within "+ending.String()))
		}
	}
	return nil
}

// listed lists the instances. If a rollout began to make something a moment ago, listed waits
// until EC2 lists it: the worker may have been killed before the answer.
func (d *destroy) listed(ctx context.Context, of step.Tags) (all []types.Instance, err error) {
	if err := d.awaitGroup(ctx); err != nil {
		return nil, err
	}
	if err := d.c.settle(ctx, d.limits.unlisted, "", d.what.Spec.Tags, d.what.Match); err != nil {
		return nil, err
	}
	return d.c.allInstances(ctx, of)
}

// terminate terminates the instances among all that match and are not terminated yet, and
// reports whether none is left. It keeps waiting up to date. With KeepImage it closes those
// that Boot would return as Ended.
func (d *destroy) terminate(ctx context.Context, all []types.Instance, waiting map[string]bool) (over bool) {
	living := map[string]bool{}
	for _, in := range all {
		id := aws.ToString(in.InstanceId)
		is := in.State.Name
		past := is == types.InstanceStateNameTerminated && (!d.what.KeepImage || !isResult(in))
		if wait, known := waiting[id]; !d.matches(in) || past || known && !wait {
			continue
		}
		step.Report(ctx, step.Progress{Note: "terminating " + id})
		living[id], waiting[id] = true, true
		end := d.c.terminate
		switch is {
		case types.InstanceStateNameShuttingDown:
			continue
		case types.InstanceStateNameTerminated:
			end = d.c.close
		}
		err := end(ctx, id)
		if is == types.InstanceStateNameTerminated && untaggable(err) {
			err = nil
		} else if err == nil || gone(err) {
			continue
		}
		d.note(kindInstance+" "+id, err)
		waiting[id] = false
	}
	over = true
	for id, wait := range waiting {
		if wait && !living[id] {
			d.note(kindInstance+" "+id, nil)
			delete(waiting, id)
		}
		over = over && (!wait || !living[id])
	}
	return over
}

// untaggable reports whether EC2 refuses a tag because of the state of the instance.
func untaggable(err error) bool {
	kind := step.KindOf(err)
	return gone(err) || strings.HasPrefix(code(err), "Incorrect") || kind.Final() && kind != step.Unauthorized
}

func (d *destroy) matches(in types.Instance) bool {
	have, ok := owner(in.Tags)
	return ok && d.what.Match(have)
}

// imports cancels the import tasks, and removes their objects and unfinished uploads. It
// comes before the snapshots: a task may have made one in the last moment.
func (d *destroy) imports(ctx context.Context) error {
	if d.c.bucket == "" || d.c.backing == backingBundle {
		return nil
	}
	tasks, err := d.c.importTasks(ctx)
	if err != nil {
		return err
	}
	for _, t := range tasks {
		if have, _ := owner(t.tags); !d.what.Match(have) {
			continue
		}
		step.Report(ctx, step.Progress{Note: "ending the import " + t.id})
		if err := d.c.endImport(ctx, t); err != nil || !t.over() {
			d.note(kindImport+" "+t.id, err)
		}
	}
	left, err := d.c.leftovers(ctx, d.what.Spec.Tags)
	for _, l := range left {
		if d.what.Match(l.of) {
			d.note(l.String(), d.c.drop(ctx, l))
		}
	}
	return err
}

// image ends the use of an AMI or snapshot by the rollouts, and removes it if it has no
// other user. It reports whether it is removed.
func (d *destroy) image(ctx context.Context, r resource) bool {
	made, ok := owner(r.tags)
	if !ok {
		return false
	}
	using := users(r.tags)
	if len(using) == 0 { // half made
		using = []step.Tags{made}
	}
	var mine []types.Tag
	for _, u := range using {
		if use, err := useTag(u); err == nil && d.what.Match(u) {
			mine = append(mine, types.Tag{Key: use.Key})
		}
	}
	if len(mine) == 0 {
		return false
	}
	if len(mine) == len(using) {
		step.Report(ctx, step.Progress{Note: "removing " + r.String()})
		if err := d.delete(ctx, r); !errors.Is(err, errUsed) {
			d.note(r.String(), err)
			return err == nil || gone(err)
		}
	}
	_, err := d.c.ec2.DeleteTags(ctx, &ec2.DeleteTagsInput{Resources: []string{r.id}, Tags: mine})
	d.note("the use of "+r.String(), failed("untag "+r.String(), err))
	return false
}

// errUsed says that other rollouts use a snapshot, though it did not have their tags.
var errUsed = errors.New("other rollouts use it")

// delete removes a resource.
func (d *destroy) delete(ctx context.Context, r resource) error {
	id := aws.String(r.id)
	var err error
	switch r.kind {
	case kindInterface:
		_, err = d.c.ec2.DeleteNetworkInterface(ctx, &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: id})
	case kindVolume:
		return d.free(ctx, r, func() error {
			_, err := d.c.ec2.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: id})
			return err
		})
	case kindGroup:
		return d.free(ctx, r, func() error {
			_, err := d.c.ec2.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: id})
			return err
		})
	case kindKeyPair:
		_, err = d.c.ec2.DeleteKeyPair(ctx, &ec2.DeleteKeyPairInput{KeyName: id})
	case kindImage:
		_, err = d.c.ec2.DeregisterImage(ctx, &ec2.DeregisterImageInput{ImageId: id})
	case kindSnapshot:
		return d.deleteSnapshot(ctx, r)
	}
	return failed("remove "+r.String(), err)
}

// free removes what an instance may have for a moment after its end.
func (d *destroy) free(ctx context.Context, r resource, remove func() error) error {
	var err error
	limit := visible
	if len(d.left) > 0 { // the instance may be there
		limit = 0
	}
	if _, waited := poll(ctx, limit, func() (bool, error) {
		err = remove()
		return code(err) != "VolumeInUse" && code(err) != "DependencyViolation", nil
	}); waited != nil {
		return waited
	}
	return failed("remove "+r.String(), err)
}

// deleteSnapshot removes a snapshot. It is in use until EC2 has noticed that its AMI is gone.
// An AMI that somebody else made of it is a Conflict. From an AMI that stays, because other
// rollouts use it, the snapshot gets their tags: the call that tagged both was cut off.
func (d *destroy) deleteSnapshot(ctx context.Context, r resource) error {
	var err error
	_, waited := poll(ctx, visible, func() (bool, error) {
		_, err = d.c.ec2.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{SnapshotId: aws.String(r.id)})
		if code(err) != "InvalidSnapshot.InUse" {
			return true, nil
		}
		// A page may be empty and not the last.
		images, err := gather(ctx, "look up the AMIs of "+r.id, ec2.NewDescribeImagesPaginator(d.c.ec2, &ec2.DescribeImagesInput{
			Owners: []string{"self"}, Filters: []types.Filter{filter("block-device-mapping.snapshot-id", r.id)}}),
			func(page *ec2.DescribeImagesOutput) []types.Image { return page.Images })
		if err != nil {
			return false, err
		}
		for _, i := range images {
			id := aws.ToString(i.ImageId)
			if _, ours := owner(i.Tags); !ours || slices.Contains(d.left, kindImage+" "+id) {
				return false, &step.Error{Kind: step.Conflict, Op: "remove " + r.String(), Err: fmt.Errorf("it is in use by AMI %s", id), Hint: "deregister that AMI first"}
			}
			var others []types.Tag
			for _, u := range users(i.Tags) {
				if use, err := useTag(u); err == nil && !d.what.Match(u) {
					others = append(others, use)
				}
			}
			if len(others) > 0 {
				return false, cmp.Or(d.c.tag(ctx, others, r.id), errUsed)
			}
		}
		return false, nil
	})
	if waited != nil {
		return waited
	}
	if err == nil || gone(err) {
		d.dropSent(r.id)
	}
	return failed("remove "+r.String(), err)
}
