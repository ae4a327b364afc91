package ec2

import (
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

// A subnet without capacity is passed over, whichever code says so.
func TestCapacity(t *testing.T) {
	environ(t)
	for _, code := range []string{"InsufficientInstanceCapacity", "Unsupported"} {
		b := newBench(t)
		subnets := b.lab.Subnets()
		b.options(func(o *Options) { o.Subnets = subnets })
		b.lab.Fault(ec2lab.Fault{Call: "RunInstances", Code: code, Message: "not in this zone"})
		b.boot(1)
		runs := b.called("RunInstances")
		if len(runs) != 2 || runs[1].Params.Get("SubnetId") != subnets[1] || runs[0].Params.Get("ClientToken") == runs[1].Params.Get("ClientToken") {
			t.Errorf("%s: runs %+v", code, runs)
		}
		b.lab.Fault(ec2lab.Fault{Call: "RunInstances", Code: code, Times: 3, Message: "not in this zone"})
		_, err := New(b.site).Boot(t.Context(), b.registration(2))
		for _, subnet := range subnets {
			if err == nil || !strings.Contains(err.Error(), subnet) {
				t.Errorf("%s everywhere: %v does not name %s", code, err, subnet)
			}
		}
		if final := step.KindOf(err).Final(); final != (code == "Unsupported") {
			t.Errorf("%s everywhere: kind %q", code, step.KindOf(err))
		}
	}
}

// A quota that is used up ends the deploy at once. Waiting does not raise it, nor does another
// subnet.
func TestQuota(t *testing.T) {
	environ(t)
	for code, field := range map[string]string{"VcpuLimitExceeded": "instance_type", "InstanceLimitExceeded": "instance_type", "MaxSpotInstanceCountExceeded": "spot"} {
		b := newBench(t)
		b.options(func(o *Options) { o.Subnets = b.lab.Subnets() })
		b.lab.Fault(ec2lab.Fault{Call: "RunInstances", Code: code})
		_, err := New(b.site).Boot(t.Context(), b.registration(1))
		refusedWith(t, code, err, step.Error{Kind: step.Unsupported, Field: field}, "Service Quotas")
		if n := len(b.called("RunInstances")); n != 1 || !step.KindOf(err).Final() {
			t.Errorf("%s: %d calls, %v", code, n, err)
		}
	}
}

// A try goes on in the subnet of the try before: its answer may have been lost.
func TestResumesInTheSubnet(t *testing.T) {
	environ(t)
	b := newBench(t)
	subnets := b.lab.Subnets()
	b.options(func(o *Options) { o.Subnets = subnets })
	b.lab.Hide(500 * time.Millisecond)
	b.lab.Fault(ec2lab.Fault{Call: "RunInstances", Code: "InsufficientInstanceCapacity"})
	b.lab.Fault(ec2lab.Fault{Call: "RunInstances", Lose: ec2lab.After})
	var last *step.Progress
	m := retried(b, func() (step.Machine, error) {
		ctx := step.WithReporter(t.Context(), func(p step.Progress) {
			if p.State != nil {
				last = &p
			}
		}, last)
		return New(b.site).Boot(ctx, b.registration(1))
	})
	time.Sleep(600 * time.Millisecond)
	if n := b.instances(); n != 1 {
		t.Errorf("%d instances: %+v", n, m)
	}
}

func TestClientTokens(t *testing.T) {
	environ(t)
	b := newBench(t)
	b.lab.Fault(ec2lab.Fault{Call: "RunInstances", Code: "IdempotentInstanceTerminated", Times: 2})
	first := b.boot(1)
	var tokens []string
	for _, c := range b.called("RunInstances") {
		tokens = append(tokens, c.Params.Get("ClientToken"))
	}
	slices.Sort(tokens)
	if len(slices.Compact(tokens)) != 3 {
		t.Errorf("tokens %q", tokens)
	}
	// Somebody terminates the instance; the next deploy of it makes another.
	no(t, b.c.terminate(t.Context(), first.ID))
	second := b.boot(1)
	if second.ID == first.ID || second.Adopted {
		t.Errorf("booted %+v after %s was terminated", second, first.ID)
	}
	b.stop(1)

	// An earlier call with the token had other parameters.
	b.lab.Hide(500 * time.Millisecond)
	b.lab.Fault(ec2lab.Fault{Call: "RunInstances", Lose: ec2lab.After})
	if _, err := New(b.site).Boot(t.Context(), b.registration(2)); err == nil || step.KindOf(err).Final() {
		t.Fatalf("a lost answer: %v", err)
	}
	b.options(func(o *Options) { o.UserData = "other" })
	if m := b.boot(2); !m.Adopted || b.instances() != 1 {
		t.Errorf("booted %+v among %d instances", m, b.instances())
	}
}

// The parameters of RunInstances are those of the options.
func TestRunInstances(t *testing.T) {
	environ(t)
	b := newBench(t)
	yes := true
	b.options(func(o *Options) {
		o.PublicIP, o.Subnets, o.SecurityGroups = &yes, b.lab.Subnets()[1:2], []string{b.lab.SecurityGroup()}
		o.KeyName, o.InstanceProfile, o.UserData, o.Spot = "ann", "web", "some data", true
	})
	b.boot(1)
	got := b.called("RunInstances")[0].Params
	for name, want := range map[string]string{
		"ImageId": b.ami, "InstanceType": "t3.micro", "MetadataOptions.HttpTokens": "required", "KeyName": "ann", "IamInstanceProfile.Name": "web",
		"UserData": "c29tZSBkYXRh", "InstanceInitiatedShutdownBehavior": "terminate", "InstanceMarketOptions.MarketType": "spot",
		"NetworkInterface.1.AssociatePublicIpAddress": "true", "NetworkInterface.1.SubnetId": b.lab.Subnets()[1],
		"NetworkInterface.1.SecurityGroupId.1": b.lab.SecurityGroup(), "SubnetId": "", "SecurityGroupId.1": "",
		"TagSpecification.1.ResourceType": "instance", "TagSpecification.2.ResourceType": "volume", "TagSpecification.3.ResourceType": "network-interface",
		"TagSpecification.3.Tag.2.Key": "morgana:app", "TagSpecification.3.Tag.2.Value": "hello",
	} {
		if got.Get(name) != want {
			t.Errorf("%s is %q, not %q", name, got.Get(name), want)
		}
	}
	b.stop(1)
	b.options(func(o *Options) { o.Placement = Placement{Zone: "eu-west-1b", Tenancy: "default"} })
	b.boot(2)
	got = b.called("RunInstances")[1].Params
	if got.Get("InstanceInitiatedShutdownBehavior") != "stop" || got.Get("Placement.AvailabilityZone") != "eu-west-1b" || got.Has("InstanceMarketOptions.MarketType") {
		t.Errorf("the second: %v", got)
	}
}

// What EC2 lists other calls may not know yet.
func TestUnknownToSomeCalls(t *testing.T) {
	environ(t)
	b := newBench(t)
	b.options(func(o *Options) { o.ElasticIP = b.lab.ElasticIP() })
	for call, code := range map[string]string{
		"RunInstances": "InvalidAMIID.NotFound", "GetConsoleOutput": "InvalidInstanceID.NotFound", "CreateTags": "InvalidInstanceID.NotFound",
		"AssociateAddress": "InvalidInstanceID.NotFound", "TerminateInstances": "InvalidInstanceID.NotFound",
	} {
		skip := 0
		if call == "CreateTags" {
			skip = 1 // the first is of the AMI
		}
		b.lab.Fault(ec2lab.Fault{Call: call, Code: code, Skip: skip})
	}
	if m := b.boot(1); b.instances() != 1 || b.holder() != m.ID {
		t.Errorf("%d instances, the Elastic IP is at %q", b.instances(), b.holder())
	}
	b.destroy(1)
	b.left(b.before)
}

// Of two instances of a rollout the older is kept.
func TestTwoInstances(t *testing.T) {
	environ(t)
	b := newBench(t)
	first := b.boot(1)
	time.Sleep(1100 * time.Millisecond) // a launch time is in whole seconds
	tags, err := tagsOf(b.registration(1).Spec.Tags)
	no(t, err)
	if _, err := b.c.ec2.RunInstances(t.Context(), &ec2.RunInstancesInput{ImageId: aws.String(b.ami), InstanceType: types.InstanceTypeT3Micro, MinCount: aws.Int32(1), MaxCount: aws.Int32(1),
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeInstance, Tags: tags}}}); err != nil {
		t.Fatal(err)
	}
	if m := b.boot(1); m.ID != first.ID {
		t.Errorf("adopted %s, not %s", m.ID, first.ID)
	}
	b.eventually("the other is terminated", func() bool { return b.instances() == 1 })
}
