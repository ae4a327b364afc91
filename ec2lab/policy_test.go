package ec2lab

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// The resources and the conditions of a policy count, and not its actions alone.
func TestPermit(t *testing.T) {
	b := newBench(t, Options{})
	start := func(key string) (string, error) {
		in := &ebs.StartSnapshotInput{VolumeSize: aws.Int64(1)}
		if key != "" {
			in.Tags = []ebstypes.Tag{{Key: &key, Value: aws.String("x")}}
		}
		out, err := b.ebs.StartSnapshot(b.ctx, in)
		if err != nil {
			return "", err
		}
		return *out.SnapshotId, nil
	}
	ours, err := start("app")
	b.no(err)
	other, err := start("")
	b.no(err)
	const begin, tag = `{"Effect":"Allow","Action":["ebs:StartSnapshot"],"Resource":"arn:aws:ec2:*::snapshot/*","Condition":{"StringLike":{"aws:RequestTag/app":"*"}}},`,
		`{"Effect":"Allow","Action":"ec2:CreateTags","Resource":"*","Condition":`
	for _, c := range []struct {
		statements                        string
		start, startBare, tagOurs, tagOne bool
	}{
		{begin + tag + `{"StringEquals":{"aws:ResourceTag/app":["y","x"]}}}`, false, false, true, false},
		{begin + tag + `{"StringEquals":{"aws:ResourceTag/app":"*"}}}`, false, false, false, false},
		{begin + tag + `{"StringLike":{"aws:RequestTag/app":"x"}}}`, true, false, false, false},
		{begin + tag + `{"StringLike":{"aws:RequestTag/b":"c"}}}`, false, false, true, true},
		{`{"Effect":"Allow","Action":"*","Resource":"arn:aws:ec2:*:*:instance/*"}`, false, false, false, false},
		{`{"Effect":"Allow","Action":"e??:*","Resource":["*"]}`, true, true, true, true},
	} {
		b.permit(c.statements)
		check := func(what string, err error, allowed bool) {
			if (err == nil) != allowed || err != nil && code(err) != "UnauthorizedOperation" && code(err) != "AccessDeniedException" {
				t.Errorf("%s: %s: allowed %v, got %v", c.statements, what, allowed, err)
			}
		}
		_, err := start("app")
		check("start with tags", err, c.start)
		_, err = start("")
		check("start without", err, c.startBare)
		for id, allowed := range map[string]bool{ours: c.tagOurs, other: c.tagOne} {
			_, err = b.ec2.CreateTags(b.ctx, &ec2.CreateTagsInput{Resources: []string{id}, Tags: []types.Tag{{Key: aws.String("b"), Value: aws.String("c")}}})
			check("tag "+id, err, allowed)
		}
	}
	for _, wrong := range []string{`{"Effect":"Deny"}`, `{"Effect":"Allow","Condition":{"Null":{"a":"true"}}}`, `{"Action":1}`} {
		if b.Permit([]byte(`{"Statement":[`+wrong+`]}`)) == nil {
			t.Errorf("%s: no error", wrong)
		}
	}
}
