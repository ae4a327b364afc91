package ec2

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/ec2lab"
	"github.com/morgana-deploy/morgana/step"
)

// List and the lab agree on what there is.
func TestList(t *testing.T) {
	environ(t)
	b := newBench(t)
	b.use(2)
	b.boot(1)
	b.boot(2)
	all, err := New(b.site).List(t.Context(), step.Spec{Options: b.spec.Options})
	no(t, err)
	var ids, want []string
	for _, r := range all {
		ids = append(ids, r.ID)
		if r.Where != b.lab.Region() || r.Kind == "" || r.Tags.App != "hello" || r.Kind != kindInterface && r.Created.Before(time.Now().Add(-time.Hour)) {
			t.Errorf("listed %+v", r)
		}
	}
	for _, line := range b.lab.Resources() {
		if f := strings.Fields(line); f[0] != "address" {
			want = append(want, f[1])
		}
	}
	if len(all) != 10 { // 2 times instance, volume, interface, AMI and snapshot
		t.Errorf("listed %+v", all)
	}
	slices.Sort(ids)
	slices.Sort(want)
	if ids = slices.Compact(ids); !slices.Equal(ids, want) {
		t.Errorf("listed %q, the lab has %q", ids, want)
	}
}

// An image that another rollout uses stays, and each use ends by itself.
func TestDestroyKeepsWhatIsUsed(t *testing.T) {
	environ(t)
	b := newBench(t)
	b.use(2)
	removed := b.destroy(1)
	if len(removed) != 2 || !strings.HasPrefix(removed[0], "the use of AMI") {
		t.Errorf("removed %q", removed)
	}
	b.left(b.made)
	if removed := b.destroy(1); len(removed) > 0 {
		t.Errorf("destroyed again: %q", removed)
	}
	if removed := b.destroy(2); !slices.Equal(removed, []string{"AMI " + b.ami, "snapshot " + b.snapshot()}) {
		t.Errorf("removed %q", removed)
	}
	b.left(b.before)
}

// An instance that EC2 does not list yet, because the worker was killed between RunInstances
// and its answer, is waited for. Without one nothing is.
func TestDestroyBeforeListed(t *testing.T) {
	environ(t)
	b := newBench(t)
	s, err := read(b.spec.Options)
	no(t, err)
	x := &boot{c: b.c, s: s, r: b.registration(1)}
	b.lab.Hide(2 * time.Second)
	no(t, x.create(t.Context(), nil))
	b.destroy(1)
	b.left(b.before)
}

// A rollout whose instance EC2 refused has none that Destroy has to wait for.
func TestDestroyAfterRefusal(t *testing.T) {
	environ(t)
	b := newBench(t)
	b.lab.Fault(ec2lab.Fault{Call: "RunInstances", Code: "VcpuLimitExceeded"})
	if _, err := New(b.site).Boot(t.Context(), b.registration(1)); err == nil {
		t.Fatal("booted")
	}
	lists := len(b.called("DescribeInstances"))
	b.destroy(1)
	if n := len(b.called("DescribeInstances")) - lists; n != 1 {
		t.Errorf("destroy listed the instances %d times", n)
	}
	b.left(b.before)
}

// A snapshot without the use that its AMI has, because the call that tags both was cut off,
// is removed with the AMI by the last user.
func TestDestroyHalfTagged(t *testing.T) {
	environ(t)
	b := newBench(t)
	second := b.spec.Tags
	second.Generation = 2
	use, err := useTag(second)
	no(t, err)
	no(t, b.c.tag(t.Context(), []types.Tag{use}, b.ami))
	began := time.Now()
	if removed := b.destroy(1); len(removed) != 2 || !strings.HasPrefix(removed[1], "the use of snapshot") || time.Since(began) > visible/2 {
		t.Errorf("removed %q after %s", removed, time.Since(began))
	}
	b.left(b.made)
	b.destroy(2)
	b.left(b.before)
}

// What others have made of Morgana's resources, and what only looks like one, is not touched.
func TestDestroyLeavesForeignImages(t *testing.T) {
	environ(t)
	b := newBench(t)
	b.lab.Page(2)
	snapshot := b.snapshot()
	foreign := func(name string, tags ...types.Tag) string {
		in := &ec2.RegisterImageInput{Name: aws.String(name), Architecture: types.ArchitectureValuesX8664, VirtualizationType: aws.String("hvm"),
			RootDeviceName:      aws.String("/dev/xvda"),
			BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/xvda"), Ebs: &types.EbsBlockDevice{SnapshotId: &snapshot}}}}
		if tags != nil {
			in.TagSpecifications = []types.TagSpecification{{ResourceType: types.ResourceTypeImage, Tags: tags}}
		}
		out, err := b.c.ec2.RegisterImage(t.Context(), in)
		no(t, err)
		return *out.ImageId
	}
	theirs := foreign("theirs")
	alike := foreign("alike", tag(tagApp, "hello"), tag(tagTarget, "prod")) // no rollout's
	done, err := New(b.site).Destroy(t.Context(), step.Removal{Spec: b.spec})
	var e *step.Error
	if !errors.As(err, &e) || e.Kind != step.Conflict || !slices.Equal(e.Left, []string{"snapshot " + snapshot}) || !slices.Equal(done.Removed, []string{"AMI " + b.ami}) {
		t.Fatalf("%v: %+v; removed %q", err, e, done.Removed)
	}
	for _, id := range []string{theirs, alike} {
		if !slices.ContainsFunc(b.lab.Resources(), func(line string) bool { return strings.HasPrefix(line, "image "+id) }) {
			t.Errorf("%s was removed", id)
		}
		no(t, failure(b.c.ec2.DeregisterImage(t.Context(), &ec2.DeregisterImageInput{ImageId: &id})))
	}
	if removed := b.destroy(0); !slices.Equal(removed, []string{"snapshot " + snapshot}) {
		t.Errorf("removed %q", removed)
	}
	b.left(b.before)
}

// With another account's credentials nothing would be found.
func TestDestroyWithAnotherAccount(t *testing.T) {
	environ(t)
	b := newBench(t)
	b.boot(1)
	was := b.lab.Resources()
	b.options(func(o *Options) { o.Account = "999988887777" })
	if _, err := New(b.site).Destroy(t.Context(), step.Removal{Spec: b.spec}); step.KindOf(err) != step.Unauthorized {
		t.Errorf("%v", err)
	}
	b.left(was)
}

// What cannot be removed is named, and the rest is removed.
func TestDestroyNamesWhatIsLeft(t *testing.T) {
	environ(t)
	b := newBench(t)
	m := b.boot(1)
	b.lab.Fault(ec2lab.Fault{Call: "TerminateInstances", Code: "OperationNotPermitted", Message: "may not be terminated"})
	done, err := New(b.site).Destroy(t.Context(), step.Removal{Spec: b.spec, KeepImage: true})
	var e *step.Error
	if !errors.As(err, &e) || e.Kind != step.Conflict || !slices.Equal(e.Left, []string{"instance " + m.ID}) || len(done.Removed) > 0 {
		t.Fatalf("a protected instance: %v: %+v", err, e)
	}
	b.lab.Deny("ec2:DeregisterImage")
	done, err = New(b.site).Destroy(t.Context(), step.Removal{Spec: b.spec})
	if !errors.As(err, &e) || e.Kind != step.Unauthorized || !slices.Equal(e.Left, []string{"AMI " + b.ami, "snapshot " + b.snapshot()}) {
		t.Fatalf("%v: %+v", err, e)
	}
	if len(done.Removed) != 1 || b.instances() != 0 {
		t.Errorf("removed %q", done.Removed)
	}
	b.lab.Deny()
	b.destroy(1)
	b.left(b.before)
}

// A destroy that is cancelled at any call is completed by the next.
func TestCancelledDestroy(t *testing.T) {
	environ(t)
	b := newBench(t)
	b.options(func(o *Options) { o.ElasticIP, o.TargetGroup = b.lab.ElasticIP(), b.lab.TargetGroup() })
	first := b.boot(1)
	at := &cutter{}
	defer b.through(at)()
	for n := int64(1); ; n++ {
		b.boot(2)
		r := b.registration(2)
		ctx := at.cut(t.Context(), n)
		_, err := New(b.site).Destroy(ctx, step.Removal{Spec: r.Spec, KeepImage: true})
		if err == nil {
			break
		}
		if step.KindOf(err).Final() || ctx.Err() == nil {
			t.Errorf("cancelled after call %d: %v", n, err)
		}
		b.stop(2)
		if b.instances() != 1 || b.holder() != first.ID || !slices.Equal(b.lab.Targets(), []string{first.ID}) {
			t.Fatalf("cancelled after call %d: the Elastic IP is at %q, the target group has %q", n, b.holder(), b.lab.Targets())
		}
	}
	b.destroy(0)
	b.left(b.before)
}

// A volume and a network interface that outlive their instance are removed too.
func TestDestroyRemovesParts(t *testing.T) {
	environ(t)
	b := newBench(t)
	tags, err := tagsOf(b.spec.Tags)
	no(t, err)
	in := &ec2.RunInstancesInput{ImageId: &b.ami, InstanceType: types.InstanceTypeT3Micro, MinCount: aws.Int32(1), MaxCount: aws.Int32(1),
		BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/xvda"), Ebs: &types.EbsBlockDevice{DeleteOnTermination: aws.Bool(false)}}},
		NetworkInterfaces: []types.InstanceNetworkInterfaceSpecification{
			{DeviceIndex: aws.Int32(0), SubnetId: &b.lab.Subnets()[0], DeleteOnTermination: aws.Bool(false)}}}
	for _, kind := range []types.ResourceType{types.ResourceTypeInstance, types.ResourceTypeVolume, types.ResourceTypeNetworkInterface} {
		in.TagSpecifications = append(in.TagSpecifications, types.TagSpecification{ResourceType: kind, Tags: tags})
	}
	no(t, failure(b.c.ec2.RunInstances(t.Context(), in)))
	for _, call := range []string{"DeleteVolume", "DeleteNetworkInterface"} {
		b.lab.Fault(ec2lab.Fault{Call: call, Lose: ec2lab.Before})
		b.lab.Fault(ec2lab.Fault{Call: call, Lose: ec2lab.After})
	}
	b.destroy(0)
	b.left(b.before)
}

// A destroy leaves the addresses of the other generation as they are, whatever the options
// of both name: after a redeploy, and when a redeploy is undone.
func TestOptionsNameOtherAddresses(t *testing.T) {
	environ(t)
	type named struct {
		ip    int // 1 or 2; 0: none
		group bool
	}
	for name, test := range map[string]struct{ before, after named }{
		"same":    {named{1, true}, named{1, true}},
		"dropped": {named{1, true}, named{}},
		"added":   {named{}, named{1, true}},
		"another": {named{1, false}, named{2, true}},
	} {
		for _, undo := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, undo %v", name, undo), func(t *testing.T) {
				t.Parallel()
				b := newBench(t)
				out, err := b.c.ec2.DescribeAddresses(t.Context(), &ec2.DescribeAddressesInput{})
				if err != nil || len(out.Addresses) != 2 {
					t.Fatalf("the lab's addresses: %+v, %v", out, err)
				}
				ips := []string{"", *out.Addresses[0].AllocationId, *out.Addresses[1].AllocationId}
				boot := func(generation int, n named) (step.Spec, string) {
					b.options(func(o *Options) {
						if o.ElasticIP = ips[n.ip]; n.group {
							o.TargetGroup = b.lab.TargetGroup()
						}
					})
					m := b.boot(generation)
					return m.Registration.Spec, m.ID
				}
				goes, first := boot(1, test.before)
				spec, stays := boot(2, test.after)
				has := test.after
				if undo {
					goes, stays, has = spec, first, test.before
				}
				retried(b, func() (step.Destroyed, error) {
					return New(b.site).Destroy(t.Context(), step.Removal{Spec: goes, KeepImage: true})
				})
				for i, ip := range ips[1:] {
					want := ""
					if i+1 == has.ip {
						want = stays
					}
					if have := b.holderOf(ip); have != want {
						t.Errorf("address %d is at %q, not at %q", i+1, have, want)
					}
				}
				if members := b.lab.Targets(); slices.Contains(members, stays) != has.group || len(members) > 1 {
					t.Errorf("the target group has %q; %s stays", members, stays)
				}
			})
		}
	}
}

// After Destroy with KeepImage, as for a restart, Boot makes another instance. EC2 lists a
// spot instance that shut itself down for an hour.
func TestBootAfterAnInstanceEndedItself(t *testing.T) {
	environ(t)
	for name, spot := range map[string]bool{"on demand": false, "spot": true} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.options(func(o *Options) { o.Spot = spot })
			first := b.boot(1)
			b.g.set("hello and good bye", true)
			b.eventually("the instance has ended", func() bool {
				h, err := New(b.site).Observe(t.Context(), first)
				return err == nil && h.State == step.Ended
			})
			b.stop(1)
			b.g.set("hello", false)
			if m := b.boot(1); m.Ended || m.ID == first.ID {
				t.Errorf("booted %s after %s, ended %t", m.ID, first.ID, m.Ended)
			}
			b.destroy(0)
			b.left(b.before)
		})
	}
}

// EC2 may refuse the tag of a terminated instance, which nothing is left of to remove.
func TestDestroyOfATerminatedInstanceWithoutTags(t *testing.T) {
	environ(t)
	for code, kind := range map[string]step.Kind{"IncorrectInstanceState": "", "InvalidInstanceID.NotFound": "", "UnauthorizedOperation": step.Unauthorized} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.options(func(o *Options) { o.Spot = true })
			m := b.boot(1)
			b.g.set("hello and good bye", true)
			b.eventually("the instance has ended", func() bool { return b.instances() == 0 })
			b.lab.Fault(ec2lab.Fault{Call: "CreateTags", Times: -1, Code: code})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			done, err := New(b.site).Destroy(ctx, step.Removal{Spec: m.Registration.Spec, KeepImage: true})
			if step.KindOf(err) != kind || (err == nil) != (kind == "") || err == nil && !slices.Equal(done.Removed, []string{"instance " + m.ID}) {
				t.Errorf("removed %q, %v", done.Removed, err)
			}
			b.destroy(0)
			b.left(b.before)
		})
	}
}

// A generation that never was ready, and was kept to be looked at, inherits nothing.
func TestHeirWasReady(t *testing.T) {
	environ(t)
	b := newBench(t)
	stable := func(o *Options) { o.ElasticIP, o.TargetGroup = b.lab.ElasticIP(), b.lab.TargetGroup() }
	b.options(stable)
	first := b.boot(1)
	b.options(func(o *Options) { stable(o); o.Expect, o.Timeout = "never printed", "1s" })
	if _, err := New(b.site).Boot(t.Context(), b.registration(2)); step.KindOf(err) != step.BootFailed {
		t.Fatalf("the second generation is ready: %v", err)
	}
	b.options(stable)
	b.boot(3)
	b.stop(3)
	if b.holder() != first.ID || !slices.Equal(b.lab.Targets(), []string{first.ID}) {
		t.Errorf("the Elastic IP is at %q, the target group has %q; %s was ready", b.holder(), b.lab.Targets(), first.ID)
	}
}

// A destroy of everything needs no permission for the stable addresses.
func TestDestroyAllWithoutPermissionForAddresses(t *testing.T) {
	environ(t)
	b := newBench(t)
	b.options(func(o *Options) { o.ElasticIP, o.TargetGroup = b.lab.ElasticIP(), b.lab.TargetGroup() })
	b.boot(1)
	b.lab.Deny("ec2:DescribeAddresses", "elasticloadbalancing:DescribeTargetHealth")
	b.destroy(0)
	b.left(b.before)
}
