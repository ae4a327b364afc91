package ec2

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/morgana-deploy/morgana/ec2lab"
	"github.com/morgana-deploy/morgana/step"
)

// dancer is a registry whose images are made by dances. Without a hypervisor nobody answers
// at a helper's address, so a dance ends there, until the test says by a tag that the volume
// is written.
type dancer struct {
	*registry
	img    step.Image
	before []string
}

func newDancer(t testing.TB) *dancer {
	t.Helper()
	d := &dancer{registry: newRegistry(t)}
	d.img = d.dancing(d.image(1, few, fewContent, nil), `{"type":"t3.micro","user":"ec2-user"}`)
	d.before = d.lab.Resources()
	return d
}

// dancing makes the backing of an image volume.
func (r *registry) dancing(img step.Image, helper string) step.Image {
	img.Spec.Options = bytes.Replace(img.Spec.Options, []byte(`"backing":"direct"`), []byte(`"backing":"volume","helper":`+helper), 1)
	return img
}

// hasty is a target that does not wait long.
func hasty(site step.Site) *Target {
	t := New(site)
	t.limits.reach, t.limits.grace, t.limits.unlisted = time.Millisecond, time.Millisecond, 500*time.Millisecond
	return t
}

// try registers the image, with as many tries as Temporal would make, and returns the final
// error.
func (d *dancer) try(ctx context.Context) (reg step.Registration, err error) {
	d.Helper()
	for range 20 {
		if reg, err = hasty(d.site).Register(ctx, d.img); err == nil || step.KindOf(err).Final() || ctx.Err() != nil {
			return reg, err
		}
		d.Logf("try again: %v", err)
	}
	d.Fatal("register does not end")
	panic("unreachable")
}

// closed fails unless err says that the helper's ssh does not answer.
func (d *dancer) closed(err error) {
	d.Helper()
	var e *step.Error
	if !errors.As(err, &e) || e.Kind != step.NotFound || e.Field != "helper.subnet" || !strings.Contains(err.Error(), "could not reach port 22 of i-") {
		d.Fatalf("not closed: %v", err)
	}
}

// written says that the volume has the image.
func (d *dancer) written() {
	d.Helper()
	all := d.mine().volumes
	if len(all) != 1 {
		d.Fatalf("%d volumes", len(all))
	}
	_, err := d.cloud.ec2.CreateTags(d.Context(), &ec2.CreateTagsInput{Resources: []string{*all[0].VolumeId}, Tags: []types.Tag{tag(tagWritten, "yes")}})
	if err != nil {
		d.Fatal(err)
	}
}

// things are what a dance has made beside the image.
type things struct {
	helpers []types.Instance // that live
	volumes []types.Volume
	groups  []types.SecurityGroup
	pairs   []types.KeyPairInfo
}

func (d *dancer) mine() (t things) {
	d.Helper()
	helpers, err := d.cloud.helpers(d.Context(), d.img.Spec.Tags)
	if err != nil {
		d.Fatal(err)
	}
	t.helpers = slices.DeleteFunc(helpers, isDead)
	if t.groups, err = d.cloud.groups(d.Context(), matching(d.img.Spec.Tags)...); err != nil {
		d.Fatal(err)
	}
	if t.pairs, err = d.cloud.keyPairs(d.Context(), matching(d.img.Spec.Tags)...); err != nil {
		d.Fatal(err)
	}
	dance := &dance{registering: &registering{cloud: d.cloud, img: d.img, digest: digestOf(d.img)}}
	if t.volumes, err = dance.volumes(d.Context()); err != nil {
		d.Fatal(err)
	}
	return t
}

// once fails unless there is one of each.
func (d *dancer) once() {
	d.Helper()
	if t := d.mine(); len(t.helpers) != 1 || len(t.volumes) != 1 || len(t.groups) != 1 || len(t.pairs) != 1 {
		d.Errorf("there are %d helpers, %d volumes, %d security groups, %d key pairs", len(t.helpers), len(t.volumes), len(t.groups), len(t.pairs))
	}
}

// alone fails unless the AMI and its snapshot are all that there is, and no keys.
func (d *dancer) alone() {
	d.Helper()
	if made := d.made(); !slices.Equal(made, oneOfEach) {
		d.Errorf("made %q", made)
	}
	if left := len(d.lab.Resources()) - len(d.before); left != len(oneOfEach) {
		d.Errorf("left: %q, before: %q", d.lab.Resources(), d.before)
	}
	if keys, err := filepath.Glob(filepath.Join(d.site.State, Kind, "helpers", "*")); err != nil || len(keys) > 0 {
		d.Errorf("left on the host: %q, %v", keys, err)
	}
}

// destroyed fails unless Destroy removes all.
func (d *dancer) destroyed(keepImage bool) {
	d.Helper()
	var err error
	for range 10 {
		_, err = hasty(d.site).Destroy(d.Context(), step.Removal{Spec: d.img.Spec, KeepImage: keepImage})
		if err == nil || step.KindOf(err).Final() {
			break
		}
	}
	if err != nil {
		d.Fatal(err)
	}
	if after := d.lab.Resources(); !keepImage && !slices.Equal(after, d.before) {
		d.Errorf("left: %q, before: %q", after, d.before)
	}
}

// TestVolumeActs does the acts in their order, and each once.
func TestVolumeActs(t *testing.T) {
	environ(t)
	d := newDancer(t)
	_, err := d.try(t.Context())
	d.closed(err)
	d.once()
	m := d.mine()
	helper, v, g := m.helpers[0], m.volumes[0], m.groups[0]
	if len(v.Attachments) != 1 || aws.ToString(v.Attachments[0].InstanceId) != *helper.InstanceId || aws.ToString(v.AvailabilityZone) != *helper.Placement.AvailabilityZone {
		t.Errorf("the volume is %+v", v)
	}
	if len(g.IpPermissions) != 1 || aws.ToInt32(g.IpPermissions[0].FromPort) != 22 || aws.ToInt32(g.IpPermissions[0].ToPort) != 22 || len(g.IpPermissions[0].IpRanges) != 1 ||
		aws.ToString(g.IpPermissions[0].IpRanges[0].CidrIp) != "127.0.0.1/32" {
		t.Errorf("the security group lets in %+v", g.IpPermissions)
	}
	if len(helper.SecurityGroups) != 1 || aws.ToString(helper.SecurityGroups[0].GroupId) != *g.GroupId || aws.ToString(helper.KeyName) != *m.pairs[0].KeyName {
		t.Errorf("the helper is %+v", helper)
	}
	d.written()
	reg, err := d.try(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d.alone()
	var acts []string
	for _, c := range d.lab.Calls() {
		if c.Code == "" && !strings.HasPrefix(c.Name, "Describe") && c.Name != "GetCallerIdentity" && c.Name != "CreateTags" {
			acts = append(acts, c.Name)
		}
	}
	if want := []string{"CreateSecurityGroup", "ImportKeyPair", "RunInstances", "AuthorizeSecurityGroupIngress", "CreateVolume", "AttachVolume", "DetachVolume", "CreateSnapshot",
		"TerminateInstances", "DeleteVolume", "DeleteKeyPair", "DeleteSecurityGroup", "RegisterImage"}; !slices.Equal(acts, want) {
		t.Errorf("the acts are %q, not %q", acts, want)
	}
	got, _ := d.ami(reg.ID)
	if made, _ := owner(got.Tags); made != d.img.Spec.Tags {
		t.Errorf("the AMI has the tags %v", got.Tags)
	}
	// Another generation makes nothing, and the backing does not matter.
	before := len(d.lab.Calls())
	d.img.Spec.Generation = 2
	again, err := d.try(t.Context())
	if err != nil || again.ID != reg.ID || !again.Adopted {
		t.Errorf("again: %+v, %v", again, err)
	}
	for _, c := range d.lab.Calls()[before:] {
		if !strings.HasPrefix(c.Name, "Describe") && c.Name != "GetCallerIdentity" && c.Name != "CreateTags" {
			t.Errorf("the second generation calls %s", c.Name)
		}
	}
	d.img.Spec.Generation = 0
	d.destroyed(false)
}

// The calls of a dance before and after its ssh.
var (
	firstCalls = []string{"CreateSecurityGroup", "ImportKeyPair", "CreateTags", "RunInstances", "AuthorizeSecurityGroupIngress", "CreateVolume", "AttachVolume"}
	lastCalls  = []string{"DetachVolume", "CreateTags", "CreateSnapshot", "TerminateInstances", "DeleteVolume", "DeleteKeyPair", "DeleteSecurityGroup", "RegisterImage"}
)

// TestVolumeFaults makes one of each and leaves nothing, whatever answer is lost.
func TestVolumeFaults(t *testing.T) {
	environ(t)
	type fault struct {
		call string
		last bool
		lose ec2lab.Lose
		hide time.Duration
	}
	var all []fault
	for _, lose := range []ec2lab.Lose{ec2lab.Before, ec2lab.After} {
		for i, call := range slices.Concat(firstCalls, lastCalls) {
			all = append(all, fault{call, i >= len(firstCalls), lose, 0})
			if lose == ec2lab.After && !testing.Short() {
				all = append(all, fault{call, i >= len(firstCalls), lose, 300 * time.Millisecond})
			}
		}
	}
	for _, f := range all {
		t.Run(fmt.Sprintf("%s %v %d hidden for %s", f.call, f.last, f.lose, f.hide), func(t *testing.T) {
			t.Parallel()
			d := newDancer(t)
			lose := func() { d.lab.Fault(ec2lab.Fault{Call: f.call, Lose: f.lose}) }
			d.lab.Hide(f.hide)
			if !f.last {
				lose()
			}
			_, err := d.try(t.Context())
			d.closed(err)
			time.Sleep(f.hide)
			d.once()
			d.written()
			if f.last {
				lose()
			}
			if _, err := d.try(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(f.hide)
			d.alone()
			if !slices.ContainsFunc(d.lab.Calls(), func(c ec2lab.Call) bool { return c.Name == f.call && c.Code == "lost" }) {
				t.Errorf("%s was not lost", f.call)
			}
			d.destroyed(false)
		})
	}
}

// TestVolumeCancelled leaves nothing that Destroy does not find, at whatever call it ends.
func TestVolumeCancelled(t *testing.T) {
	environ(t)
	d := newDancer(t)
	at := &cutter{}
	proxy := at.before(t, d.lab)
	defer proxy.Close()
	d.img.Spec.Options = bytes.Replace(d.img.Spec.Options, []byte(d.lab.URL()), []byte(proxy.URL), 1)
	steps := int64(1)
	if testing.Short() {
		steps = 5
	}
	for n := int64(1); ; n += steps {
		d.img.Spec.Generation = int(n)
		ctx := at.cut(t.Context(), n)
		_, err := d.try(ctx)
		if ctx.Err() == nil {
			d.closed(err)
			d.written()
			_, err = d.try(ctx)
		}
		if err != nil && ctx.Err() == nil {
			t.Fatalf("cancelled after call %d: %v", n, err)
		}
		d.destroyed(false)
		if t.Failed() {
			t.Fatalf("cancelled after call %d", n)
		}
		if ctx.Err() == nil {
			break
		}
	}
}

// TestVolumeKilled kills the process before the n-th answer, in both parts of a dance. The next
// try makes one of each.
func TestVolumeKilled(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	environ(t)
	d := newDancer(t)
	at := &cutter{}
	proxy := at.before(t, d.lab)
	defer proxy.Close()
	d.img.Spec.Options = bytes.Replace(d.img.Spec.Options, []byte(d.lab.URL()), []byte(proxy.URL), 1)
	// kill reports whether the process was cut off before its work was done.
	kill := func(n int64) bool {
		text, err := json.Marshal(victim{d.img, d.site.State, d.store, true})
		if err != nil {
			t.Fatal(err)
		}
		c := exec.CommandContext(at.cut(t.Context(), n), self)
		c.Env = append(os.Environ(), killed+"="+string(text))
		out, err := c.CombinedOutput()
		return err != nil && !strings.Contains(string(out), "could not reach port 22")
	}
	steps := int64(1)
	if testing.Short() {
		steps = 6
	}
	for n, more := int64(1), true; more; n += steps {
		d.img.Spec.Generation = int(n)
		more = kill(n)
		_, err := d.try(t.Context())
		d.closed(err)
		d.once()
		d.written()
		if kill(n) {
			more = true
		}
		if _, err := d.try(t.Context()); err != nil {
			t.Fatal(err)
		}
		d.alone()
		d.destroyed(false)
		if t.Failed() {
			t.Fatalf("killed before answer %d", n)
		}
	}
}

// TestVolumeDestroyFaults removes a half-made dance, whatever answer is lost. List names all
// of it, Observe finds no machine in it, and KeepImage does not keep it.
func TestVolumeDestroyFaults(t *testing.T) {
	environ(t)
	for _, call := range []string{"TerminateInstances", "DeleteVolume", "DeleteKeyPair", "DeleteSecurityGroup"} {
		for _, lose := range []ec2lab.Lose{ec2lab.Before, ec2lab.After} {
			t.Run(fmt.Sprint(call, lose), func(t *testing.T) {
				t.Parallel()
				d := newDancer(t)
				_, err := d.try(t.Context())
				d.closed(err)
				list, err := hasty(d.site).List(t.Context(), d.img.Spec)
				if err != nil {
					t.Fatal(err)
				}
				var kinds []string
				for _, r := range list {
					if r.Tags != d.img.Spec.Tags {
						t.Errorf("listed %+v", r)
					}
					kinds = append(kinds, r.Kind)
				}
				slices.Sort(kinds)
				if want := []string{kindHelper, kindKeyPair, kindInterface, kindGroup, kindVolume, kindVolume}; !slices.Equal(kinds, want) {
					t.Errorf("listed %q, not %q", kinds, want)
				}
				h, err := hasty(d.site).Observe(t.Context(), step.Machine{Registration: step.Registration{Spec: d.img.Spec}})
				if err != nil || h.State != step.Gone {
					t.Errorf("the helper counts as the machine: %+v, %v", h, err)
				}
				d.lab.Fault(ec2lab.Fault{Call: call, Lose: lose})
				d.destroyed(true)
				if after := d.lab.Resources(); !slices.Equal(after, d.before) {
					t.Errorf("left: %q, before: %q", after, d.before)
				}
			})
		}
	}
}

// TestVolumeLost removes a helper that EC2 lists only later: the worker was killed before the
// answer.
func TestVolumeLost(t *testing.T) {
	environ(t)
	for _, call := range []string{"RunInstances", "CreateVolume"} {
		d := newDancer(t)
		d.lab.Fault(ec2lab.Fault{Call: call, Lose: ec2lab.After})
		target := hasty(d.site)
		target.limits.unlisted = 20 * time.Second
		d.lab.Hide(50 * time.Millisecond)
		if call == "CreateVolume" {
			d.lab.Hide(0)
		}
		if _, err := target.Register(t.Context(), d.img); err == nil || step.KindOf(err).Final() {
			t.Fatal(err)
		}
		d.lab.Hide(0)
		if _, err := target.Destroy(t.Context(), step.Removal{Spec: d.img.Spec}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		if after := d.lab.Resources(); !slices.Equal(after, d.before) {
			t.Errorf("%s: left: %q, before: %q", call, after, d.before)
		}
	}
}

// TestVolumeElsewhere goes on from another host with another helper, and the volume.
func TestVolumeElsewhere(t *testing.T) {
	environ(t)
	d := newDancer(t)
	_, err := d.try(t.Context())
	d.closed(err)
	first := d.mine()
	d.img.Spec.Options = bytes.Replace(d.img.Spec.Options, []byte(`"user"`), []byte(`"from":"127.0.0.0/8","user"`), 1)
	d.site = siteOf(t, t.TempDir(), d.store)
	_, err = d.try(t.Context())
	d.closed(err)
	second := d.mine()
	if len(second.helpers) != 1 || *second.helpers[0].InstanceId == *first.helpers[0].InstanceId || len(second.volumes) != 1 || *second.volumes[0].VolumeId != *first.volumes[0].VolumeId {
		t.Errorf("first %v, then %v", first, second)
	}
	if p := second.groups[0].IpPermissions; len(p) != 1 || len(p[0].IpRanges) != 1 || *p[0].IpRanges[0].CidrIp != "127.0.0.0/8" {
		t.Errorf("the security group lets in %+v", p)
	}
	d.written()
	if _, err := d.try(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.alone()
}

// TestVolumeOtherZone makes another volume if the next helper is in another zone.
func TestVolumeOtherZone(t *testing.T) {
	environ(t)
	d := newDancer(t)
	_, err := d.try(t.Context())
	d.closed(err)
	first := d.mine()
	if err := d.cloud.terminate(t.Context(), *first.helpers[0].InstanceId); err != nil {
		t.Fatal(err)
	}
	d.lab.Withdraw("t3.micro", *first.helpers[0].Placement.AvailabilityZone)
	_, err = d.try(t.Context())
	d.closed(err)
	d.once()
	second := d.mine()
	if zone := *second.helpers[0].Placement.AvailabilityZone; zone == *first.volumes[0].AvailabilityZone || *second.volumes[0].AvailabilityZone != zone {
		t.Errorf("the volume is in %s, the helper in %s", *second.volumes[0].AvailabilityZone, zone)
	}
	d.destroyed(false)
}

// TestVolumeRefused says what to do.
func TestVolumeRefused(t *testing.T) {
	environ(t)
	for name, test := range map[string]struct {
		change func(d *dancer)
		want   step.Error
		says   string
	}{
		"type not in the zones": {func(d *dancer) {
			for _, letter := range []string{"a", "b", "c"} {
				d.lab.Withdraw("t3.micro", d.lab.Region()+letter)
			}
		}, step.Error{Kind: step.Unsupported, Field: "helper.type"}, "helper: {subnet: ...} in another zone"},
		"quota":       {code1("RunInstances", "VcpuLimitExceeded"), step.Error{Kind: step.Exhausted, Field: "helper.type", RetryAfter: time.Minute}, "vCPU limit"},
		"volume zone": {code1("AttachVolume", "InvalidVolume.ZoneMismatch"), step.Error{Kind: step.Conflict}, "instances of its own zone"},
		"no image": {func(d *dancer) {
			d.img.Spec.Options = bytes.Replace(d.img.Spec.Options, []byte(`"user"`), []byte(`"image":"ami-0123456789abcdef0","user"`), 1)
		}, step.Error{Kind: step.NotFound, Field: "helper.image"}, "describe-images"},
		"private subnet": {func(d *dancer) {
			d.img.Spec.Options = bytes.Replace(d.img.Spec.Options, []byte(`"user"`), []byte(`"subnet":"`+d.lab.PrivateSubnet()+`","user"`), 1)
		}, step.Error{Kind: step.InvalidSpec, Field: "helper.public_ip"}, "has no public address"},
		"may not import": {func(d *dancer) { d.lab.Deny("ec2:ImportKeyPair") }, step.Error{Kind: step.Unauthorized}, "ec2:ImportKeyPair"},
		"may not find":   {func(d *dancer) { d.lab.Deny("ssm:GetParameters") }, step.Error{Kind: step.Unauthorized}, "ssm:GetParameters"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDancer(t)
			test.change(d)
			_, err := hasty(d.site).Register(t.Context(), d.img)
			refusedWith(t, name, err, test.want, test.says)
			d.lab.Deny()
			d.destroyed(false)
		})
	}
}

func code1(call, code string) func(*dancer) {
	return func(d *dancer) { d.lab.Fault(ec2lab.Fault{Call: call, Code: code}) }
}

// TestVolumeCheck refuses early what a dance could not do, and makes nothing.
func TestVolumeCheck(t *testing.T) {
	lab := labFor(t)
	before := lab.Resources()
	with := func(helper string) string { return `{"backing":"volume","helper":{` + helper + `}}` }
	spec, err := checked(t, helloABIs, `{"backing":"volume"}`)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(spec.Options), `"helper":{"type":"t3.micro","user":"ec2-user"}`) {
		t.Errorf("completed to %s", spec.Options)
	}
	for name, test := range map[string]struct {
		options string
		before  func()
		want    step.Error
		says    string
	}{
		"no such type":     {with(`"type":"t3.mikro"`), nil, step.Error{Kind: step.Unsupported, Field: "helper.type"}, "not offered"},
		"type of ARM":      {with(`"type":"c7g.large"`), nil, step.Error{Kind: step.InvalidSpec}, "architecture"},
		"no such subnet":   {with(`"subnet":"subnet-0123456789abcdef0"`), nil, step.Error{Kind: step.NotFound, Field: "helper.subnet"}, "describe-subnets"},
		"private subnet":   {with(`"subnet":"` + lab.PrivateSubnet() + `"`), nil, step.Error{Kind: step.InvalidSpec, Field: "helper.public_ip"}, "no public address"},
		"behind a VPN":     {with(`"public_ip":false,"subnet":"` + lab.PrivateSubnet() + `"`), nil, step.Error{}, ""},
		"no such image":    {with(`"image":"ami-0123456789abcdef0"`), nil, step.Error{Kind: step.NotFound, Field: "helper.image"}, "describe-images"},
		"may not run":      {with(``), func() { lab.Deny("ec2:RunInstances") }, step.Error{Kind: step.Unauthorized}, "ec2:RunInstances"},
		"may not find":     {with(``), func() { lab.Deny("ssm:GetParameters") }, step.Error{Kind: step.Unauthorized}, "ssm:GetParameters"},
		"may not import":   {with(``), func() { lab.Deny("ec2:ImportKeyPair") }, step.Error{Kind: step.Unauthorized}, "ec2:ImportKeyPair"},
		"may not group":    {with(``), func() { lab.Deny("ec2:CreateSecurityGroup") }, step.Error{Kind: step.Unauthorized}, "ec2:CreateSecurityGroup"},
		"may make volumes": {with(``), func() { lab.Deny("ec2:CreateVolume") }, step.Error{Kind: step.Unauthorized}, "ec2:CreateVolume"},
		"no type in a zone": {with(`"subnet":"` + lab.Subnets()[2] + `"`), func() { lab.Withdraw("t3.micro", "eu-west-1c") },
			step.Error{Kind: step.Unsupported, Field: "helper.type"}, "it is offered in eu-west-1a, eu-west-1b"},
	} {
		lab.Deny()
		if test.before != nil {
			test.before()
		}
		_, err := checked(t, helloABIs, test.options)
		if test.want.Kind == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		refusedWith(t, name, err, test.want, test.says)
	}
	lab.Deny()
	if after := lab.Resources(); !slices.Equal(before, after) {
		t.Errorf("check has made something: %q", after)
	}
	t.Setenv("PATH", t.TempDir())
	_, err = checked(t, helloABIs, `{"backing":"volume"}`)
	if step.KindOf(err) != step.Unsupported {
		t.Errorf("without ssh: %v", err)
	}
}

// TestVolumeKeys keeps the private keys on this host, readable by its user alone.
func TestVolumeKeys(t *testing.T) {
	target := New(step.Site{State: filepath.Join(t.TempDir(), "a b 100%")})
	all := make(chan *helperKeys, 4)
	for range cap(all) {
		go func() {
			k, err := target.openKeys(t.Context(), "hello.prod.00c0ffee-1")
			if err != nil {
				t.Error(err)
			}
			all <- k
		}()
	}
	k := <-all
	for range cap(all) - 1 {
		if other := <-all; other == nil || k == nil || other.id != k.id {
			t.Fatalf("two calls have the keys %+v and %+v", k, other)
		}
	}
	entries, err := os.ReadDir(k.folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || info.Mode().Perm()&0o077 != 0 && !strings.HasSuffix(e.Name(), publicFile) {
			t.Errorf("%s has mode %v, %v", e.Name(), info.Mode(), err)
		}
	}
	if info, err := os.Stat(k.folder); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v, %v", info.Mode(), err)
	}
	out, err := exec.CommandContext(t.Context(), "ssh", "-G", "-F", k.file(sshConfig), "192.0.2.1").Output()
	for _, line := range []string{"identityfile " + k.file(loginFile), "userknownhostsfile " + k.file(knownHosts), "hostkeyalias " + knownName, "identitiesonly yes"} {
		if !strings.Contains(strings.ReplaceAll(string(out), "%%", "%"), line+"\n") {
			t.Errorf("ssh does not read %q: %v\n%s", line, err, out)
		}
	}
	other, err := target.openKeys(t.Context(), "hello.prod.00c0ffee-2")
	if err != nil || other.id == k.id {
		t.Errorf("another rollout has keys %+v, %v", other, err)
	}
	old := time.Now().AddDate(0, 0, -8)
	if err := os.Chtimes(k.folder, old, old); err != nil {
		t.Fatal(err)
	}
	if _, err := target.openKeys(t.Context(), "hello.prod.00c0ffee-3"); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Dir(k.folder))
	if err != nil || len(left) != 2 {
		t.Errorf("left are %v, %v; the oldest has no helper any more", left, err)
	}
}

// TestAddressSeen asks by which address this host is seen.
func TestAddressSeen(t *testing.T) {
	answer := "203.0.113.7\n"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, answer) }))
	defer s.Close()
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1") // ssh uses no proxy
	if from, err := addressSeen(t.Context(), s.URL); from != "203.0.113.7" || err != nil {
		t.Errorf("seen as %q, %v", from, err)
	}
	answer = "<html>log in to the hotel's network</html>"
	_, err := addressSeen(t.Context(), s.URL)
	refusedWith(t, "hotel", err, step.Error{Kind: step.NotFound, Field: "helper.from"}, "helper: {from: 203.0.113.7}")
	if from, err := localAddress(t.Context(), "127.0.0.1"); from != "127.0.0.1" || err != nil {
		t.Errorf("towards this host: %q, %v", from, err)
	}
}

// TestMaking reads what it writes.
func TestMaking(t *testing.T) {
	m := making{time.Date(2026, 11, 26, 8, 0, 0, 0, time.UTC), 2, kindHelper}
	if got, ok := parseMaking(m.String()); !ok || got != m || !tagText.MatchString(m.String()) {
		t.Errorf("%q is %+v, %t", m, got, ok)
	}
	for _, text := range []string{"", "none", "2026-11-26T08:00:00Z", "2026-11-26T08:00:00Z x volume"} {
		if _, ok := parseMaking(text); ok {
			t.Errorf("%q is read", text)
		}
	}
}
