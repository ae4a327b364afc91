package ec2lab

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// publicKey returns a new Ed25519 key as OpenSSH has it, and its form on the wire.
func publicKey(t *testing.T) (text string, blob []byte) {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	blob = slices.Concat([]byte("\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20"), public)
	return "ssh-ed25519 " + base64.StdEncoding.EncodeToString(blob) + " ann\n", blob
}

// rsaKey is a public key, and rsaMD5 is the fingerprint that ssh-keygen and openssl give:
// ssh-keygen -ef key.pub -m PEM | openssl rsa -RSAPublicKey_in -outform DER | openssl md5 -c.
const (
	rsaKey = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC1rgF6ywVMjmXaxh674Qz2UU2N9F4c4q1mK0VwjVWorYe8vPeSXO2aohj5nf+yq+/SC8M5RCmQ2GqVHvv3N/kYJHqIcuE8gpqlv1xgrE6VZ8cvhGQBVhHUnoDCnVhyUPrz4hBjxvfGET3Ik/SQL1jolRWF3W3R0vmHwTUpKALyyJeuXgJ60LvcmKUDg/ywFfMip0LMHvj/qI1wJkhUAm4Ztwpr/VFDDAEssEZD62Xnv3KDi7SoXEk6qpwUydjg+83BWCEZr84l8V9+TAfpl0dB7OE9weMaNQCZ9iNYyEDu9xi9XVeHQYa4yts+1DnsF8iN5cOj20FUSWtlq0wpUJxf ann"
	rsaMD5 = "a5:eb:82:20:fc:59:36:36:64:6b:2a:0f:f1:a9:eb:9a"
)

func TestKeyPairs(t *testing.T) {
	b := newBench(t, Options{})
	before := b.Resources()
	text, blob := publicKey(t)
	sum := sha256.Sum256(blob)
	load := func(name, key string) (*ec2.ImportKeyPairOutput, error) {
		return b.ec2.ImportKeyPair(b.ctx, &ec2.ImportKeyPairInput{KeyName: &name, PublicKeyMaterial: []byte(key), TagSpecifications: tagSpec("key-pair", "app", name)})
	}
	ed, err := load("ed", text)
	b.no(err)
	rsa, err := load("rsa", rsaKey)
	b.no(err)
	if *ed.KeyFingerprint != base64.StdEncoding.EncodeToString(sum[:]) || *rsa.KeyFingerprint != rsaMD5 {
		t.Errorf("fingerprints %s and %s", *ed.KeyFingerprint, *rsa.KeyFingerprint)
	}
	for name, c := range map[string][3]string{
		"name twice": {"ed", rsaKey, "InvalidKeyPair.Duplicate"}, "no key": {"a", "hello", "InvalidKey.Format"}, "private key": {"a", "-----BEGIN OPENSSH PRIVATE KEY-----", "InvalidKey.Format"},
		"cut off": {"a", text[:40], "InvalidKey.Format"}, "another type": {"a", strings.Replace(text, "ssh-ed25519", "ssh-rsa", 1), "InvalidKey.Format"},
	} {
		if _, err := load(c[0], c[1]); code(err) != c[2] {
			t.Errorf("%s: %v, want %s", name, err, c[2])
		}
	}
	for name, in := range map[string]*ec2.DescribeKeyPairsInput{
		"id": {KeyPairIds: []string{*ed.KeyPairId}}, "name": {KeyNames: []string{"ed"}},
		"tag": {Filters: []types.Filter{{Name: aws.String("tag:app"), Values: []string{"ed"}}}},
	} {
		out, err := b.ec2.DescribeKeyPairs(b.ctx, in)
		if err != nil || len(out.KeyPairs) != 1 || *out.KeyPairs[0].KeyName != "ed" || out.KeyPairs[0].KeyType != "ed25519" {
			t.Errorf("by %s: %+v, %v", name, out, err)
		}
	}
	for range 2 { // EC2 says no word of a key pair that is not there
		b.no(failure(b.ec2.DeleteKeyPair(b.ctx, &ec2.DeleteKeyPairInput{KeyPairId: ed.KeyPairId})))
		b.no(failure(b.ec2.DeleteKeyPair(b.ctx, &ec2.DeleteKeyPairInput{KeyName: aws.String("rsa")})))
	}
	if got := b.Resources(); !slices.Equal(got, before) {
		t.Errorf("left: %q", got)
	}
	Judge(t, b.Calls())
}

func TestSecurityGroups(t *testing.T) {
	b := newBench(t, Options{})
	before := b.Resources()
	add := func(name string) (string, error) {
		out, err := b.ec2.CreateSecurityGroup(b.ctx, &ec2.CreateSecurityGroupInput{GroupName: &name, Description: aws.String("a helper"), TagSpecifications: tagSpec("security-group", "app", "a")})
		if err != nil {
			return "", err
		}
		return *out.GroupId, nil
	}
	id, err := add("helper")
	b.no(err)
	admit := func(cidr string, from, to int32) error {
		_, err := b.ec2.AuthorizeSecurityGroupIngress(b.ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &id, IpPermissions: []types.IpPermission{{
			IpProtocol: aws.String("tcp"), FromPort: &from, ToPort: &to, IpRanges: []types.IpRange{{CidrIp: &cidr, Description: aws.String("the worker")}}}}})
		return err
	}
	revoke := func(cidr string) error {
		_, err := b.ec2.RevokeSecurityGroupIngress(b.ctx, &ec2.RevokeSecurityGroupIngressInput{GroupId: &id, IpPermissions: []types.IpPermission{{
			IpProtocol: aws.String("tcp"), FromPort: aws.Int32(80), ToPort: aws.Int32(80), IpRanges: []types.IpRange{{CidrIp: &cidr}}}}})
		return err
	}
	drop := func(id string) error {
		return failure(b.ec2.DeleteSecurityGroup(b.ctx, &ec2.DeleteSecurityGroupInput{GroupId: &id}))
	}
	_, twice := add("helper")
	_, reserved := add("sg-a")
	_, umlaut := add("hälper")
	for i, c := range []struct {
		err  error
		code string
	}{
		{twice, "InvalidGroup.Duplicate"}, {reserved, "InvalidParameterValue"}, {umlaut, "InvalidParameterValue"},
		{admit("192.0.2.1", 22, 22), "InvalidParameterValue"}, {admit("192.0.2.1/32", 23, 22), "InvalidParameterValue"},
		{admit("192.0.2.1/32", 22, 22), ""}, {admit("192.0.2.1/32", 22, 22), "InvalidPermission.Duplicate"}, {admit("192.0.2.1/32", 80, 80), ""},
		{admit("192.0.2.2/32", 80, 80), ""}, {revoke("192.0.2.2/32"), ""}, {revoke("192.0.2.2/32"), ""}, {admit("192.0.2.2/32", 80, 80), ""}, {revoke("192.0.2.2/32"), ""},
		{drop("sg-01234567"), "InvalidGroup.NotFound"}, {drop("helper"), "InvalidGroupId.Malformed"}, {drop(b.SecurityGroup()), "CannotDelete"},
	} {
		if code(c.err) != c.code {
			t.Errorf("%d: want %q, got %v", i, c.code, c.err)
		}
	}
	out, err := b.ec2.DescribeSecurityGroups(b.ctx, &ec2.DescribeSecurityGroupsInput{Filters: []types.Filter{
		{Name: aws.String("tag:app"), Values: []string{"a"}}, {Name: aws.String("ip-permission.cidr"), Values: []string{"192.0.2.1/32"}},
		{Name: aws.String("ip-permission.from-port"), Values: []string{"22"}}}})
	b.no(err)
	if g := out.SecurityGroups; len(g) != 1 || len(g[0].IpPermissions) != 2 || *g[0].IpPermissions[0].FromPort != 22 || *g[0].IpPermissions[1].IpRanges[0].Description != "the worker" {
		t.Errorf("%+v", g)
	}
	// An instance that is not terminated needs its group.
	machine := b.machine(change(machineOf(linuxes[0][1]), func(m *ec2.RunInstancesInput) { m.SecurityGroupIds = []string{id} }))
	if err := drop(id); code(err) != "DependencyViolation" {
		t.Errorf("in use: %v", err)
	}
	b.no(failure(b.ec2.TerminateInstances(b.ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{machine}})))
	b.until(func() bool { return drop(id) == nil })
	if got := b.Resources(); !slices.Equal(got, before) {
		t.Errorf("left: %q", got)
	}
	Judge(t, b.Calls())
}

// The states of a volume that is attached and detached, and what EC2 refuses in each. A
// snapshot has the volume's bytes of its own time.
func TestVolumes(t *testing.T) {
	b := newBench(t, Options{})
	before := b.Resources()
	add := func(f func(*ec2.CreateVolumeInput)) (*ec2.CreateVolumeOutput, error) {
		return b.ec2.CreateVolume(b.ctx, change(&ec2.CreateVolumeInput{
			AvailabilityZone: aws.String("eu-west-1b"), Size: aws.Int32(1), VolumeType: "gp3", ClientToken: aws.String("once"), TagSpecifications: tagSpec("volume", "app", "a"),
		}, f))
	}
	v, err := add(func(*ec2.CreateVolumeInput) {})
	b.no(err)
	again, err := add(func(*ec2.CreateVolumeInput) {})
	b.no(err)
	id := *v.VolumeId
	if *again.VolumeId != id || v.State != "creating" {
		t.Errorf("%s, then %s, %s", id, *again.VolumeId, v.State)
	}
	for want, f := range map[string]func(*ec2.CreateVolumeInput){
		"IdempotentParameterMismatch": func(in *ec2.CreateVolumeInput) { in.Size = aws.Int32(2) },
		"InvalidZone.NotFound":        func(in *ec2.CreateVolumeInput) { in.ClientToken, in.AvailabilityZone = nil, aws.String("eu-west-1d") },
		"MissingParameter":            func(in *ec2.CreateVolumeInput) { in.ClientToken, in.Size = nil, nil },
		"InvalidParameterValue":       func(in *ec2.CreateVolumeInput) { in.ClientToken, in.VolumeType = nil, "st1" },
		"InvalidSnapshot.NotFound":    func(in *ec2.CreateVolumeInput) { in.ClientToken, in.SnapshotId = nil, aws.String("snap-01234567") },
	} {
		if _, err := add(f); code(err) != want {
			t.Errorf("want %s, got %v", want, err)
		}
	}
	place := func(subnet int) string {
		return b.machine(change(machineOf(linuxes[0][1]), func(m *ec2.RunInstancesInput) { m.SubnetId = aws.String(b.Subnets()[subnet]) }))
	}
	there, elsewhere := place(1), place(0)
	attach := func(instance, device string) error {
		return failure(b.ec2.AttachVolume(b.ctx, &ec2.AttachVolumeInput{VolumeId: &id, InstanceId: &instance, Device: &device}))
	}
	detach := func(instance string) error {
		in := &ec2.DetachVolumeInput{VolumeId: &id}
		if instance != "" {
			in.InstanceId = &instance
		}
		_, err := b.ec2.DetachVolume(b.ctx, in)
		return err
	}
	drop := func() error { return failure(b.ec2.DeleteVolume(b.ctx, &ec2.DeleteVolumeInput{VolumeId: &id})) }
	state := func() string {
		out, err := b.ec2.DescribeVolumes(b.ctx, &ec2.DescribeVolumesInput{VolumeIds: []string{id}})
		b.no(err)
		if v := out.Volumes[0]; len(v.Attachments) > 0 {
			return string(v.Attachments[0].State)
		}
		return string(out.Volumes[0].State)
	}
	expect := func(err error, want string) {
		t.Helper()
		if code(err) != want {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	b.until(func() bool { return state() == "available" })
	expect(attach(elsewhere, "/dev/sdf"), "InvalidVolume.ZoneMismatch")
	expect(attach(there, "/dev/xvda"), "InvalidParameterValue")
	expect(attach(there, "disk"), "InvalidParameterValue")
	expect(detach(""), "IncorrectState")
	expect(attach(there, "/dev/sdf"), "")
	expect(attach(there, "/dev/sdg"), "VolumeInUse")
	b.until(func() bool { return state() == "attached" })
	expect(drop(), "VolumeInUse")
	expect(detach(elsewhere), "InvalidAttachment.NotFound")

	file, err := b.VolumeFile(id)
	b.no(err)
	write := func(text string) {
		f, err := os.OpenFile(file, os.O_WRONLY, 0)
		b.no(err)
		b.no(failure(f.WriteAt([]byte(text), 3*blockSize-2))) // in two blocks
		b.no(f.Close())
	}
	write("early")
	snapshot, err := b.ec2.CreateSnapshot(b.ctx, &ec2.CreateSnapshotInput{VolumeId: &id, Description: aws.String("d"), TagSpecifications: tagSpec("snapshot", "app", "a")})
	b.no(err)
	write("later")
	if snapshot.State != "pending" || *snapshot.VolumeId != id || *snapshot.VolumeSize != 1 {
		t.Errorf("%+v", snapshot)
	}
	b.until(func() bool { return b.has("snapshot " + *snapshot.SnapshotId + " completed") })
	from := func(path string) []byte {
		data, err := os.ReadFile(path)
		b.no(err)
		return data
	}
	copied := filepath.Join(t.TempDir(), "copy")
	b.no(b.WriteSnapshot(*snapshot.SnapshotId, copied))
	want := from(file)
	got := from(copied)
	if string(got[3*blockSize-2:][:5]) != "early" || len(got) != len(want) || bytes.Equal(got, want) {
		t.Errorf("the snapshot has %q in %d bytes", got[3*blockSize-2:][:5], len(got))
	}
	second, err := add(func(in *ec2.CreateVolumeInput) {
		in.ClientToken, in.Size, in.SnapshotId = nil, nil, snapshot.SnapshotId
	})
	b.no(err)
	path, err := b.VolumeFile(*second.VolumeId)
	b.no(err)
	if !bytes.Equal(from(path), got) {
		t.Error("a volume of the snapshot has other bytes")
	}

	expect(detach(there), "")
	b.until(func() bool { return state() == "available" })
	expect(detach(there), "IncorrectState")
	expect(drop(), "")
	expect(drop(), "InvalidVolume.NotFound")
	again, err = add(func(*ec2.CreateVolumeInput) {}) // a token makes one volume, also if that is deleted
	b.no(err)
	if *again.VolumeId != id {
		t.Errorf("the token of %s makes %s", id, *again.VolumeId)
	}
	b.no(failure(b.ec2.TerminateInstances(b.ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{there, elsewhere}})))
	b.no(failure(b.ec2.DeleteSnapshot(b.ctx, &ec2.DeleteSnapshotInput{SnapshotId: snapshot.SnapshotId})))
	b.until(func() bool { id = *second.VolumeId; return drop() == nil })
	b.until(func() bool { return slices.Equal(b.Resources(), before) })
	Judge(t, b.Calls())
}

// The parameters of Systems Manager name Amazon's newest images.
func TestParameters(t *testing.T) {
	b := newBench(t, Options{})
	ask := func(call, body string) (answer map[string]any, status int) {
		r, err := http.NewRequestWithContext(b.ctx, http.MethodPost, b.URL()+"/", strings.NewReader(body))
		b.no(err)
		r.Header.Set("Content-Type", "application/x-amz-json-1.1")
		r.Header.Set("X-Amz-Target", "AmazonSSM."+call)
		b.no(v4.NewSigner().SignHTTP(b.ctx, aws.Credentials{AccessKeyID: accessKey, SecretAccessKey: secretKey}, r, fmt.Sprintf("%x", sha256.Sum256([]byte(body))), "ssm", region, time.Now()))
		a, err := http.DefaultClient.Do(r)
		b.no(err)
		defer func() { _ = a.Body.Close() }()
		b.no(json.NewDecoder(a.Body).Decode(&answer))
		return answer, a.StatusCode
	}
	name := linuxParameter + linuxes[0][0]
	one, _ := ask("GetParameter", `{"Name":"`+name+`"}`)
	if got := one["Parameter"].(map[string]any); got["Value"] != linuxes[0][1] || got["Name"] != name {
		t.Errorf("%v", one)
	}
	if all, _ := ask("GetParameters", `{"Names":["/none","`+name+`"]}`); all["InvalidParameters"].([]any)[0] != "/none" || len(all["Parameters"].([]any)) != 1 {
		t.Errorf("%v", all)
	}
	Judge(t, b.Calls())
	for body, want := range map[string]string{`{"Name":"/none"}`: "ParameterNotFound", `{}`: "ValidationException"} {
		if a, status := ask("GetParameter", body); a["__type"] != want || status != http.StatusBadRequest {
			t.Errorf("%s: %d %v", body, status, a)
		}
	}
	out, err := b.ec2.DescribeImages(b.ctx, &ec2.DescribeImagesInput{ImageIds: []string{linuxes[0][1]}})
	b.no(err)
	if m := out.Images[0]; *m.RootDeviceName != "/dev/xvda" || *m.OwnerId != amazon {
		t.Errorf("%+v", m)
	}
	b.permit(`{"Effect":"Allow","Action":"ssm:GetParameter","Resource":"arn:aws:ssm:*::parameter/aws/service/ami-amazon-linux-latest/al2*"}`)
	if a, status := ask("GetParameter", `{"Name":"`+name+`"}`); status != 200 {
		t.Errorf("with the permission: %v", a)
	}
	if a, _ := ask("GetParameter", `{"Name":"`+linuxParameter+linuxes[2][0]+`"}`); a["__type"] != "AccessDeniedException" {
		t.Errorf("without: %v", a)
	}
}
