package ec2lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
)

// bench is a lab with AWS's own clients.
type bench struct {
	*testing.T
	*Lab
	ctx context.Context
	ec2 *ec2.Client
	ebs *ebs.Client
	elb *elb.Client
	sts *sts.Client
}

func newBench(t *testing.T, o Options) *bench {
	t.Helper()
	if o.Moment == 0 {
		o.Moment = time.Millisecond
	}
	l, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	closing(t, l)
	for _, v := range l.Env() {
		k, v, _ := strings.Cut(v, "=")
		t.Setenv(k, v)
	}
	b := &bench{T: t, Lab: l, ctx: t.Context()}
	b.clients()
	return b
}

// clients makes the clients, as the environment says.
func (b *bench) clients() {
	cfg, err := config.LoadDefaultConfig(b.ctx, config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }))
	b.no(err)
	b.ec2, b.ebs, b.elb, b.sts = ec2.NewFromConfig(cfg), ebs.NewFromConfig(cfg), elb.NewFromConfig(cfg), sts.NewFromConfig(cfg)
}

// closing closes something when the test ends.
func closing(t *testing.T, c io.Closer) {
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// failure is the error of a call whose result does not matter.
func failure[T any](_ T, err error) error { return err }

func (b *bench) no(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// code returns AWS's code of an error, and its reason if it is EBS's.
func code(err error) string {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return ""
	}
	var invalid *ebstypes.ValidationException
	if errors.As(err, &invalid) {
		return string(invalid.Reason)
	}
	return api.ErrorCode()
}

// until waits until ready.
func (b *bench) until(ready func() bool) {
	b.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ready() {
			return
		}
	}
	b.Fatalf("it never happens; there is %q", b.Resources())
}

func (b *bench) has(line string) bool { return slices.Contains(b.Resources(), line) }

// block returns a block's bytes.
func block(c byte) []byte { return bytes.Repeat([]byte{c}, blockSize) }

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return base64.StdEncoding.EncodeToString(sum[:])
}

func (b *bench) put(snapshot string, i int, data []byte) error {
	_, err := b.ebs.PutSnapshotBlock(b.ctx, &ebs.PutSnapshotBlockInput{
		SnapshotId: &snapshot, BlockIndex: aws.Int32(int32(i)), BlockData: bytes.NewReader(data), DataLength: aws.Int32(blockSize),
		Checksum: aws.String(sumOf(data)), ChecksumAlgorithm: ebstypes.ChecksumAlgorithmChecksumAlgorithmSha256,
	})
	return err
}

// snapshot makes a completed snapshot of 1 GiB.
func (b *bench) snap(parent string, blocks map[int]byte) string {
	b.Helper()
	in := &ebs.StartSnapshotInput{VolumeSize: aws.Int64(1)}
	if parent != "" {
		in.ParentSnapshotId = &parent
	}
	s, err := b.ebs.StartSnapshot(b.ctx, in)
	b.no(err)
	for i, c := range blocks {
		b.no(b.put(*s.SnapshotId, i, block(c)))
	}
	done, err := b.ebs.CompleteSnapshot(b.ctx, &ebs.CompleteSnapshotInput{SnapshotId: s.SnapshotId, ChangedBlocksCount: aws.Int32(int32(len(blocks)))})
	b.no(err)
	if done.Status != ebstypes.StatusPending {
		b.Errorf("Complete answers %s", done.Status)
	}
	b.until(func() bool { return b.has("snapshot " + *s.SnapshotId + " completed") })
	return *s.SnapshotId
}

func imageOf(snapshot, name string) *ec2.RegisterImageInput {
	return &ec2.RegisterImageInput{
		Name: &name, Architecture: types.ArchitectureValuesX8664, VirtualizationType: aws.String("hvm"), EnaSupport: aws.Bool(true),
		RootDeviceName:      aws.String("/dev/sda1"),
		BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sda1"), Ebs: &types.EbsBlockDevice{SnapshotId: &snapshot}}},
	}
}

func tagSpec(of types.ResourceType, pairs ...string) []types.TagSpecification {
	var tags []types.Tag
	for i := 0; i < len(pairs); i += 2 {
		tags = append(tags, types.Tag{Key: &pairs[i], Value: &pairs[i+1]})
	}
	return []types.TagSpecification{{ResourceType: of, Tags: tags}}
}

func (b *bench) image(in *ec2.RegisterImageInput) string {
	b.Helper()
	m, err := b.ec2.RegisterImage(b.ctx, in)
	b.no(err)
	b.until(func() bool { return b.has("image " + *m.ImageId + " available") })
	return *m.ImageId
}

func machineOf(image string) *ec2.RunInstancesInput {
	return &ec2.RunInstancesInput{ImageId: &image, InstanceType: "t3.micro", MinCount: aws.Int32(1), MaxCount: aws.Int32(1)}
}

func (b *bench) machine(in *ec2.RunInstancesInput) string {
	b.Helper()
	r, err := b.ec2.RunInstances(b.ctx, in)
	b.no(err)
	id := *r.Instances[0].InstanceId
	b.until(func() bool { return b.has("instance " + id + " running") })
	return id
}

// A deploy as AWS's SDK makes it: everything that it makes is there and goes again.
func TestWholeDeploy(t *testing.T) {
	b := newBench(t, Options{})
	who, err := b.sts.GetCallerIdentity(b.ctx, nil)
	b.no(err)
	if *who.Account != b.Account() {
		t.Errorf("account %s", *who.Account)
	}
	before := b.Resources()
	snapshot := b.snap("", map[int]byte{0: 1, 5: 2})
	in := imageOf(snapshot, "morgana/a/b")
	in.TagSpecifications = tagSpec("image", "morgana:app", "a")
	image := b.image(in)
	run := machineOf(image)
	for _, kind := range []types.ResourceType{"instance", "volume", "network-interface"} {
		run.TagSpecifications = append(run.TagSpecifications, tagSpec(kind, "morgana:app", "a")...)
	}
	b.SetConsole(func(id string) string { return strings.Repeat("x", 70<<10) + "hello from " + id })
	id := b.machine(run)

	filter := []types.Filter{{Name: aws.String("tag:morgana:app"), Values: []string{"a"}}}
	found, err := b.ec2.DescribeInstances(b.ctx, &ec2.DescribeInstancesInput{Filters: filter})
	b.no(err)
	i := found.Reservations[0].Instances[0]
	if *i.InstanceId != id || i.State.Name != "running" || *i.PublicIpAddress == "" || len(i.BlockDeviceMappings) != 1 || len(i.NetworkInterfaces) != 1 {
		t.Errorf("instance %+v", i)
	}
	volumes, err := b.ec2.DescribeVolumes(b.ctx, &ec2.DescribeVolumesInput{Filters: filter})
	b.no(err)
	cards, err := b.ec2.DescribeNetworkInterfaces(b.ctx, &ec2.DescribeNetworkInterfacesInput{Filters: filter})
	b.no(err)
	images, err := b.ec2.DescribeImages(b.ctx, &ec2.DescribeImagesInput{Filters: filter, Owners: []string{"self"}})
	b.no(err)
	if len(volumes.Volumes) != 1 || len(cards.NetworkInterfaces) != 1 || len(images.Images) != 1 || *images.Images[0].BlockDeviceMappings[0].Ebs.SnapshotId != snapshot {
		t.Errorf("%d volumes, %d interfaces, %d images", len(volumes.Volumes), len(cards.NetworkInterfaces), len(images.Images))
	}
	out, err := b.ec2.GetConsoleOutput(b.ctx, &ec2.GetConsoleOutputInput{InstanceId: &id, Latest: aws.Bool(true)})
	b.no(err)
	if text, err := base64.StdEncoding.DecodeString(*out.Output); err != nil || len(text) != 64<<10 || !strings.HasSuffix(string(text), "hello from "+id) {
		t.Errorf("console of %d bytes, %v", len(text), err)
	}

	ip, err := b.ec2.AssociateAddress(b.ctx, &ec2.AssociateAddressInput{AllocationId: aws.String(b.ElasticIP()), InstanceId: &id})
	b.no(err)
	targets := []elbtypes.TargetDescription{{Id: &id}}
	b.no(failure(b.elb.RegisterTargets(b.ctx, &elb.RegisterTargetsInput{TargetGroupArn: aws.String(b.TargetGroup()), Targets: targets})))
	b.until(func() bool {
		h, err := b.elb.DescribeTargetHealth(b.ctx, &elb.DescribeTargetHealthInput{TargetGroupArn: aws.String(b.TargetGroup()), Targets: targets})
		b.no(err)
		return h.TargetHealthDescriptions[0].TargetHealth.State == elbtypes.TargetHealthStateEnumHealthy
	})
	b.no(failure(b.elb.DeregisterTargets(b.ctx, &elb.DeregisterTargetsInput{TargetGroupArn: aws.String(b.TargetGroup()), Targets: targets})))
	if *ip.AssociationId == "" || !b.has("address "+b.ElasticIP()+" "+id) || b.Targets() != nil {
		t.Errorf("%q, targets %q", b.Resources(), b.Targets())
	}

	b.no(failure(b.ec2.TerminateInstances(b.ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{id}})))
	_, err = b.ec2.DeleteSnapshot(b.ctx, &ec2.DeleteSnapshotInput{SnapshotId: &snapshot})
	if code(err) != "InvalidSnapshot.InUse" {
		t.Errorf("a snapshot in use: %v", err)
	}
	b.no(failure(b.ec2.DeregisterImage(b.ctx, &ec2.DeregisterImageInput{ImageId: &image})))
	b.no(failure(b.ec2.DeleteSnapshot(b.ctx, &ec2.DeleteSnapshotInput{SnapshotId: &snapshot})))
	b.until(func() bool { return slices.Equal(b.Resources(), before) })
	gone, err := b.ec2.DescribeInstances(b.ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
	b.no(err)
	if s := gone.Reservations[0].Instances[0].State.Name; s != "terminated" {
		t.Errorf("the instance is %s", s)
	}
	Judge(t, b.Calls())
}

// A child has its parent's blocks but for those that it has itself.
func TestChild(t *testing.T) {
	b := newBench(t, Options{})
	parent := b.snap("", map[int]byte{0: 1, 7: 2})
	child := b.snap(parent, map[int]byte{7: 0, 9: 3})
	_, err := b.ec2.DeleteSnapshot(b.ctx, &ec2.DeleteSnapshotInput{SnapshotId: &parent})
	b.no(err)
	file := filepath.Join(t.TempDir(), "disk")
	b.no(b.WriteSnapshot(child, file))
	f, err := os.Open(file)
	b.no(err)
	defer func() { _ = f.Close() }()
	for i, c := range map[int]byte{0: 1, 5: 0, 7: 0, 9: 3, 2047: 0} {
		got := make([]byte, blockSize)
		if _, err := f.ReadAt(got, int64(i)*blockSize); err != nil || !bytes.Equal(got, block(c)) {
			t.Errorf("block %d begins with %v, want %d: %v", i, got[:1], c, err)
		}
	}
	changed, err := b.ebs.ListSnapshotBlocks(b.ctx, &ebs.ListSnapshotBlocksInput{SnapshotId: &child})
	b.no(err)
	if len(changed.Blocks) != 3 {
		t.Errorf("%d blocks", len(changed.Blocks))
	}
	one, err := b.ebs.GetSnapshotBlock(b.ctx, &ebs.GetSnapshotBlockInput{SnapshotId: &child, BlockIndex: aws.Int32(9), BlockToken: changed.Blocks[2].BlockToken})
	b.no(err)
	defer func() { _ = one.BlockData.Close() }()
	if *one.DataLength != blockSize {
		t.Errorf("block of %d bytes", *one.DataLength)
	}
	if puts := b.Puts(child); len(puts) != 2 || puts[7] != 1 {
		t.Errorf("puts %v", puts)
	}
}
