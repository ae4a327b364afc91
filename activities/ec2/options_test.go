package ec2

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

func TestReadRefuses(t *testing.T) {
	long, _ := json.Marshal(strings.Repeat("a", maxUserData+1)) //nolint:errchkjson // a string
	const group = `"arn:aws:elasticloadbalancing:eu-west-1:111122223333:targetgroup/web/0a1b2c3d4e5f6789"`
	for _, test := range []struct{ options, field, text string }{
		{`{"instancetype":"t3.micro"}`, "instancetype", `"instance_type"`},
		{`{"profile":"a\nb"}`, "profile", "~/.aws/config"},
		{`{"region":"eu-west-1a"}`, "region", "placement: {zone: eu-west-1a}"},
		{`{"region":"us-iso-east-1b"}`, "region", "region: us-iso-east-1"},
		{`{"region":"evil.example.org/"}`, "region", "eu-west-1"},
		{`{"account":"1111"}`, "account", "12 digits"},
		{`{"account":111122223333}`, "account", "in quotes"},
		{`{"endpoint":"ec2.example.org"}`, "endpoint", "no http or https URL"},
		{`{"endpoint":"ftp://ec2.example.org"}`, "endpoint", "no http or https URL"},
		{`{"endpoint":"http://ann:secret@ec2.example.org"}`, "endpoint", "the profile has the keys"},
		{`{"backing":"volumes"}`, "backing", `did you mean "volume"?`},
		{`{"backing":"disk"}`, "backing", "one of direct, import, bundle, volume"},
		{`{"backing":"volume","bucket":"mine"}`, "bucket", "leave it out"},
		{`{"helper":{"user":"admin"}}`, "helper", "backing: volume"},
		{`{"backing":"volume","helper":{"image":"aki-dc9ed9af"}}`, "helper.image", "ami-0a1b2c3d4e5f67890"},
		{`{"backing":"volume","helper":{"subnet":"eu-west-1a"}}`, "helper.subnet", "describe-subnets"},
		{`{"backing":"volume","helper":{"type":"micro"}}`, "helper.type", "t3.micro"},
		{`{"backing":"volume","helper":{"user":"-oProxyCommand=id"}}`, "helper.user", "ec2-user"},
		{`{"backing":"volume","helper":{"from":"example.org"}}`, "helper.from", "203.0.113.7"},
		{`{"backing":"volume","helper":{"from":"0.0.0.0/0"}}`, "helper.from", "203.0.113.7"},
		{`{"backing":"volume","helper":{"from":"203.0.113.7/24"}}`, "helper.from", "203.0.113.7"},
		{`{"backing":"dirct"}`, "backing", `"direct"`},
		{`{"backing":"import"}`, "bucket", "it is made"},
		{`{"backing":"import","bucket":"My Disks"}`, "bucket", "lower-case"},
		{`{"backing":"import","bucket":"disks","role":"arn:aws:iam::111122223333:role/vmimport"}`, "role", "list-roles"},
		{`{"bucket":"disks"}`, "bucket", "backing: import"},
		{`{"ec2_cert":"/a"}`, "ec2_cert", "backing: bundle"},
		{`{"backing":"bundle"}`, "bucket", "it is made"},
		{`{"role":"vmimport"}`, "role", "backing: import"},
		{`{"virtualization":"pv"}`, "virtualization", "one of auto, hvm, paravirtual"},
		{`{"boot_mode":"efi"}`, "boot_mode", `"uefi"`},
		{`{"boot_mode":"bios"}`, "boot_mode", "legacy-bios"},
		{`{"boot_mode":"uefi","virtualization":"paravirtual"}`, "boot_mode", "virtualization: hvm"},
		{`{"boot_mode":"uefi","layout":"hd0"}`, "boot_mode", "leave out"},
		{`{"layout":"hd1"}`, "layout", `"hd0"`},
		{`{"layout":"hd0","virtualization":"hvm"}`, "layout", "virtualization: paravirtual"},
		{`{"kernel_id":"aki-dc9ed9af","virtualization":"hvm"}`, "kernel_id", "virtualization: paravirtual"},
		{`{"kernel_id":"ami-dc9ed9af"}`, "kernel_id", "aki-"},
		{`{"kernel_id":"aki-dc9ed9"}`, "kernel_id", "aki-"},
		{`{"size":"1GB"}`, "size", "1GiB"},
		{`{"size":"17TiB"}`, "size", "16TiB"},
		{`{"args":"a\u0000"}`, "args", "NUL"},
		{`{"carrier":"linux","virtualization":"paravirtual"}`, "carrier", "hvm instance"},
		{`{"carrier":"linux","backing":"bundle","bucket":"bundles"}`, "carrier", "hvm instance"},
		{`{"carrier":"linux","modules":["a"]}`, "modules", "a ramdisk of its own"},
		{`{"modules":["../a"]}`, "modules[0]", "initrd.img"},
		{`{"modules":["a","a"]}`, "modules[1]", "twice"},
		{`{"subnets":["subnet-xyz"]}`, "subnets[0]", "describe-subnets"},
		{`{"subnets":["subnet-0a1b2c3d","subnet-0a1b2c3d"]}`, "subnets[1]", "twice"},
		{`{"security_groups":["default"]}`, "security_groups[0]", "sg-"},
		{`{"elastic_ip":"192.0.2.1"}`, "elastic_ip", "eipalloc-"},
		{`{"target_group":"web"}`, "target_group", "ARN"},
		{`{"region":"us-east-1","target_group":` + group + `}`, "target_group", "it is in eu-west-1"},
		{`{"account":"999999999999","target_group":` + group + `}`, "target_group", "it is in account 111122223333"},
		{`{"instance_type":"micro"}`, "instance_type", "t3.micro"},
		{`{"key_name":" ann"}`, "key_name", "describe-key-pairs"},
		{`{"instance_profile":"arn:aws:iam::111122223333:instance-profile/web"}`, "instance_profile", "the name alone: web"},
		{`{"instance_profile":"a/b"}`, "instance_profile", "list-instance-profiles"},
		{`{"user_data":` + string(long) + `}`, "user_data", "bytes are too long"},
		{`{"placement":{"tenancy":"hosts"}}`, "placement.tenancy", `"host"`},
		{`{"placement":{"tenancy":"host"},"spot":true}`, "placement.tenancy", "spot: false"},
		{`{"placement":{"zone":"eu-west-1a"},"subnets":["subnet-0a1b2c3d"]}`, "placement.zone", "subnets decide"},
		{`{"placement":{"zone":"eu-west-1a"},"region":"us-east-1"}`, "placement.zone", "no zone of us-east-1"},
		{`{"placement":{"zone":"us-east-1"},"region":"us-east-1"}`, "placement.zone", "no zone of us-east-1"},
		{`{"placement":{"group":"a\nb"}}`, "placement.group", "describe-placement-groups"},
		{`{"expect":"("}`, "expect", "missing closing )"},
		{`{"port":65536}`, "port", "1 to 65535"},
		{`{"port":0}`, "port", "0 is no TCP port"},
		{`{"timeout":"1000h"}`, "timeout", `at most "23h"`},
		{`{"timeout":"90"}`, "timeout", "90s"},
	} {
		_, err := complete(json.RawMessage(test.options))
		var e *step.Error
		if !errors.As(err, &e) || e.Kind != step.InvalidSpec || e.Field != test.field || !strings.Contains(e.Error()+"\n"+e.Hint, test.text) {
			t.Errorf("%.100s: got %+v, want InvalidSpec of %s with %q", test.options, err, test.field, test.text)
		}
		if e != nil && strings.Contains(e.Error()+e.Hint, "secret") {
			t.Errorf("%.100s: the error shows the password: %v", test.options, e)
		}
	}
}

func TestReadTakes(t *testing.T) {
	for _, options := range []string{
		`{}`, `{"port":null,"timeout":"23h"}`, `{"region":"us-gov-west-1"}`, `{"region":"eusc-de-east-1"}`, `{"region":"nova","endpoint":"http://[::1]:8773/services"}`,
		`{"backing":"import","bucket":"disks.example.org","role":"vmimport-2"}`,
		`{"virtualization":"paravirtual","layout":"hd0,0","kernel_id":"aki-dc9ed9af"}`, `{"layout":"hd0"}`, `{"boot_mode":"uefi","virtualization":"hvm"}`,
		`{"account":"011122223333","subnets":["subnet-0a1b2c3d4e5f67890","subnet-0a1b2c3d"],"security_groups":["sg-903004f8"],"elastic_ip":"eipalloc-64d5890a"}`,
		`{"region":"cn-north-1","target_group":"arn:aws-cn:elasticloadbalancing:cn-north-1:111122223333:targetgroup/web/0a1b2c3d4e5f6789"}`,
		`{"placement":{"zone":"us-east-1-bos-1a","group":"my group","tenancy":"host"},"region":"us-east-1","instance_type":"u-6tb1.metal","size":"16TiB"}`,
		`{"expect":"listening","port":443,"user_data":"a=b","key_name":"ann's key","instance_profile":"web","spot":true,"public_ip":false,"modules":["initrd.img"]}`,
	} {
		if _, err := complete(json.RawMessage(options)); err != nil {
			t.Errorf("%s: %v", options, err)
		}
	}
}
