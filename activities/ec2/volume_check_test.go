package ec2

import (
	"bytes"
	"errors"
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

	"github.com/morgana-deploy/morgana/ec2lab"
	"github.com/morgana-deploy/morgana/remote"
	"github.com/morgana-deploy/morgana/step"
)

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
		"quota":       {code1("RunInstances", "VcpuLimitExceeded"), step.Error{Kind: step.Unsupported, Field: "helper.type"}, "Service Quotas"},
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
	no(t, err)
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
		"no type in the first zone": {`{"backing":"volume","subnets":["` + lab.Subnets()[2] + `","` + lab.Subnets()[1] + `"]}`, func() { lab.Withdraw("t3.micro", "eu-west-1c") }, step.Error{}, ""},
		"private subnet first":      {`{"backing":"volume","subnets":["` + lab.PrivateSubnet() + `","` + lab.Subnets()[1] + `"]}`, nil, step.Error{}, ""},
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
	no(t, err)
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
	no(t, os.Chtimes(k.folder, old, old))
	no(t, failure(target.openKeys(t.Context(), "hello.prod.00c0ffee-3")))
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

// TestRefusal says what to do about a helper that refuses the worker.
func TestRefusal(t *testing.T) {
	for user, test := range map[string]struct {
		err  error
		want step.Error
		says string
	}{
		"ann":  {&remote.Exit{Status: 1, Stderr: "sudo: a password is required"}, step.Error{Kind: step.Unauthorized, Field: "helper.user"}, "ann may not use sudo without a password: exit status 1: sudo: a password is required"},
		"root": {&step.Error{Kind: step.Unsupported, Err: errors.New("the account runs no commands: Please login as the user \"ec2-user\"")}, step.Error{Kind: step.Unauthorized, Field: "helper.user"}, "Please login as"},
		"bob":  {&step.Error{Kind: step.Unauthorized, Err: remote.ErrRefused}, step.Error{Kind: step.Unauthorized, Field: "helper.user"}, "i-0a1b does not let bob log in"},
		"eve":  {&step.Error{Kind: step.Unauthorized, Err: remote.ErrHostKey, Hint: "see known_hosts"}, step.Error{Kind: step.Unauthorized}, "has not the host key that it was given"},
	} {
		refusedWith(t, user, refusal(test.err, "i-0a1b", "203.0.113.9", user), test.want, test.says)
	}
	ssh := &step.Error{Kind: step.NotFound, Err: errors.New("another error of ssh")}
	if err := refusal(ssh, "i-0a1b", "203.0.113.9", "ann"); !errors.Is(err, ssh) {
		t.Errorf("another error is %v", err)
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
