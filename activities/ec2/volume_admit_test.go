package ec2

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/morgana-deploy/morgana/ec2lab"
	"github.com/morgana-deploy/morgana/step"
)

// TestVolumeAdmitsWorkerAlone removes rules of the security group that are not the dance's.
func TestVolumeAdmitsWorkerAlone(t *testing.T) {
	environ(t)
	for name, foreign := range map[string]types.IpPermission{
		"IPv6":                         {IpProtocol: aws.String("tcp"), FromPort: aws.Int32(22), ToPort: aws.Int32(22), Ipv6Ranges: []types.Ipv6Range{{CidrIpv6: aws.String("::/0")}}},
		"another port of the worker":   {IpProtocol: aws.String("tcp"), FromPort: aws.Int32(80), ToPort: aws.Int32(80), IpRanges: []types.IpRange{{CidrIp: aws.String("127.0.0.1/32")}}},
		"another prefix":               {IpProtocol: aws.String("tcp"), FromPort: aws.Int32(22), ToPort: aws.Int32(22), IpRanges: []types.IpRange{{CidrIp: aws.String("192.0.2.0/24")}}},
		"all protocols and the worker": {IpProtocol: aws.String("-1"), IpRanges: []types.IpRange{{CidrIp: aws.String("127.0.0.1/32")}}},
		"a group":                      {IpProtocol: aws.String("tcp"), FromPort: aws.Int32(22), ToPort: aws.Int32(22), UserIdGroupPairs: []types.UserIdGroupPair{{GroupId: nil}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDancer(t)
			d.lab.Fault(ec2lab.Fault{Call: "AuthorizeSecurityGroupIngress", Lose: ec2lab.Before})
			if _, err := hasty(d.site).Register(t.Context(), d.img); err == nil || step.KindOf(err).Final() {
				t.Fatal(err)
			}
			id := d.mine().groups[0].GroupId
			for i := range foreign.UserIdGroupPairs {
				foreign.UserIdGroupPairs[i].GroupId = id
			}
			no(t, failure(d.cloud.ec2.AuthorizeSecurityGroupIngress(t.Context(), &ec2.AuthorizeSecurityGroupIngressInput{GroupId: id, IpPermissions: []types.IpPermission{foreign}})))
			_, err := d.try(t.Context())
			d.closed(err)
			rules := d.mine().groups[0].IpPermissions
			if len(rules) != 1 || aws.ToInt32(rules[0].FromPort) != sshPort || aws.ToInt32(rules[0].ToPort) != sshPort || len(rules[0].Ipv6Ranges)+len(rules[0].UserIdGroupPairs) > 0 ||
				len(rules[0].IpRanges) != 1 || *rules[0].IpRanges[0].CidrIp != "127.0.0.1/32" {
				t.Errorf("the security group lets in %+v", rules)
			}
		})
	}
}

// TestAddressTowards asks the service only if NAT may be between this host and the helper.
func TestAddressTowards(t *testing.T) {
	const seen = "203.0.113.7"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, seen) }))
	defer s.Close()
	if from, err := addressTowards(t.Context(), "127.0.0.1", s.URL); from != "127.0.0.1" || err != nil {
		t.Errorf("towards this host: %q, %v", from, err)
	}
	const public = "52.16.1.2"
	if from, err := addressTowards(t.Context(), public, s.URL); from != seen || err != nil {
		t.Errorf("towards a public address: %q, %v", from, err)
	}
	for address, want := range map[string]bool{"10.1.2.3": true, "172.31.1.2": true, "192.168.0.9": true, "100.72.0.1": true, "127.0.0.9": true, public: false, "100.128.0.1": false} {
		if internal(address) != want {
			t.Errorf("%s is internal: %t", address, !want)
		}
	}
}

// TestVolumeUnknownGroup goes on although EC2 does not know the security group for a moment, and
// blames no option for it.
func TestVolumeUnknownGroup(t *testing.T) {
	environ(t)
	for _, c := range []string{"InvalidSecurityGroupID.NotFound", "InvalidGroup.NotFound", "InvalidKeyPair.NotFound"} {
		d := newDancer(t)
		d.lab.Fault(ec2lab.Fault{Call: "RunInstances", Code: c})
		_, err := hasty(d.site).Register(t.Context(), d.img)
		d.closed(err)
		refusedWith(t, c, notRun(&smithy.GenericAPIError{Code: c, Message: "It does not exist"}), step.Error{}, "run the helper: it does not exist")
	}
	refusedWith(t, "subnet", notRun(&smithy.GenericAPIError{Code: "InvalidSubnetID.NotFound"}), step.Error{Kind: step.NotFound, Field: "helper.subnet"}, "describe-subnets")
}
