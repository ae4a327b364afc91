package ec2lab

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
)

func change[T any](in *T, f func(*T)) *T {
	f(in)
	return in
}

// Each image that EC2 does not take.
func TestRegisterRefuses(t *testing.T) {
	b := newBench(t, Options{})
	snapshot := b.snap("", map[int]byte{0: 1})
	pending, err := b.ebs.StartSnapshot(b.ctx, &ebs.StartSnapshotInput{VolumeSize: aws.Int64(1)})
	b.no(err)
	b.image(imageOf(snapshot, "taken"))
	pv := func(m *ec2.RegisterImageInput) {
		m.VirtualizationType, m.EnaSupport, m.KernelId = aws.String("paravirtual"), nil, aws.String("aki-dc9ed9af")
	}
	for name, c := range map[string]struct {
		code   string
		change func(*ec2.RegisterImageInput)
	}{
		"hvm":                  {"DryRunOperation", func(*ec2.RegisterImageInput) {}},
		"pv":                   {"DryRunOperation", pv},
		"uefi":                 {"DryRunOperation", func(m *ec2.RegisterImageInput) { m.BootMode = "uefi" }},
		"short name":           {"InvalidAMIName.Malformed", func(m *ec2.RegisterImageInput) { m.Name = aws.String("ab") }},
		"bad name":             {"InvalidAMIName.Malformed", func(m *ec2.RegisterImageInput) { m.Name = aws.String("a:b:c") }},
		"long name":            {"InvalidAMIName.Malformed", func(m *ec2.RegisterImageInput) { m.Name = aws.String(strings.Repeat("a", 129)) }},
		"taken name":           {"InvalidAMIName.Duplicate", func(m *ec2.RegisterImageInput) { m.Name = aws.String("taken") }},
		"no architecture":      {"InvalidParameterCombination", func(m *ec2.RegisterImageInput) { m.Architecture = "" }},
		"unknown architecture": {"InvalidParameterValue", func(m *ec2.RegisterImageInput) { m.Architecture = "amd64" }},
		"no virtualization":    {"InvalidParameterCombination", func(m *ec2.RegisterImageInput) { m.VirtualizationType = nil }}, // it is PV, with ENA
		"kernel of hvm":        {"InvalidParameterCombination", func(m *ec2.RegisterImageInput) { m.KernelId = aws.String("aki-dc9ed9af") }},
		"malformed kernel":     {"InvalidKernelId.Malformed", func(m *ec2.RegisterImageInput) { pv(m); m.KernelId = aws.String("ami-dc9ed9af") }},
		"unknown kernel":       {"InvalidAMIID.NotFound", func(m *ec2.RegisterImageInput) { pv(m); m.KernelId = aws.String("aki-00000000") }},
		"kernel of i386":       {"InvalidParameterValue", func(m *ec2.RegisterImageInput) { pv(m); m.KernelId = aws.String("aki-1c9fd86f") }},
		"ena of pv":            {"InvalidParameterCombination", func(m *ec2.RegisterImageInput) { pv(m); m.EnaSupport = aws.Bool(true) }},
		"boot mode of pv":      {"InvalidParameterCombination", func(m *ec2.RegisterImageInput) { pv(m); m.BootMode = "uefi" }},
		"boot mode":            {"InvalidParameterValue", func(m *ec2.RegisterImageInput) { m.BootMode = "bios" }},
		"no root":              {"InvalidBlockDeviceMapping", func(m *ec2.RegisterImageInput) { m.RootDeviceName = aws.String("/dev/xvda") }},
		"no snapshot":          {"InvalidSnapshot.NotFound", func(m *ec2.RegisterImageInput) { m.BlockDeviceMappings[0].Ebs.SnapshotId = aws.String("snap-01234567") }},
		"malformed snapshot":   {"InvalidParameterValue", func(m *ec2.RegisterImageInput) { m.BlockDeviceMappings[0].Ebs.SnapshotId = aws.String("snap-x") }},
		"pending snapshot":     {"IncorrectState", func(m *ec2.RegisterImageInput) { m.BlockDeviceMappings[0].Ebs.SnapshotId = pending.SnapshotId }},
		"encrypted snapshot":   {"InvalidBlockDeviceMapping", func(m *ec2.RegisterImageInput) { m.BlockDeviceMappings[0].Ebs.Encrypted = aws.Bool(true) }},
		"tags of a snapshot":   {"InvalidParameterValue", func(m *ec2.RegisterImageInput) { m.TagSpecifications = tagSpec("snapshot", "a", "b") }},
		"aws: tag":             {"InvalidParameterValue", func(m *ec2.RegisterImageInput) { m.TagSpecifications = tagSpec("image", "aws:a", "b") }},
		"tag twice":            {"InvalidParameterValue", func(m *ec2.RegisterImageInput) { m.TagSpecifications = tagSpec("image", "a", "b", "a", "c") }},
		"long key":             {"InvalidParameterValue", func(m *ec2.RegisterImageInput) { m.TagSpecifications = tagSpec("image", strings.Repeat("a", 129), "b") }},
		"long value":           {"InvalidParameterValue", func(m *ec2.RegisterImageInput) { m.TagSpecifications = tagSpec("image", "a", strings.Repeat("a", 257)) }},
		"51 tags": {"TagLimitExceeded", func(m *ec2.RegisterImageInput) {
			var all []string
			for i := range 51 {
				all = append(all, fmt.Sprint(i), "")
			}
			m.TagSpecifications = tagSpec("image", all...)
		}},
	} {
		in := change(imageOf(snapshot, "morgana/free"), c.change)
		in.DryRun = aws.Bool(true)
		if _, err := b.ec2.RegisterImage(b.ctx, in); code(err) != c.code {
			t.Errorf("%s: want %s, got %v", name, c.code, err)
		}
	}
}

// Each instance that EC2 does not run.
func TestRunRefuses(t *testing.T) {
	b := newBench(t, Options{})
	snapshot := b.snap("", map[int]byte{0: 1})
	hvm := b.image(imageOf(snapshot, "hvm"))
	plain := b.image(change(imageOf(snapshot, "plain"), func(m *ec2.RegisterImageInput) { m.EnaSupport = nil }))
	uefi := b.image(change(imageOf(snapshot, "uefi"), func(m *ec2.RegisterImageInput) { m.BootMode = "uefi" }))
	pv := b.image(change(imageOf(snapshot, "pv."), func(m *ec2.RegisterImageInput) {
		m.VirtualizationType, m.EnaSupport, m.KernelId = aws.String("paravirtual"), nil, aws.String("aki-dc9ed9af")
	}))
	old := b.image(imageOf(snapshot, "old"))
	_, err := b.ec2.DeregisterImage(b.ctx, &ec2.DeregisterImageInput{ImageId: &old})
	b.no(err)
	b.Withdraw("t1.micro", "eu-west-1c")
	with := func(image string, t types.InstanceType, more ...func(*ec2.RunInstancesInput)) func(*ec2.RunInstancesInput) {
		return func(m *ec2.RunInstancesInput) {
			m.ImageId, m.InstanceType = &image, t
			for _, f := range more {
				f(m)
			}
		}
	}
	nic := func(m *ec2.RunInstancesInput) {
		m.NetworkInterfaces = []types.InstanceNetworkInterfaceSpecification{{DeviceIndex: aws.Int32(0), SubnetId: aws.String(b.Subnets()[1])}}
	}
	for name, c := range map[string]struct {
		code   string
		change func(*ec2.RunInstancesInput)
	}{
		"hvm on nitro":      {"DryRunOperation", with(hvm, "t3.micro")},
		"hvm on xen":        {"DryRunOperation", with(plain, "t2.micro")},
		"uefi on nitro":     {"DryRunOperation", with(uefi, "m5.large")},
		"pv on xen":         {"DryRunOperation", with(pv, "t1.micro")},
		"interface":         {"DryRunOperation", with(hvm, "t3.micro", nic)},
		"no ena":            {"InvalidParameterCombination", with(plain, "t3.micro")},
		"uefi on xen":       {"InvalidParameterValue", with(uefi, "t2.micro")},
		"pv on t2":          {"InvalidParameterCombination", with(pv, "t2.micro")},
		"pv on nitro":       {"InvalidParameterCombination", with(pv, "t3.micro")},
		"arm":               {"InvalidParameterValue", with(hvm, "c7g.large")},
		"unknown type":      {"InvalidParameterValue", with(hvm, "t9.micro")},
		"zone without type": {"Unsupported", with(pv, "t1.micro", func(m *ec2.RunInstancesInput) { m.SubnetId = aws.String(b.Subnets()[2]) })},
		"deregistered":      {"InvalidAMIID.Unavailable", with(old, "t3.micro")},
		"malformed image":   {"InvalidAMIID.Malformed", with("hello", "t3.micro")},
		"unknown image":     {"InvalidAMIID.NotFound", with("ami-01234567", "t3.micro")},
		"image of a kernel": {"InvalidAMIID.Malformed", with("aki-dc9ed9af", "t1.micro")},
		"max under min":     {"InvalidParameterValue", func(m *ec2.RunInstancesInput) { m.MinCount = aws.Int32(2) }},
		"no instance":       {"InvalidParameterValue", func(m *ec2.RunInstancesInput) { m.MinCount, m.MaxCount = aws.Int32(0), aws.Int32(0) }},
		"kernel of hvm":     {"InvalidParameterCombination", func(m *ec2.RunInstancesInput) { m.KernelId = aws.String("aki-dc9ed9af") }},
		"long token":        {"InvalidClientToken", func(m *ec2.RunInstancesInput) { m.ClientToken = aws.String(strings.Repeat("a", 65)) }},
		"token":             {"InvalidClientToken", func(m *ec2.RunInstancesInput) { m.ClientToken = aws.String("ä") }},
		"key pair":          {"InvalidKeyPair.NotFound", func(m *ec2.RunInstancesInput) { m.KeyName = aws.String("bob") }},
		"profile": {"InvalidParameterValue", func(m *ec2.RunInstancesInput) {
			m.IamInstanceProfile = &types.IamInstanceProfileSpecification{Name: aws.String("x")}
		}},
		"subnet":          {"InvalidSubnetID.NotFound", func(m *ec2.RunInstancesInput) { m.SubnetId = aws.String("subnet-01234567") }},
		"group":           {"InvalidGroup.NotFound", func(m *ec2.RunInstancesInput) { m.SecurityGroupIds = []string{"sg-01234567"} }},
		"malformed group": {"InvalidGroupId.Malformed", func(m *ec2.RunInstancesInput) { m.SecurityGroupIds = []string{"default"} }},
		"subnet twice":    {"InvalidParameterCombination", func(m *ec2.RunInstancesInput) { nic(m); m.SubnetId = aws.String(b.Subnets()[0]) }},
		"groups twice":    {"InvalidParameterCombination", func(m *ec2.RunInstancesInput) { nic(m); m.SecurityGroupIds = []string{b.SecurityGroup()} }},
		"zone of the subnet": {"InvalidParameterValue", func(m *ec2.RunInstancesInput) {
			nic(m)
			m.Placement = &types.Placement{AvailabilityZone: aws.String("eu-west-1a")}
		}},
		"zone": {"InvalidParameterValue", func(m *ec2.RunInstancesInput) {
			m.Placement = &types.Placement{AvailabilityZone: aws.String("us-east-1a")}
		}},
		"placement group": {"InvalidPlacementGroup.Unknown", func(m *ec2.RunInstancesInput) { m.Placement = &types.Placement{GroupName: aws.String("far")} }},
		"user data":       {"InvalidParameterValue", func(m *ec2.RunInstancesInput) { m.UserData = aws.String("<plain>") }},
		"large user data": {"InvalidParameterValue", func(m *ec2.RunInstancesInput) {
			m.UserData = aws.String(base64.StdEncoding.EncodeToString(make([]byte, 16385)))
		}},
		"small volume": {"InvalidBlockDeviceMapping", func(m *ec2.RunInstancesInput) {
			m.BlockDeviceMappings = []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sda1"), Ebs: &types.EbsBlockDevice{VolumeSize: aws.Int32(0)}}}
		}},
		"tags of a spot call": {"InvalidParameterValue", func(m *ec2.RunInstancesInput) { m.TagSpecifications = tagSpec("spot-instances-request", "a", "b") }},
		"tags of an image":    {"InvalidParameterValue", func(m *ec2.RunInstancesInput) { m.TagSpecifications = tagSpec("image", "a", "b") }},
	} {
		in := change(machineOf(hvm), c.change)
		in.DryRun = aws.Bool(true)
		if _, err := b.ec2.RunInstances(b.ctx, in); code(err) != c.code {
			t.Errorf("%s: want %s, got %v", name, c.code, err)
		}
	}
}

// What EC2 says to calls in the wrong state or of unknown resources.
func TestStates(t *testing.T) {
	b := newBench(t, Options{})
	image := b.image(imageOf(b.snap("", nil), "abc"))
	in := change(machineOf(image), func(m *ec2.RunInstancesInput) { m.ClientToken = aws.String("token") })
	b.Fault(Fault{Call: "RunInstances", Stuck: true})
	stuck, err := b.ec2.RunInstances(b.ctx, machineOf(image))
	b.no(err)
	pending := *stuck.Instances[0].InstanceId
	id := b.machine(in)
	if again := b.machine(in); again != id {
		t.Errorf("the token gives %s, then %s", id, again)
	}
	xen := b.machine(change(machineOf(image), func(m *ec2.RunInstancesInput) { m.InstanceType = "t2.micro" }))
	kept := b.machine(change(machineOf(image), func(m *ec2.RunInstancesInput) {
		m.DisableApiTermination = aws.Bool(true)
		m.InstanceMarketOptions = &types.InstanceMarketOptionsRequest{MarketType: "spot", SpotOptions: &types.SpotMarketOptions{SpotInstanceType: "one-time"}}
	}))
	other := change(machineOf(image), func(m *ec2.RunInstancesInput) { m.ClientToken, m.InstanceType = in.ClientToken, "m5.large" })
	run := func(in *ec2.RunInstancesInput) error { return failure(b.ec2.RunInstances(b.ctx, in)) }
	associate := func(instance string) error {
		return failure(b.ec2.AssociateAddress(b.ctx, &ec2.AssociateAddressInput{AllocationId: aws.String(b.ElasticIP()), InstanceId: &instance}))
	}
	terminate := func(id string) error {
		return failure(b.ec2.TerminateInstances(b.ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{id}}))
	}
	deregister := func(id string) error {
		return failure(b.ec2.DeregisterImage(b.ctx, &ec2.DeregisterImageInput{ImageId: &id}))
	}
	register := func(id string) error {
		return failure(b.elb.RegisterTargets(b.ctx, &elb.RegisterTargetsInput{TargetGroupArn: aws.String(b.TargetGroup()), Targets: []elbtypes.TargetDescription{{Id: &id}}}))
	}
	console := func(id string) error {
		return failure(b.ec2.GetConsoleOutput(b.ctx, &ec2.GetConsoleOutputInput{InstanceId: &id, Latest: aws.Bool(true)}))
	}
	images := func(id string) error {
		return failure(b.ec2.DescribeImages(b.ctx, &ec2.DescribeImagesInput{ImageIds: []string{id}}))
	}
	filter := func(name string) error {
		return failure(b.ec2.DescribeImages(b.ctx, &ec2.DescribeImagesInput{Filters: []types.Filter{{Name: &name, Values: []string{"x"}}}}))
	}
	instances := func(n int32, ids ...string) error {
		return failure(b.ec2.DescribeInstances(b.ctx, &ec2.DescribeInstancesInput{MaxResults: &n, InstanceIds: ids}))
	}
	tags := func(id, key string) error {
		return failure(b.ec2.CreateTags(b.ctx, &ec2.CreateTagsInput{Resources: []string{id}, Tags: []types.Tag{{Key: &key, Value: aws.String("")}}}))
	}
	disk := func(id string) error {
		return failure(b.ec2.DeleteVolume(b.ctx, &ec2.DeleteVolumeInput{VolumeId: &id}))
	}
	card := func(id string) error {
		return failure(b.ec2.DeleteNetworkInterface(b.ctx, &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: &id}))
	}
	for i, c := range []struct {
		code string
		err  error
	}{
		{"VolumeInUse", disk(ids[*volume](b.Lab)[0])},
		{"InvalidVolume.NotFound", disk("vol-01234567")},
		{"InvalidParameterValue", card(ids[*netInterface](b.Lab)[0])},
		{"InvalidNetworkInterfaceID.NotFound", card("eni-01234567")},
		{"IdempotentParameterMismatch", run(other)},
		{"InvalidInstanceID", associate(pending)},
		{"InvalidInstanceID.NotFound", associate("i-01234567")},
		{"InvalidTarget", register(pending)},
		{"", terminate(id)},
		{"", terminate(id)},
		{"IdempotentInstanceTerminated", run(in)},
		{"InvalidInstanceID", associate(id)},
		{"InvalidTarget", register(id)},
		{"InvalidInstanceID.NotFound", terminate("i-01234567")},
		{"InvalidInstanceID.Malformed", terminate("hello")},
		{"OperationNotPermitted", terminate(kept)},
		{"UnsupportedOperation", console(xen)},
		{"InvalidAMIID.NotFound", images("ami-01234567")},
		{"InvalidAMIID.Malformed", images("ami-1")},
		{"", deregister(image)},
		{"", images(image)},
		{"InvalidAMIID.Unavailable", deregister(image)},
		{"AuthFailure", deregister("aki-dc9ed9af")},
		{"InvalidParameterValue", filter("vpc-id")},
		{"", filter("kernel-id")},
		{"InvalidParameterValue", instances(4)},
		{"InvalidParameterValue", instances(1001)},
		{"InvalidParameterCombination", instances(5, xen)},
		{"InvalidInstanceID.NotFound", tags("i-01234567", "a")},
		{"InvalidAMIID.NotFound", tags(image, "a")},
		{"InvalidID", tags("hello", "a")},
		{"InvalidParameterValue", tags(xen, "aws:a")},
		{"", tags(xen, "a")},
	} {
		if code(c.err) != c.code {
			t.Errorf("%d: want %q, got %v", i, c.code, c.err)
		}
	}
}

// What EBS does not take.
func TestBlocksRefuse(t *testing.T) {
	b := newBench(t, Options{})
	parent := b.snap("", map[int]byte{0: 1})
	in := &ebs.StartSnapshotInput{VolumeSize: aws.Int64(1), ClientToken: aws.String("token")}
	s, err := b.ebs.StartSnapshot(b.ctx, in)
	b.no(err)
	if again, err := b.ebs.StartSnapshot(b.ctx, in); err != nil || *again.SnapshotId != *s.SnapshotId {
		t.Errorf("the token gives %+v, %v", again, err)
	}
	start := func(f func(*ebs.StartSnapshotInput)) error {
		return failure(b.ebs.StartSnapshot(b.ctx, change(&ebs.StartSnapshotInput{VolumeSize: aws.Int64(1)}, f)))
	}
	put := func(f func(*ebs.PutSnapshotBlockInput)) error {
		_, err := b.ebs.PutSnapshotBlock(b.ctx, change(&ebs.PutSnapshotBlockInput{
			SnapshotId: s.SnapshotId, BlockIndex: aws.Int32(1), BlockData: strings.NewReader(string(block(1))), DataLength: aws.Int32(blockSize),
			Checksum: aws.String(sumOf(block(1))), ChecksumAlgorithm: "SHA256",
		}, f))
		return err
	}
	complete := func(id string, n int32, sum string) error {
		in := &ebs.CompleteSnapshotInput{SnapshotId: &id, ChangedBlocksCount: &n}
		if sum != "" {
			in.Checksum, in.ChecksumAlgorithm, in.ChecksumAggregationMethod = &sum, "SHA256", "LINEAR"
		}
		_, err := b.ebs.CompleteSnapshot(b.ctx, in)
		return err
	}
	list := func(id string) error {
		return failure(b.ebs.ListSnapshotBlocks(b.ctx, &ebs.ListSnapshotBlocksInput{SnapshotId: &id}))
	}
	for i, c := range []struct {
		code string
		err  error
	}{
		{"ConflictException", start(func(in *ebs.StartSnapshotInput) { in.ClientToken, in.VolumeSize = aws.String("token"), aws.Int64(2) })},
		{"INVALID_VOLUME_SIZE", start(func(in *ebs.StartSnapshotInput) { in.VolumeSize = aws.Int64(0) })},
		{"INVALID_PARAMETER_VALUE", start(func(in *ebs.StartSnapshotInput) { in.ClientToken = aws.String(strings.Repeat("a", 65)) })},
		{"INVALID_PARAMETER_VALUE", complete(*s.SnapshotId, 0, sumOf(nil))},
		{"INVALID_PARAMETER_VALUE", start(func(in *ebs.StartSnapshotInput) { in.Timeout = aws.Int32(9) })},
		{"INVALID_PARAMETER_VALUE", start(func(in *ebs.StartSnapshotInput) { in.ParentSnapshotId, in.Encrypted = &parent, aws.Bool(false) })},
		{"INVALID_SNAPSHOT_ID", start(func(in *ebs.StartSnapshotInput) { in.ParentSnapshotId = s.SnapshotId })},
		{"ResourceNotFoundException", start(func(in *ebs.StartSnapshotInput) { in.ParentSnapshotId = aws.String("snap-01234567") })},
		{"INVALID_TAG", start(func(in *ebs.StartSnapshotInput) {
			in.Tags = []ebstypes.Tag{{Key: aws.String("aws:a"), Value: aws.String("b")}}
		})},
		{"", put(func(*ebs.PutSnapshotBlockInput) {})},
		{"", put(func(in *ebs.PutSnapshotBlockInput) { in.BlockIndex = aws.Int32(2047) })},
		{"INVALID_PARAMETER_VALUE", put(func(in *ebs.PutSnapshotBlockInput) { in.BlockIndex = aws.Int32(2048) })},
		{"InvalidSignatureException", put(func(in *ebs.PutSnapshotBlockInput) { in.Checksum = aws.String(sumOf(block(2))) })},
		{"INVALID_BLOCK", put(func(in *ebs.PutSnapshotBlockInput) { in.DataLength = aws.Int32(1) })},
		{"INVALID_PARAMETER_VALUE", put(func(in *ebs.PutSnapshotBlockInput) { in.BlockData = strings.NewReader("short") })},
		{"INVALID_SNAPSHOT_ID", put(func(in *ebs.PutSnapshotBlockInput) { in.SnapshotId = &parent })},
		{"ResourceNotFoundException", put(func(in *ebs.PutSnapshotBlockInput) { in.SnapshotId = aws.String("snap-01234567") })},
		{"ResourceNotFoundException", list(*s.SnapshotId)},
		{"INVALID_PARAMETER_VALUE", complete(*s.SnapshotId, 2, sumOf(nil))},
		{"", complete(*s.SnapshotId, 3, "")},
		{"INVALID_SNAPSHOT_ID", complete(*s.SnapshotId, 2, "")},
	} {
		if code(c.err) != c.code {
			t.Errorf("%d: want %q, got %v", i, c.code, c.err)
		}
	}
	b.until(func() bool { return b.has("snapshot " + *s.SnapshotId + " error") })
	b.EncryptByDefault()
	if err := start(func(in *ebs.StartSnapshotInput) { in.ParentSnapshotId = &parent }); code(err) != "INVALID_SNAPSHOT_ID" {
		t.Errorf("a parent that is not encrypted: %v", err)
	}
}
