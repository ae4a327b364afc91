package ec2

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/ec2lab"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

// labFor starts a lab without a hypervisor, and makes it the EC2 of this process.
func labFor(t *testing.T) *ec2lab.Lab {
	t.Helper()
	lab := start(t, nil)
	for _, pair := range lab.Env() {
		name, value, _ := strings.Cut(pair, "=")
		t.Setenv(name, value)
	}
	return lab
}

// checked calls Check with options as JSON for a kernel with these ABIs.
func checked(t *testing.T, abis []string, options string) (step.Spec, error) {
	t.Helper()
	return New(step.Site{}).Check(t.Context(), step.Spec{Tags: step.Tags{App: "hello", Target: "prod", Life: "0a1b2c3d", Generation: 1},
		Kind: Kind, Options: json.RawMessage(options), Origin: step.Origin{ABIs: abis}})
}

var (
	helloABIs = []string{image.Multiboot2, image.PVH, image.XenPV, image.XenPVH}
	pvABIs    = []string{image.XenPV}
)

func TestCheckCompletes(t *testing.T) {
	lab := labFor(t)
	before := lab.Resources()
	const place = `"region":"eu-west-1","account":"111122223333","backing":"direct"`
	for options, test := range map[string]struct {
		abis []string
		want string
	}{
		`{}`:                   {helloABIs, `{` + place + `,"instance_type":"t3.micro","virtualization":"hvm","boot_mode":"legacy-bios","timeout":"10m"}`},
		`{"boot_mode":"uefi"}`: {nil, `{` + place + `,"instance_type":"t3.micro","virtualization":"hvm","boot_mode":"uefi","timeout":"10m"}`},
		`{"timeout":"5m"}`:     {pvABIs, `{` + place + `,"instance_type":"t1.micro","virtualization":"paravirtual","layout":"hd0","kernel_id":"aki-dc9ed9af","timeout":"5m"}`},
		`{"kernel_id":"aki-dc9ed9af","instance_type":"m3.medium"}`: {helloABIs,
			`{` + place + `,"instance_type":"m3.medium","virtualization":"paravirtual","layout":"hd0","kernel_id":"aki-dc9ed9af","timeout":"10m"}`},
		`{"key_name":"ann","port":80,"spot":true,"placement":{"group":"near","zone":"eu-west-1b"}}`: {helloABIs,
			`{` + place + `,"instance_type":"t3.micro","virtualization":"hvm","boot_mode":"legacy-bios","key_name":"ann","spot":true,"placement":{"zone":"eu-west-1b","group":"near"},"port":80,"timeout":"10m"}`},
		fmt.Sprintf(`{"subnets":[%q],"security_groups":[%q],"elastic_ip":%q,"target_group":%q}`, lab.PrivateSubnet(), lab.SecurityGroup(), lab.ElasticIP(), lab.TargetGroup()): {helloABIs,
			fmt.Sprintf(`{`+place+`,"instance_type":"t3.micro","virtualization":"hvm","boot_mode":"legacy-bios","subnets":[%q],"security_groups":[%q],"elastic_ip":%q,"target_group":%q,"timeout":"10m"}`,
				lab.PrivateSubnet(), lab.SecurityGroup(), lab.ElasticIP(), lab.TargetGroup())},
	} {
		spec, err := checked(t, test.abis, options)
		if err != nil {
			t.Errorf("%s: %v", options, err)
			continue
		}
		if string(spec.Options) != test.want || !spec.Alone || spec.Host != "" {
			t.Errorf("%s: alone %v, host %q\n got %s\nwant %s", options, spec.Alone, spec.Host, spec.Options, test.want)
		}
		again, err := checked(t, test.abis, string(spec.Options))
		if err != nil || string(again.Options) != string(spec.Options) {
			t.Errorf("a second check gives %s, %v", again.Options, err)
		}
		if _, err := read(spec.Options); err != nil {
			t.Errorf("%s: a later stage refuses it: %v", spec.Options, err)
		}
	}
	if after := lab.Resources(); !slices.Equal(before, after) {
		t.Errorf("check has made something: %q, %q", before, after)
	}
	for _, c := range lab.Calls() {
		if !strings.HasPrefix(c.Name, "Describe") && !strings.HasPrefix(c.Name, "Get") {
			t.Errorf("check calls %s", c.Name)
		}
	}
}

// An encrypted parent serves only encrypted snapshots, so Check writes down what the
// account does anyway.
func TestCheckEncryptsAsTheAccountDoes(t *testing.T) {
	lab := labFor(t)
	lab.EncryptByDefault()
	spec, err := checked(t, helloABIs, `{}`)
	if err != nil || !strings.Contains(string(spec.Options), `"encrypted":true`) {
		t.Errorf("got %s, %v", spec.Options, err)
	}
}

// The texts are those that a user reads. EC2's part of them is the lab's.
func TestCheckRefuses(t *testing.T) {
	lab := labFor(t)
	lab.Withdraw("t1.micro", "eu-west-1c")
	lab.Withdraw("m1.small", "eu-west-1a")
	lab.Withdraw("m1.small", "eu-west-1b")
	lab.Withdraw("m1.small", "eu-west-1c")
	subnets := lab.Subnets()
	for name, test := range map[string]struct {
		abis    []string
		options string
		want    step.Error
		says    string
	}{
		"unknown type":             {helloABIs, `{"instance_type":"x9.huge"}`, step.Error{Kind: step.InvalidSpec, Field: "instance_type"}, "types that can: t1.micro, t2.micro, t3.micro, m1.small"},
		"misspelt type":            {helloABIs, `{"instance_type":"t3.mikro"}`, step.Error{Kind: step.InvalidSpec, Field: "instance_type"}, `did you mean "t3.micro"?`},
		"PV on an HVM type":        {pvABIs, `{"instance_type":"t3.micro"}`, step.Error{Kind: step.Unsupported, Field: "instance_type"}, "t3.micro does not boot paravirtual images\ntypes that can: t1.micro, m1.small, c3.large, m3.medium"},
		"UEFI on a Xen type":       {helloABIs, `{"boot_mode":"uefi","instance_type":"t2.micro"}`, step.Error{Kind: step.Unsupported, Field: "boot_mode"}, "t2.micro does not boot by uefi\ntypes that can: t3.micro, m5.large"},
		"ARM":                      {helloABIs, `{"instance_type":"c7g.large"}`, step.Error{Kind: step.Unsupported, Field: "instance_type"}, "c7g.large has no x86_64 processor"},
		"MirageOS xen":             {image.MirageABIs("xen"), `{}`, step.Error{Kind: step.Unsupported}, "MirageOS 3.8 or earlier"},
		"virtio and a port":        {image.MirageABIs("virtio"), `{"port":80}`, step.Error{Kind: step.Unsupported, Field: "port"}, "no virtio devices"},
		"not in the zone":          {pvABIs, fmt.Sprintf(`{"subnets":[%q]}`, subnets[2]), step.Error{Kind: step.Unsupported, Field: "instance_type"}, "t1.micro is not offered in eu-west-1c\nit is offered in eu-west-1a, eu-west-1b"},
		"in no zone":               {pvABIs, `{"instance_type":"m1.small"}`, step.Error{Kind: step.Unsupported, Field: "instance_type"}, "another instance_type or region"},
		"AKI not found":            {pvABIs, `{"kernel_id":"aki-00000000"}`, step.Error{Kind: step.NotFound, Field: "kernel_id"}, "eu-west-1 has no AKI aki-00000000"},
		"AKI of the other layout":  {pvABIs, `{"kernel_id":"aki-dc9ed9af","layout":"hd0,0"}`, step.Error{Kind: step.InvalidSpec, Field: "kernel_id"}, `layout: "hd0"`},
		"key pair missing":         {helloABIs, `{"key_name":"bob"}`, step.Error{Kind: step.NotFound, Field: "key_name"}, "the key pair 'bob' does not exist\nname a key pair that"},
		"subnet missing":           {helloABIs, `{"subnets":["subnet-00000000"]}`, step.Error{Kind: step.NotFound, Field: "subnets"}, "'subnet-00000000' does not exist"},
		"zone without a subnet":    {helloABIs, `{"placement":{"zone":"eu-west-1z"}}`, step.Error{Kind: step.NotFound, Field: "placement.zone"}, "eu-west-1z has no default subnet"},
		"zone of another region":   {helloABIs, `{"placement":{"zone":"us-east-1a"}}`, step.Error{Kind: step.InvalidSpec, Field: "placement.zone"}, "no zone of eu-west-1"},
		"group missing":            {helloABIs, `{"security_groups":["sg-00000000"]}`, step.Error{Kind: step.NotFound, Field: "security_groups"}, "'sg-00000000' does not exist"},
		"group that lets none in":  {helloABIs, fmt.Sprintf(`{"security_groups":[%q],"port":80}`, lab.ClosedGroup()), step.Error{Kind: step.InvalidSpec, Field: "security_groups"}, "lets TCP port 80 in"},
		"placement group missing":  {helloABIs, `{"placement":{"group":"far"}}`, step.Error{Kind: step.NotFound, Field: "placement.group"}, "'far' is unknown"},
		"no public address":        {helloABIs, fmt.Sprintf(`{"subnets":[%q],"port":80}`, lab.PrivateSubnet()), step.Error{Kind: step.InvalidSpec, Field: "port"}, "gives no public address"},
		"Elastic IP missing":       {helloABIs, `{"elastic_ip":"eipalloc-00000000"}`, step.Error{Kind: step.NotFound, Field: "elastic_ip"}, "describe-addresses"},
		"target group missing":     {helloABIs, `{"target_group":"arn:aws:elasticloadbalancing:eu-west-1:111122223333:targetgroup/none/0000000000000000"}`, step.Error{Kind: step.NotFound, Field: "target_group"}, "describe-target-groups"},
		"target group, its region": {helloABIs, `{"target_group":"arn:aws:elasticloadbalancing:us-east-1:111122223333:targetgroup/web/0000000000000000"}`, step.Error{Kind: step.InvalidSpec, Field: "target_group"}, "it is in us-east-1, and the instance in eu-west-1"},
		"region of no service":     {helloABIs, `{"region":"us-east-1"}`, step.Error{Kind: step.Unauthorized, Field: "region"}, "scoped to a valid region"},
		"another account":          {helloABIs, `{"account":"999999999999"}`, step.Error{Kind: step.Unauthorized, Field: "account"}, "of account 111122223333, not of 999999999999"},
		"too large":                {helloABIs, `{"size":"20TiB"}`, step.Error{Kind: step.InvalidSpec, Field: "size"}, "16TiB"},
	} {
		_, err := checked(t, test.abis, test.options)
		refusedWith(t, name, err, test.want, test.says)
		if err != nil && !strings.HasPrefix(err.Error(), "check ec2 target: ") && !strings.HasPrefix(err.Error(), "ask ") && !strings.HasPrefix(err.Error(), "look ") {
			t.Errorf("%s: %q does not begin with its operation", name, err)
		}
	}
	// What is refused with an unset public_ip is taken with either value of it.
	for _, value := range []string{"true", "false"} {
		if _, err := checked(t, helloABIs, fmt.Sprintf(`{"subnets":[%q],"port":80,"public_ip":%s}`, lab.PrivateSubnet(), value)); err != nil {
			t.Errorf("public_ip: %s: %v", value, err)
		}
	}
}

func TestCheckWithoutTools(t *testing.T) {
	labFor(t)
	t.Setenv("PATH", t.TempDir())
	_, err := checked(t, helloABIs, `{"boot_mode":"uefi"}`)
	refusedWith(t, "no tools", err, step.Error{Kind: step.Unsupported}, "is not installed")
}

func TestCheckWithoutPermission(t *testing.T) {
	lab := labFor(t)
	lab.Deny("ec2:DescribeInstanceTypes")
	_, err := checked(t, helloABIs, `{}`)
	refusedWith(t, "denied", err, step.Error{Kind: step.Unauthorized}, "arn:aws:iam::111122223333:user/ann is not allowed ec2:DescribeInstanceTypes")
	refusedWith(t, "denied", err, step.Error{Kind: step.Unauthorized}, "docs/iam-policy.json")
}

// The dry run of RunInstances needs an AMI of the target.
func TestCheckMayRun(t *testing.T) {
	environ(t)
	r := newRegistry(t)
	target := New(r.site)
	spec := step.Spec{Kind: Kind, Tags: step.Tags{App: "hello", Target: "prod", Life: "00c0ffee", Generation: 2}, Origin: step.Origin{ABIs: helloABIs},
		Options: json.RawMessage(fmt.Sprintf(`{"endpoint":%q,"region":%q,"subnets":[%q],"public_ip":true}`, r.lab.URL(), r.lab.Region(), r.lab.Subnets()[1]))}
	r.lab.Deny("ec2:RunInstances")
	if _, err := target.Check(t.Context(), spec); err != nil {
		t.Fatalf("without an AMI: %v", err)
	}
	r.register(r.image(1, few, fewContent, nil))
	_, err := target.Check(t.Context(), spec)
	refusedWith(t, "denied", err, step.Error{Kind: step.Unauthorized}, "is not allowed ec2:RunInstances on arn:aws:ec2:")
	r.lab.Deny()
	before := r.lab.Resources()
	for _, answer := range []string{"DryRunOperation", "InsufficientInstanceCapacity", "VcpuLimitExceeded"} {
		if answer != "DryRunOperation" {
			r.lab.Fault(ec2lab.Fault{Call: "RunInstances", Code: answer})
		}
		if _, err := target.Check(t.Context(), spec); err != nil {
			t.Errorf("%s: %v", answer, err)
		}
		if calls := r.lab.Calls(); calls[len(calls)-1].Code != answer {
			t.Errorf("the last call is %+v, want the answer %s", calls[len(calls)-1], answer)
		}
	}
	if after := r.lab.Resources(); !slices.Equal(before, after) {
		t.Errorf("check has made something: %q, %q", before, after)
	}
}

func TestCheckWithBadCredentials(t *testing.T) {
	lab := labFor(t)
	lab.Expire()
	_, err := checked(t, helloABIs, `{}`)
	refusedWith(t, "expired", err, step.Error{Kind: step.Unauthorized}, "aws sso login")

	labFor(t)
	t.Setenv("AWS_SECRET_ACCESS_KEY", "another")
	_, err = checked(t, helloABIs, `{}`)
	refusedWith(t, "bad keys", err, step.Error{Kind: step.Unauthorized}, "get-caller-identity")

	config := filepath.Join(t.TempDir(), "config")
	no(t, os.WriteFile(config, []byte("[profile bad]\naws_access_key_id = AKIAOTHER\naws_secret_access_key = other\n"), 0o600))
	t.Setenv("AWS_CONFIG_FILE", config)
	_, err = checked(t, helloABIs, `{"profile":"bad"}`)
	refusedWith(t, "a profile's bad keys", err, step.Error{Kind: step.Unauthorized, Field: "profile"}, "get-caller-identity")

	t.Setenv("AWS_ACCESS_KEY_ID", "")
	_, err = checked(t, helloABIs, `{}`)
	refusedWith(t, "no credentials", err, step.Error{Kind: step.Unauthorized}, "there are no AWS credentials on this host")
}

// Nobody waits minutes for a service that is not there.
func TestInsist(t *testing.T) {
	lab := labFor(t)
	const nobody = "http://127.0.0.1:1"
	for url, says := range map[string]string{
		nobody: "connection refused",
		// RFC 6761 keeps .invalid for names that do not exist.
		"http://ec2.eu-west-9.invalid": "ec2.eu-west-9.invalid",
	} {
		c := at(t, url)
		refusedWith(t, url, c.insist(t.Context(), url, time.Second), step.Error{Kind: step.NotFound, Field: "endpoint"}, says)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := c.insist(ctx, url, time.Minute); err == nil || step.KindOf(err) != "" {
			t.Errorf("cancelled: %v", err)
		}
	}
	t.Setenv("AWS_ENDPOINT_URL", nobody)
	c, err := open(t.Context(), settings{Options: Options{Region: lab.Region()}})
	no(t, err)
	refusedWith(t, "the worker's", c.insist(t.Context(), "", time.Second), step.Error{Kind: step.NotFound}, "AWS_ENDPOINT_URL is "+nobody)

	lab.Fault(ec2lab.Fault{Call: "GetCallerIdentity", Lose: ec2lab.Before, Times: 2})
	for _, pair := range lab.Env() {
		name, value, _ := strings.Cut(pair, "=")
		t.Setenv(name, value)
	}
	if _, err := checked(t, helloABIs, "{}"); err != nil {
		t.Errorf("two answers are lost: %v", err)
	}
}

// Alone is for a target without instances, AMIs and snapshots of another life.
func TestCheckSeesAnotherLife(t *testing.T) {
	lab := labFor(t)
	c, err := open(t.Context(), settings{Options: Options{Region: lab.Region()}})
	no(t, err)
	other := step.Tags{App: "hello", Target: "prod", Life: "ffffffff", Generation: 3}
	tags, err := tagsOf(other)
	no(t, err)
	in := &ebs.StartSnapshotInput{VolumeSize: aws.Int64(1)}
	for _, t := range tags {
		in.Tags = append(in.Tags, ebstypes.Tag{Key: t.Key, Value: t.Value})
	}
	out, err := c.ebs.StartSnapshot(t.Context(), in)
	no(t, err)
	snapshot := aws.ToString(out.SnapshotId)
	spec, err := checked(t, helloABIs, `{}`)
	if err != nil || spec.Alone {
		t.Errorf("beside %s of another life: alone %v, %v", snapshot, spec.Alone, err)
	}
	no(t, failure(c.ec2.DeleteTags(t.Context(), &ec2.DeleteTagsInput{Resources: []string{snapshot}, Tags: []types.Tag{{Key: aws.String(tagLife)}}})))
	no(t, c.tag(t.Context(), []types.Tag{tag(tagLife, "0a1b2c3d")}, snapshot))
	if spec, err = checked(t, helloABIs, `{}`); err != nil || !spec.Alone {
		t.Errorf("beside %s of the same life: alone %v, %v", snapshot, spec.Alone, err)
	}
}
