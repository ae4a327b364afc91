package ec2lab

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// A lost answer is lost before or after its effect, and the token finds what was made.
func TestLost(t *testing.T) {
	b := newBench(t, Options{})
	image := b.image(imageOf(b.snap("", nil), "abc"))
	in := machineOf(image)
	in.ClientToken = aws.String("once")
	for _, c := range []struct {
		lose Lose
		want int
	}{{Before, 0}, {After, 1}, {Nothing, 1}} {
		b.Fault(Fault{Call: "RunInstances", Lose: c.lose})
		_, err := b.ec2.RunInstances(b.ctx, in)
		if (err != nil) != (c.lose != Nothing) || code(err) != "" {
			t.Errorf("lost %d: %v", c.lose, err)
		}
		machines := 0
		for _, line := range b.Resources() {
			if strings.HasPrefix(line, "instance ") {
				machines++
			}
		}
		if calls := b.Calls(); machines != c.want || (calls[len(calls)-1].Code == "lost") != (c.lose != Nothing) {
			t.Errorf("lost %d: %d instances, calls %+v", c.lose, machines, calls)
		}
	}
}

func TestFaults(t *testing.T) {
	b := newBench(t, Options{})
	b.Fault(Fault{Call: "DescribeVpcs", Skip: 1, Times: 2, Code: "RequestLimitExceeded"})
	var got []string
	for range 4 {
		_, err := b.ec2.DescribeVpcs(b.ctx, nil)
		got = append(got, code(err))
	}
	if strings.Join(got, " ") != " RequestLimitExceeded RequestLimitExceeded " {
		t.Errorf("codes %q", got)
	}
	b.Fault(Fault{Call: "StartSnapshot", Code: "ValidationException", Reason: "INVALID_TAG", Message: "no"})
	_, err := b.ebs.StartSnapshot(b.ctx, &ebs.StartSnapshotInput{VolumeSize: aws.Int64(1)})
	if code(err) != "INVALID_TAG" {
		t.Errorf("StartSnapshot: %v", err)
	}
	b.Fault(Fault{Times: -1, Delay: 30 * time.Millisecond})
	start := time.Now()
	_, _ = b.sts.GetCallerIdentity(b.ctx, nil)
	if d := time.Since(start); d < 30*time.Millisecond {
		t.Errorf("an answer after %s", d)
	}
	b.Heal()
	b.Fault(Fault{Call: "CompleteSnapshot", Stuck: true})
	s, err := b.ebs.StartSnapshot(b.ctx, &ebs.StartSnapshotInput{VolumeSize: aws.Int64(1)})
	b.no(err)
	b.no(failure(b.ebs.CompleteSnapshot(b.ctx, &ebs.CompleteSnapshotInput{SnapshotId: s.SnapshotId, ChangedBlocksCount: aws.Int32(0)})))
	time.Sleep(20 * time.Millisecond)
	if !b.has("snapshot " + *s.SnapshotId + " pending") {
		t.Errorf("%q", b.Resources())
	}
	b.Fail(*s.SnapshotId)
	if !b.has("snapshot " + *s.SnapshotId + " error") {
		t.Errorf("%q", b.Resources())
	}
}

// What was just made is not seen at first.
func TestHide(t *testing.T) {
	b := newBench(t, Options{})
	b.Hide(time.Hour)
	s, err := b.ebs.StartSnapshot(b.ctx, &ebs.StartSnapshotInput{VolumeSize: aws.Int64(1)})
	b.no(err)
	ask := func() error {
		return failure(b.ec2.DescribeSnapshots(b.ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{*s.SnapshotId}}))
	}
	if err := ask(); code(err) != "InvalidSnapshot.NotFound" {
		t.Errorf("at once: %v", err)
	}
	all, err := b.ec2.DescribeSnapshots(b.ctx, &ec2.DescribeSnapshotsInput{OwnerIds: []string{"self"}})
	if err != nil || len(all.Snapshots) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
	b.no(b.put(*s.SnapshotId, 0, block(1)))
	b.Hide(100 * time.Millisecond)
	s, err = b.ebs.StartSnapshot(b.ctx, &ebs.StartSnapshotInput{VolumeSize: aws.Int64(1)})
	b.no(err)
	b.until(func() bool { return ask() == nil })
}

// The user's permissions, keys and their age are looked at.
func TestPermission(t *testing.T) {
	b := newBench(t, Options{})
	b.Deny("ec2:CreateTags", "ebs:StartSnapshot", "elasticloadbalancing:DescribeTargetGroups")
	in := imageOf("snap-01234567", "abc")
	_, err := b.ec2.RegisterImage(b.ctx, in)
	if code(err) != "InvalidSnapshot.NotFound" {
		t.Errorf("without tags: %v", err)
	}
	in.TagSpecifications = tagSpec("image", "a", "b")
	_, err = b.ec2.RegisterImage(b.ctx, in)
	if code(err) != "UnauthorizedOperation" || !strings.Contains(err.Error(), user+" is not authorized to perform: ec2:CreateTags on resource: arn:aws:ec2:") {
		t.Fatalf("with tags: %v", err)
	}
	_, secret, _ := strings.Cut(err.Error(), "failure message: ")
	plain, err := b.sts.DecodeAuthorizationMessage(b.ctx, &sts.DecodeAuthorizationMessageInput{EncodedMessage: &secret})
	if err != nil || !strings.Contains(*plain.DecodedMessage, `"action":"ec2:CreateTags"`) {
		t.Errorf("decoded: %+v, %v", plain, err)
	}
	for _, c := range []struct {
		change        func()
		ec2, ebs, elb string
	}{
		{func() {}, "", "AccessDeniedException", "AccessDenied"},
		{func() { b.permit(`{"Effect":"Allow","Action":"ec2:DescribeVpcs","Resource":"*"}`) }, "", "AccessDeniedException", "AccessDenied"},
		{func() { b.permit("") }, "UnauthorizedOperation", "AccessDeniedException", "AccessDenied"},
		{b.Expire, "RequestExpired", "ExpiredTokenException", "ExpiredToken"},
	} {
		c.change()
		b.refused(c.ec2, c.ebs, c.elb)
	}
	for _, c := range []struct{ name, value, ec2, ebs, elb string }{
		{"AWS_SECRET_ACCESS_KEY", "other", "AuthFailure", "InvalidSignatureException", "SignatureDoesNotMatch"},
		{"AWS_ACCESS_KEY_ID", "AKIAOTHER", "AuthFailure", "UnrecognizedClientException", "InvalidClientTokenId"},
	} {
		other := newBench(t, Options{})
		t.Setenv(c.name, c.value)
		other.clients()
		other.refused(c.ec2, c.ebs, c.elb)
	}
}

// permit permits what a statement of a policy allows.
func (b *bench) permit(statement string) {
	b.Helper()
	b.no(b.Permit([]byte(`{"Statement":[` + statement + `]}`)))
}

// refused makes a call to three services and compares the codes.
func (b *bench) refused(ec2Code, ebsCode, elbCode string) {
	b.Helper()
	_, one := b.ec2.DescribeVpcs(b.ctx, nil)
	_, two := b.ebs.StartSnapshot(b.ctx, &ebs.StartSnapshotInput{VolumeSize: aws.Int64(1)})
	_, three := b.elb.DescribeTargetGroups(b.ctx, nil)
	if code(one) != ec2Code || code(two) != ebsCode || code(three) != elbCode {
		b.Errorf("want %s, %s and %s, got:\n%v\n%v\n%v", ec2Code, ebsCode, elbCode, one, two, three)
	}
}
