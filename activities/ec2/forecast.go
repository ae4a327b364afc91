package ec2

import (
	"cmp"
	"context"
	"fmt"

	"github.com/morgana-deploy/morgana/step"
)

// Forecast lists the calls of register and boot that create or change something. Prices are
// those of us-east-1; other regions differ by some tenths.
func (t *Target) Forecast(_ context.Context, spec step.Spec) ([]step.Action, error) {
	s, err := read(spec.Options)
	if err != nil {
		return nil, step.During("forecast ec2 target", err)
	}
	return s.forecast(), nil
}

func (s *settings) forecast() (all []step.Action) {
	add := func(call, why, cost string) {
		all = append(all, step.Action{Call: call, Why: why, Permission: call, Cost: cost})
	}
	const snapshot, unless = "$0.05 per GB-month of what is stored", ", unless a snapshot of this deployment has the same digest"
	volume := "; its volume $0.08 to $0.10 per GB-month"
	if s.Backing == backingImport || s.Backing == backingBundle {
		add("s3:CreateBucket", "make the bucket "+s.Bucket+", unless it is there", "")
	}
	switch s.Backing {
	case backingImport:
		add("s3:PutObject", "send the whole disk to the bucket"+unless, "$0.005 per 1,000 parts; $0.023 per GB-month until the import is over")
		add("ec2:ImportSnapshot", "let VM Import make the snapshot by the role "+cmp.Or(s.Role, defaultRole), snapshot)
		add("s3:DeleteObject", "remove the disk from the bucket", "")
	case backingBundle:
		volume = ""
		add("s3:PutObject", "send the encrypted disk and its manifest, unless an AMI of this deployment has the same digest", "$0.005 per 1,000 parts of 10 MiB; $0.023 per GB-month")
		add("s3:PutObjectAcl", "let EC2 read them", "")
	case backingVolume:
		const keys = "made for this rollout alone"
		add("ec2:ImportKeyPair", "let the worker log in to a helper, by a key "+keys, "")
		add("ec2:CreateSecurityGroup", "let ssh in to the helper"+unless, "")
		add("ec2:AuthorizeSecurityGroupIngress", "from the worker's address alone", "")
		add("ec2:RunInstances", fmt.Sprintf("run the helper, a Linux of type %s, for some minutes, with a host key %s", s.Helper.Type, keys),
			"by the second, at the on-demand price of "+s.Helper.Type+"; a public IPv4 address $0.005 per hour, $3.65 a month")
		add("ec2:CreateVolume", "make the volume of the boot disk", "$0.08 per GB-month, for some minutes")
		add("ec2:AttachVolume", "let the helper write the disk", "")
		add("ec2:DetachVolume", "free the volume", "")
		add("ec2:CreateSnapshot", "make the snapshot of the volume", snapshot)
		for _, what := range []struct{ call, why string }{{"ec2:TerminateInstances", "helper"}, {"ec2:DeleteVolume", "volume"},
			{"ec2:DeleteSecurityGroup", "security group"}, {"ec2:DeleteKeyPair", "key pair"}} {
			add(what.call, "remove the "+what.why, "")
		}
	default:
		add("ebs:StartSnapshot", "make the snapshot of the boot disk"+unless, snapshot)
		add("ebs:PutSnapshotBlock", "send the blocks that are not zero, or those that differ from the last snapshot", "$0.006 per 1,000 blocks of 512 KiB")
		add("ebs:CompleteSnapshot", "end the snapshot", "")
	}
	image := "an hvm image that boots by " + s.BootMode
	if s.Virtualization == virtPV {
		image = "a paravirtual image that boots by " + s.KernelID
	}
	add("ec2:RegisterImage", "make the AMI, "+image, "")
	add("ec2:CreateTags", "say whose the snapshot and the AMI are, and which rollouts use them", "")
	price := "by the second, at the on-demand price"
	if s.Spot {
		price = "by the second, at the spot price"
	}
	where := ""
	if s.Placement.Zone != "" {
		where = " in " + s.Placement.Zone
	}
	add("ec2:RunInstances", fmt.Sprintf("run an instance of type %s%s, for at most %s until it is ready", s.InstanceType, where, s.Timeout),
		price+" of "+s.InstanceType+volume+"; a public IPv4 address $0.005 per hour, $3.65 a month")
	if s.InstanceProfile != "" {
		add("iam:PassRole", "give the instance the role of profile "+s.InstanceProfile, "")
	}
	if s.expect != nil {
		add("ec2:GetConsoleOutput", fmt.Sprintf("wait for %q on the console", s.Expect), "")
	}
	if s.ElasticIP != "" {
		add("ec2:AssociateAddress", "move "+s.ElasticIP+" to the instance when it is ready", "")
	}
	if s.TargetGroup != "" {
		add("elasticloadbalancing:RegisterTargets", "add the instance to the target group when it is ready", "")
		add("elasticloadbalancing:DeregisterTargets", "take the old instance out of it", "")
	}
	return all
}
