package ec2

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

func TestForecast(t *testing.T) {
	for options, want := range map[string][]string{
		`{"boot_mode":"uefi","instance_type":"t3.micro"}`:                  {"an hvm image that boots by uefi", "type t3.micro, for at most 10m", "on-demand price of t3.micro"},
		`{"backing":"import","bucket":"disks","instance_type":"t3.micro"}`: {"s3:CreateBucket", "bucket disks", "by the role vmimport", "s3:DeleteObject"},
		`{"virtualization":"paravirtual","layout":"hd0","kernel_id":"aki-dc9ed9af","instance_type":"t1.micro","spot":true,"placement":{"zone":"eu-west-1a"},
			"expect":"up","instance_profile":"web","elastic_ip":"eipalloc-0a1b2c3d"}`: {"boots by aki-dc9ed9af", "t1.micro in eu-west-1a", "spot price", "iam:PassRole", `"up"`, "ec2:AssociateAddress"},
		`{"backing":"bundle","bucket":"mine","virtualization":"paravirtual","layout":"hd0","kernel_id":"aki-dc9ed9af","instance_type":"m1.small"}`: {
			"bucket mine", "s3:PutObjectAcl", "per GB-month\"},", "price of m1.small; a public"},
		`{"backing":"volume","boot_mode":"legacy-bios","instance_type":"t3.micro","helper":{"type":"t3.small"}}`: {
			"ec2:ImportKeyPair", "a Linux of type t3.small", "the worker's address alone", "ec2:CreateSnapshot", "remove the security group"},
	} {
		s, err := complete(json.RawMessage(options))
		no(t, err)
		completed, err := json.Marshal(s.Options)
		no(t, err)
		all, err := New(step.Site{}).Forecast(t.Context(), step.Spec{Options: completed})
		no(t, err)
		text, err := json.Marshal(all)
		no(t, err)
		for _, w := range want {
			if !strings.Contains(strings.ReplaceAll(string(text), `\"`, `"`), w) {
				t.Errorf("%s: no %q in %s", options, w, text)
			}
		}
	}
}
