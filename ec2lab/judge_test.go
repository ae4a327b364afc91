package ec2lab

import (
	"net/url"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"

	"github.com/morgana-deploy/morgana/need"
)

// The lab answers as moto does where moto is faithful. boto3 is a second SDK.
func TestMotoAgrees(t *testing.T) {
	b := newBench(t, Options{})
	need.RunPython(t, requirements, motoPeer, "", b.URL())
}

// The lab's answers are those of the API.
func TestAnswers(t *testing.T) {
	b := newBench(t, Options{})
	image := change(imageOf(b.snap("", nil), "abc"), func(m *ec2.RegisterImageInput) {
		m.TagSpecifications, m.BootMode, m.Description = tagSpec("image", "a", "b"), "uefi", aws.String("c")
	})
	id := b.machine(change(machineOf(b.image(image)), func(in *ec2.RunInstancesInput) {
		in.TagSpecifications, in.KeyName, in.ClientToken = tagSpec("instance", "a", "b"), aws.String("ann"), aws.String("token")
		in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Name: aws.String("web")}
		in.InstanceMarketOptions = &types.InstanceMarketOptionsRequest{MarketType: "spot"}
	}))
	_, err := b.elb.RegisterTargets(b.ctx, &elb.RegisterTargetsInput{TargetGroupArn: aws.String(b.TargetGroup()), Targets: []elbtypes.TargetDescription{{Id: &id}}})
	b.no(err)
	b.no(failure(b.ec2.AssociateAddress(b.ctx, &ec2.AssociateAddressInput{AllocationId: aws.String(b.ElasticIP()), InstanceId: &id})))
	need.RunPython(t, requirements, answers, "", b.URL())
}

// fails is a test that keeps its errors.
type fails struct {
	testing.TB
	text []string
}

func (f *fails) Errorf(_ string, a ...any) { f.text = append(f.text, string(a[0].([]byte))) }

// Judge says what is wrong with a request, and the lab's own calls are right.
func TestJudge(t *testing.T) {
	f := &fails{TB: t}
	call := func(service, name, query string) Call {
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		return Call{Service: service, Name: name, Params: v}
	}
	Judge(f, []Call{
		call("ec2", "RunInstances", "Action=RunInstances&Version=2016-11-15&ImageId=ami-1&MinCount=1&InstanceType=t9.micro&TagSpecification.1.Tags.1.Key=a"),
		call("ec2", "DescribeImages", "Filter.1.Value.2=x&Owner.1=self&MaxResults=ten"),
		call("ebs", "PutSnapshotBlock", "SnapshotId=snap-1&BlockIndex=0&Checksum=x&ChecksumAlgorithm=SHA1"),
		call("elasticloadbalancing", "RegisterTargets", "TargetGroupArn=a&Targets.member.1.Port=80"),
		call("sts", "WhoAmI", ""),
	})
	got := strings.Join(f.text, "")
	for _, want := range []string{
		`ec2 RunInstances: Missing required parameter in input: "MaxCount"`, "RunInstances: InstanceType is 't9.micro'", "TagSpecification.1.Tags.1.Key is unknown",
		"Filter.1.Value.2 is unknown", "MaxResults is 'ten'", `Missing required parameter in input: "DataLength"`, "ChecksumAlgorithm is 'SHA1'",
		`Missing required parameter in Targets[0]: "Id"`, "sts: there is no WhoAmI",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
}
