package ec2lab

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// A page may be empty and not the last.
func TestPages(t *testing.T) {
	b := newBench(t, Options{})
	b.Page(1)
	pages, empty, found := 0, 0, 0
	all := ec2.NewDescribeImagesPaginator(b.ec2, &ec2.DescribeImagesInput{
		Owners: []string{"amazon"}, IncludeDeprecated: aws.Bool(true), Filters: []types.Filter{{Name: aws.String("name"), Values: []string{"pv-grub-hd0_1.0?-x86_64.*"}}},
	})
	for all.HasMorePages() {
		p, err := all.NextPage(b.ctx)
		b.no(err)
		pages++
		found += len(p.Images)
		if len(p.Images) == 0 && p.NextToken != nil {
			empty++
		}
	}
	if pages != len(grubs)+len(linuxes) || empty == 0 || found != 2 {
		t.Errorf("%d pages, %d empty, %d images", pages, empty, found)
	}
	b.Page(0)
	for id, want := range map[string]int{"": 0, grubs[0][0]: 1} { // deprecated ones are hidden unless named
		in := &ec2.DescribeImagesInput{Owners: []string{"amazon"}, Filters: []types.Filter{{Name: aws.String("image-type"), Values: []string{"kernel"}}}}
		if id != "" {
			in.ImageIds = []string{id}
		}
		if out, err := b.ec2.DescribeImages(b.ctx, in); err != nil || len(out.Images) != want {
			t.Errorf("%q: %v, %v", id, out, err)
		}
	}
	if _, err := b.ec2.DescribeImages(b.ctx, &ec2.DescribeImagesInput{NextToken: aws.String("x")}); code(err) != "InvalidNextToken" {
		t.Errorf("a wrong token: %v", err)
	}
}

// A request that the SDK does not make is refused: unknown, missing, misspelt and
// mistyped parameters, another version, no signature.
func TestRawRequests(t *testing.T) {
	b := newBench(t, Options{})
	for query, want := range map[string]string{
		"Action=DescribeVpcs&Version=2016-11-15":                                                      "200 ",
		"Action=DescribeVpcs&Version=2016-11-15&Filters.1.Name=x":                                     "400 UnknownParameter",
		"Action=DescribeVpcs&Version=2016-11-15&Filter.1.Value.1=x&Filter.2.Value.x=y":                "400 UnknownParameter",
		"Action=DescribeVpcs&Version=2016-11-15&VpcId.2=vpc-01234567":                                 "400 InvalidParameterValue",
		"Action=RunInstances&Version=2016-11-15&ImageId=ami-01234567&MinCount=1&MaxCount=1&DryRun=0":  "400 InvalidParameterValue",
		"Action=DescribeImages&Version=2016-11-15&ExecutableBy.1=self":                                "400 Unsupported",
		"Action=DescribeVpcs&Version=2016-11-15&MaxResults=ten":                                       "400 InvalidParameterValue",
		"Action=DescribeVpcs&Version=2016-11-15&DryRun=yes":                                           "400 InvalidParameterValue",
		"Action=DescribeVpcs&Version=2016-11-15&DryRun=true":                                          "412 DryRunOperation",
		"Action=DescribeVpcs&Version=2014-10-01":                                                      "400 NoSuchVersion",
		"Action=DescribeVpc&Version=2016-11-15":                                                       "400 InvalidAction",
		"Action=RunInstances&Version=2016-11-15&ImageId=ami-01234567&MinCount=1":                      "400 MissingParameter",
		"Action=RunInstances&Version=2016-11-15&TagSpecification.1.Tags.1.Key=a":                      "400 UnknownParameter",
		"Action=CreateTags&Version=2016-11-15&ResourceId.1=ami-01234567&Tag.1.Key=a&Tag.1.Key=b":      "400 InvalidParameterCombination",
		"Action=DescribeImages&Version=2016-11-15&Filter.1.Name=name":                                 "400 InvalidParameterValue",
		"Action=RegisterImage&Version=2016-11-15&Name=abc&Architecture=x86_64&VirtualizationType=HVM": "400 InvalidParameterValue",
	} {
		if got := b.raw(query, true, time.Now()); got != want {
			t.Errorf("%s: got %s, want %s", query, got, want)
		}
	}
	if got := b.raw("Action=DescribeVpcs&Version=2016-11-15", false, time.Now()); got != "403 MissingAuthenticationToken" {
		t.Errorf("without a signature: %s", got)
	}
	if got := b.raw("Action=DescribeVpcs&Version=2016-11-15", true, time.Now().Add(-time.Hour)); got != "400 RequestExpired" {
		t.Errorf("an old signature: %s", got)
	}
}

// raw sends a query and returns the status and the code.
func (b *bench) raw(query string, sign bool, at time.Time) string {
	r, err := http.NewRequestWithContext(b.ctx, http.MethodPost, b.URL()+"/", strings.NewReader(query))
	b.no(err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if sign {
		b.no(v4.NewSigner().SignHTTP(b.ctx, aws.Credentials{AccessKeyID: accessKey, SecretAccessKey: secretKey}, r, fmt.Sprintf("%x", sha256.Sum256([]byte(query))), "ec2", region, at))
	}
	a, err := http.DefaultClient.Do(r)
	b.no(err)
	defer func() { _ = a.Body.Close() }()
	calls := b.Calls()
	if values, err := url.ParseQuery(query); err != nil || calls[len(calls)-1].Name != values.Get("Action") {
		b.Errorf("the lab has recorded %+v", calls[len(calls)-1])
	}
	return fmt.Sprint(a.StatusCode, " ", calls[len(calls)-1].Code)
}

// An error has the request's id, and the status is AWS's.
func TestErrorForm(t *testing.T) {
	b := newBench(t, Options{})
	b.Fault(Fault{Call: "RunInstances", Code: "InsufficientInstanceCapacity"})
	_, capacity := b.ec2.RunInstances(b.ctx, machineOf("ami-01234567"))
	b.Deny("elasticloadbalancing:DescribeTargetGroups")
	_, denied := b.elb.DescribeTargetGroups(b.ctx, nil)
	_, missing := b.ebs.ListSnapshotBlocks(b.ctx, &ebs.ListSnapshotBlocksInput{SnapshotId: aws.String("snap-01234567")})
	for _, c := range []struct {
		err    error
		status int
	}{{capacity, 500}, {denied, 403}, {missing, 404}} {
		var answer *smithyhttp.ResponseError
		if !errors.As(c.err, &answer) || answer.HTTPStatusCode() != c.status || !strings.Contains(c.err.Error(), "RequestID: ") || strings.Contains(c.err.Error(), "RequestID: ,") {
			t.Errorf("want status %d: %v", c.status, c.err)
		}
	}
	out, err := b.ec2.DescribeVpcs(b.ctx, nil)
	b.no(err)
	if id, ok := awsmiddleware.GetRequestIDMetadata(out.ResultMetadata); !ok || id == "" {
		t.Error("an answer without the request's id")
	}
}
