package ec2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/ec2lab"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// dancer is a registry whose images are made by dances. Without a hypervisor nobody answers
// at a helper's address, so a dance ends there, until the test says by a tag that the volume
// is written.
type dancer struct {
	*registry
	img step.Image
}

func newDancer(t testing.TB) *dancer {
	t.Helper()
	return newDancerOn(t, nil)
}

func newDancerOn(t testing.TB, h ec2lab.Hypervisor) *dancer {
	t.Helper()
	d := &dancer{registry: newRegistryOn(t, h)}
	d.img = d.dancing(d.image(1, few, fewContent, nil), `{"type":"t3.micro","user":"ec2-user"}`)
	return d
}

// dancing makes the backing of an image volume.
func (r *registry) dancing(img step.Image, helper string) step.Image {
	img.Spec.Options = bytes.Replace(img.Spec.Options, []byte(`"backing":"direct"`), []byte(`"backing":"volume","helper":`+helper), 1)
	return img
}

// hasty is a target that does not wait long.
func hasty(site step.Site) *Target {
	t := New(site)
	t.limits.reach, t.limits.grace, t.limits.unlisted, t.limits.detached = time.Millisecond, time.Millisecond, 500*time.Millisecond, time.Minute
	return t
}

// try registers the image, with as many tries as Temporal would make, and returns the final
// error.
func (d *dancer) try(ctx context.Context) (reg step.Registration, err error) {
	d.Helper()
	for range 20 {
		if reg, err = hasty(d.site).Register(ctx, d.img); err == nil || step.KindOf(err).Final() || ctx.Err() != nil {
			return reg, err
		}
		d.Logf("try again: %v", err)
	}
	d.Fatal("register does not end")
	panic("unreachable")
}

// closed fails unless err says that the helper's ssh does not answer.
func (d *dancer) closed(err error) {
	d.Helper()
	var e *step.Error
	if !errors.As(err, &e) || e.Kind != step.NotFound || e.Field != "helper.subnet" || !strings.Contains(err.Error(), "could not reach port 22 of i-") {
		d.Fatalf("not closed: %v", err)
	}
}

// written says that the volume has the image.
func (d *dancer) written() {
	d.Helper()
	all := d.mine().volumes
	if len(all) != 1 {
		d.Fatalf("%d volumes", len(all))
	}
	_, err := d.cloud.ec2.CreateTags(d.Context(), &ec2.CreateTagsInput{Resources: []string{*all[0].VolumeId}, Tags: []types.Tag{tag(tagWritten, "yes")}})
	no(d, err)
}

// things are what a dance has made beside the image.
type things struct {
	helpers []types.Instance // that live
	volumes []types.Volume
	groups  []types.SecurityGroup
	pairs   []types.KeyPairInfo
}

func (d *dancer) mine() (t things) {
	d.Helper()
	helpers, err := d.cloud.helpers(d.Context(), d.img.Spec.Tags)
	no(d, err)
	t.helpers = slices.DeleteFunc(helpers, isDead)
	if t.groups, err = d.cloud.groups(d.Context(), matching(d.img.Spec.Tags)...); err != nil {
		d.Fatal(err)
	}
	if t.pairs, err = d.cloud.keyPairs(d.Context(), matching(d.img.Spec.Tags)...); err != nil {
		d.Fatal(err)
	}
	dance := &dance{registering: &registering{cloud: d.cloud, img: d.img, digest: machine.ContentDigest(d.img)}}
	if t.volumes, err = dance.volumes(d.Context()); err != nil {
		d.Fatal(err)
	}
	return t
}

// once fails unless there is one of each.
func (d *dancer) once() {
	d.Helper()
	if t := d.mine(); len(t.helpers) != 1 || len(t.volumes) != 1 || len(t.groups) != 1 || len(t.pairs) != 1 {
		d.Errorf("there are %d helpers, %d volumes, %d security groups, %d key pairs", len(t.helpers), len(t.volumes), len(t.groups), len(t.pairs))
	}
}

// alone fails unless the AMI and its snapshot are all that there is, and no keys.
func (d *dancer) alone() {
	d.Helper()
	if made := d.made(); !slices.Equal(made, oneOfEach) {
		d.Errorf("made %q", made)
	}
	if left := len(d.lab.Resources()) - len(d.before); left != len(oneOfEach) {
		d.Errorf("left: %q, before: %q", d.lab.Resources(), d.before)
	}
	if keys, err := filepath.Glob(filepath.Join(d.site.State, Kind, "helpers")); err != nil || len(keys) > 0 {
		d.Errorf("left on the host: %q, %v", keys, err)
	}
}

// destroyed fails unless Destroy removes all.
func (d *dancer) destroyed(keepImage bool) {
	d.Helper()
	var err error
	for range 10 {
		_, err = hasty(d.site).Destroy(d.Context(), step.Removal{Spec: d.img.Spec, KeepImage: keepImage})
		if err == nil || step.KindOf(err).Final() {
			break
		}
	}
	no(d, err)
	if !keepImage {
		d.as(d.before)
	}
}

// TestVolumeActs does the acts in their order, and each once.
func TestVolumeActs(t *testing.T) {
	environ(t)
	d := newDancer(t)
	_, err := d.try(t.Context())
	d.closed(err)
	d.once()
	m := d.mine()
	helper, v, g := m.helpers[0], m.volumes[0], m.groups[0]
	if len(v.Attachments) != 1 || aws.ToString(v.Attachments[0].InstanceId) != *helper.InstanceId || aws.ToString(v.AvailabilityZone) != *helper.Placement.AvailabilityZone {
		t.Errorf("the volume is %+v", v)
	}
	if len(g.IpPermissions) != 1 || aws.ToInt32(g.IpPermissions[0].FromPort) != 22 || aws.ToInt32(g.IpPermissions[0].ToPort) != 22 || len(g.IpPermissions[0].IpRanges) != 1 ||
		aws.ToString(g.IpPermissions[0].IpRanges[0].CidrIp) != "127.0.0.1/32" {
		t.Errorf("the security group lets in %+v", g.IpPermissions)
	}
	if len(helper.SecurityGroups) != 1 || aws.ToString(helper.SecurityGroups[0].GroupId) != *g.GroupId || aws.ToString(helper.KeyName) != *m.pairs[0].KeyName {
		t.Errorf("the helper is %+v", helper)
	}
	d.written()
	reg, err := d.try(t.Context())
	no(t, err)
	d.alone()
	var acts []string
	for _, c := range d.lab.Calls() {
		if c.Code == "" && !strings.HasPrefix(c.Name, "Describe") && c.Name != "GetCallerIdentity" && c.Name != "CreateTags" {
			acts = append(acts, c.Name)
		}
	}
	if want := []string{"CreateSecurityGroup", "ImportKeyPair", "RunInstances", "AuthorizeSecurityGroupIngress", "CreateVolume", "AttachVolume", "DetachVolume", "CreateSnapshot",
		"TerminateInstances", "RegisterImage", "DeleteVolume", "DeleteKeyPair", "DeleteSecurityGroup"}; !slices.Equal(acts, want) {
		t.Errorf("the acts are %q, not %q", acts, want)
	}
	got, _ := d.ami(reg.ID)
	if made, _ := owner(got.Tags); made != d.img.Spec.Tags {
		t.Errorf("the AMI has the tags %v", got.Tags)
	}
	// Another generation makes nothing, and the backing does not matter.
	before := len(d.lab.Calls())
	d.img.Spec.Generation = 2
	again, err := d.try(t.Context())
	if err != nil || again.ID != reg.ID || !again.Adopted {
		t.Errorf("again: %+v, %v", again, err)
	}
	for _, c := range d.lab.Calls()[before:] {
		if !strings.HasPrefix(c.Name, "Describe") && c.Name != "GetCallerIdentity" && c.Name != "CreateTags" {
			t.Errorf("the second generation calls %s", c.Name)
		}
	}
	d.img.Spec.Generation = 0
	d.destroyed(false)
}

// The calls of a dance before and after its ssh.
var (
	firstCalls = []string{"CreateSecurityGroup", "ImportKeyPair", "CreateTags", "RunInstances", "AuthorizeSecurityGroupIngress", "CreateVolume", "AttachVolume"}
	lastCalls  = []string{"DetachVolume", "CreateTags", "CreateSnapshot", "TerminateInstances", "DeleteVolume", "DeleteKeyPair", "DeleteSecurityGroup", "RegisterImage"}
)

// TestVolumeFaults makes one of each and leaves nothing, whatever answer is lost.
func TestVolumeFaults(t *testing.T) {
	environ(t)
	type fault struct {
		call string
		last bool
		lose ec2lab.Lose
		hide time.Duration
	}
	var all []fault
	for _, lose := range []ec2lab.Lose{ec2lab.Before, ec2lab.After} {
		for i, call := range slices.Concat(firstCalls, lastCalls) {
			all = append(all, fault{call, i >= len(firstCalls), lose, 0})
			if lose == ec2lab.After && !testing.Short() {
				all = append(all, fault{call, i >= len(firstCalls), lose, 300 * time.Millisecond})
			}
		}
	}
	for _, f := range all {
		t.Run(fmt.Sprintf("%s %v %d hidden for %s", f.call, f.last, f.lose, f.hide), func(t *testing.T) {
			t.Parallel()
			d := newDancer(t)
			lose := func() { d.lab.Fault(ec2lab.Fault{Call: f.call, Lose: f.lose}) }
			d.lab.Hide(f.hide)
			if !f.last {
				lose()
			}
			_, err := d.try(t.Context())
			d.closed(err)
			time.Sleep(f.hide)
			d.once()
			d.written()
			if f.last {
				lose()
			}
			no(t, failure(d.try(t.Context())))
			time.Sleep(f.hide)
			d.alone()
			if !slices.ContainsFunc(d.lab.Calls(), func(c ec2lab.Call) bool { return c.Name == f.call && c.Code == "lost" }) {
				t.Errorf("%s was not lost", f.call)
			}
			d.destroyed(false)
		})
	}
}
