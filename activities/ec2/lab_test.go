package ec2

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/ec2lab"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
)

// guests is a hypervisor whose guests print a text and may end.
type guests struct {
	mu    sync.Mutex
	text  string
	ended bool
	err   error // of the next failing starts
	fails int
}

func (g *guests) set(text string, ended bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.text, g.ended = text, ended
}

// fail makes the next starts fail.
func (g *guests) fail(err error, times int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err, g.fails = err, times
}

func (g *guests) Start(context.Context, ec2lab.Guest) (ec2lab.Running, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fails--; g.fails >= 0 {
		return nil, g.err
	}
	return g, nil
}

func (g *guests) Stop() error { return nil }

func (g *guests) Console() ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return []byte(g.text), nil
}

func (g *guests) Ended() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ended
}

// bench is a lab with an AMI that a rollout has registered.
type bench struct {
	*testing.T
	lab  *ec2lab.Lab
	g    *guests
	site step.Site
	c    *cloud
	spec step.Spec
	ami  string
	// before is what the lab had before the AMI, and made what it has with it.
	before, made []string
}

// no fails the test at an error.
func no(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// closing closes something when the test ends.
func closing(t testing.TB, c io.Closer) {
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// failure is the error of a call whose result does not matter.
func failure[T any](_ T, err error) error { return err }

var oneEnviron sync.Once

// environ lets a test run at the same time as others, each with a lab of its own: its
// endpoint is in the options. All labs have the same keys, which environ puts into the
// environment. Tests with another environment have run before.
func environ(t *testing.T) {
	t.Helper()
	t.Parallel()
	labKeys(t)
}

func labKeys(t testing.TB) {
	t.Helper()
	oneEnviron.Do(func() {
		lab, err := ec2lab.Start(ec2lab.Options{})
		no(t, err)
		for _, e := range lab.Env() {
			if name, value, _ := strings.Cut(e, "="); name != "AWS_ENDPOINT_URL" {
				err = errors.Join(err, os.Setenv(name, value)) //nolint:usetesting // for all tests
			}
		}
		no(t, errors.Join(err, lab.Close()))
	})
}

// newBench starts a lab. environ was called for t or its parent.
func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{T: t, g: &guests{text: "hello from a unikernel\n"}}
	var err error
	if b.lab, err = ec2lab.Start(ec2lab.Options{Hypervisor: b.g, Moment: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	closing(t, b.lab)
	b.site = step.Site{Host: "testhost", State: t.TempDir(), Store: steptest.NewStore(t), Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	b.spec = step.Spec{Kind: Kind, Tags: step.Tags{App: "hello", Target: "prod", Life: "0a1b2c3d", Generation: 1}}
	b.options(nil)
	var s settings
	no(t, json.Unmarshal(b.spec.Options, &s.Options))
	if b.c, err = open(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	b.before = b.lab.Resources()
	b.ami = b.register()
	b.made = b.lab.Resources()
	return b
}

// options sets the options of the spec, as Check has completed them.
func (b *bench) options(change func(*Options)) {
	b.Helper()
	o := Defaults()
	o.Endpoint, o.Region, o.Account, o.Virtualization, o.BootMode = b.lab.URL(), b.lab.Region(), b.lab.Account(), virtHVM, bootBIOS
	o.InstanceType, o.Expect, o.Timeout = "t3.micro", "hello", "5m"
	if change != nil {
		change(&o)
	}
	var err error
	if b.spec.Options, err = json.Marshal(o); err != nil {
		b.Fatal(err)
	}
}

// register makes a snapshot and an AMI with the tags that Register gives them.
func (b *bench) register() string {
	b.Helper()
	ctx := b.Context()
	tags, err := tagsOf(b.spec.Tags)
	use, failed := useTag(b.spec.Tags)
	if err != nil || failed != nil {
		b.Fatal(err, failed)
	}
	tags = append(tags, use)
	var same []ebstypes.Tag
	for _, t := range tags {
		same = append(same, ebstypes.Tag{Key: t.Key, Value: t.Value})
	}
	s, err := b.c.ebs.StartSnapshot(ctx, &ebs.StartSnapshotInput{VolumeSize: aws.Int64(1), Tags: same})
	no(b, err)
	block := strings.Repeat("x", 512<<10)
	sum := sha256.Sum256([]byte(block))
	_, err = b.c.ebs.PutSnapshotBlock(ctx, &ebs.PutSnapshotBlockInput{
		SnapshotId: s.SnapshotId, BlockIndex: aws.Int32(0), BlockData: strings.NewReader(block), DataLength: aws.Int32(512 << 10),
		Checksum: aws.String(base64.StdEncoding.EncodeToString(sum[:])), ChecksumAlgorithm: ebstypes.ChecksumAlgorithmChecksumAlgorithmSha256})
	if err == nil {
		_, err = b.c.ebs.CompleteSnapshot(ctx, &ebs.CompleteSnapshotInput{SnapshotId: s.SnapshotId, ChangedBlocksCount: aws.Int32(1)})
	}
	no(b, err)
	b.eventually("the snapshot is completed", func() bool {
		return slices.Contains(b.lab.Resources(), "snapshot "+*s.SnapshotId+" completed")
	})
	folder, _ := b.spec.Folder() // useTag has checked it
	ami, err := b.c.ec2.RegisterImage(ctx, &ec2.RegisterImageInput{
		Name: aws.String("morgana/" + folder + "/0123"), Architecture: types.ArchitectureValuesX8664, VirtualizationType: aws.String("hvm"),
		RootDeviceName: aws.String("/dev/xvda"), EnaSupport: aws.Bool(true),
		BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/xvda"), Ebs: &types.EbsBlockDevice{SnapshotId: s.SnapshotId}}},
		TagSpecifications:   []types.TagSpecification{{ResourceType: types.ResourceTypeImage, Tags: tags}},
	})
	no(b, err)
	b.eventually("the AMI is available", func() bool {
		return slices.Contains(b.lab.Resources(), "image "+*ami.ImageId+" available")
	})
	return *ami.ImageId
}

func (b *bench) eventually(what string, is func() bool) {
	b.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if is() {
			return
		}
	}
	b.Fatalf("never: %s\n%s", what, strings.Join(b.lab.Resources(), "\n"))
}

// registration returns that of the AMI for a generation.
func (b *bench) registration(generation int) step.Registration {
	r := step.Registration{Spec: b.spec, Digest: strings.Repeat("0", 64), ID: b.ami}
	r.Spec.Generation = generation
	return r
}

// use tags the AMI and its snapshot with a further generation's use, as Register does.
func (b *bench) use(generation int) {
	b.Helper()
	t := b.spec.Tags
	t.Generation = generation
	use, err := useTag(t)
	no(b, err)
	ids := []string{b.ami, b.snapshot()}
	no(b, b.c.tag(b.Context(), []types.Tag{use}, ids...))
}

func (b *bench) snapshot() string {
	for _, line := range b.made {
		if f := strings.Fields(line); f[0] == "snapshot" {
			return f[1]
		}
	}
	return ""
}

// retried calls a step as Temporal does: again, unless its error is final.
func retried[T any](b *bench, call func() (T, error)) T {
	b.Helper()
	var out T
	var err error
	for range 10 {
		if out, err = call(); err == nil {
			return out
		}
		if step.KindOf(err).Final() {
			break
		}
	}
	b.Fatalf("%v", err)
	return out
}

func (b *bench) boot(generation int) step.Machine {
	b.Helper()
	return retried(b, func() (step.Machine, error) { return New(b.site).Boot(b.Context(), b.registration(generation)) })
}

// destroy removes a generation, or all if it is 0.
func (b *bench) destroy(generation int) []string {
	b.Helper()
	what := step.Removal{Spec: b.spec}
	what.Spec.Generation = generation
	var removed []string
	retried(b, func() (step.Destroyed, error) {
		done, err := New(b.site).Destroy(b.Context(), what)
		removed = append(removed, done.Removed...)
		return done, err
	})
	return removed
}

// stop removes a generation's machines, and keeps the image.
func (b *bench) stop(generation int) {
	b.Helper()
	spec := b.registration(generation).Spec
	retried(b, func() (step.Destroyed, error) {
		return New(b.site).Destroy(b.Context(), step.Removal{Spec: spec, KeepImage: true})
	})
}

// called returns the calls of a name that came.
func (b *bench) called(name string) (all []ec2lab.Call) {
	for _, c := range b.lab.Calls() {
		if c.Name == name {
			all = append(all, c)
		}
	}
	return all
}

// instances counts the lab's instances that are not terminated.
func (b *bench) instances() (n int) {
	for _, line := range b.lab.Resources() {
		if strings.HasPrefix(line, "instance ") {
			n++
		}
	}
	return n
}

// holder returns the instance that has the Elastic IP.
func (b *bench) holder() string {
	b.Helper()
	return b.holderOf(b.lab.ElasticIP())
}

func (b *bench) holderOf(ip string) string {
	b.Helper()
	_, holder, err := b.c.elasticIP(b.Context(), ip)
	no(b, err)
	return holder
}

// left compares the lab's resources with those of an earlier time.
func (b *bench) left(want []string) {
	b.Helper()
	if now := b.lab.Resources(); !slices.Equal(now, want) {
		b.Errorf("left in the account:\n%s\nnot:\n%s", strings.Join(now, "\n"), strings.Join(want, "\n"))
	}
}
