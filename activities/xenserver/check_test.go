package xenserver

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/xapilab"
)

func (b *bench) check(options string, abis ...string) (step.Spec, error) {
	b.Helper()
	return b.target().Check(b.Context(), step.Spec{Tags: step.Tags{App: "web", Target: "lab", Life: "0a1b2c3d", Generation: 1}, Kind: Kind,
		Options: json.RawMessage(options), Origin: step.Origin{ABIs: abis}})
}

// TestCheckRefuses compares the errors with the lines that a user is to see.
func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	b.lab.AddSR("twice", 1<<30)
	b.lab.AddSR("twice", 1<<30)
	b.lab.AddSR("small", 1<<20)
	b.lab.AddNetwork("twice")
	b.lab.AddNetwork("twice")
	away := b.lab.AddSR("unplugged", 1<<30)
	for _, pbd := range b.lab.Get(away, "PBDs").([]string) {
		b.lab.Set(pbd, "currently_attached", false)
	}
	iso := b.lab.AddSR("iso", 1<<30)
	b.lab.Set(iso, "content_type", "iso")
	web := httptest.NewTLSServer(http.NotFoundHandler())
	defer web.Close()
	at := func(host, fingerprint string) string {
		return fmt.Sprintf(`{"host":%q,"profile":%q,"fingerprint":%q}`, host, profile(host), fingerprint)
	}
	for _, test := range []struct {
		name, options string
		abis          []string
		kind          step.Kind
		field         string
		want          string // parts of the error and its hint, with * between
	}{
		{"host down", at("https://127.0.0.1:1", ""), nil, step.NotFound, "host", "connection refused*the worker can reach it"},
		{"not XenAPI", at(web.URL, fingerprint(digestOf(web))), nil, step.InvalidSpec, "host", "HTTP 404"},
		{"wrong certificate", at(b.lab.URL, b.lab.MemberFingerprint), nil, step.Unauthorized, "fingerprint", "with the SHA-256 fingerprint " + b.lab.Fingerprint},
		{"no SR", string(b.options(`,"sr":"none"`)), nil, step.InvalidSpec, "sr", `no storage repository named "none"*xe sr-list`},
		{"two SRs", string(b.options(`,"sr":"twice"`)), nil, step.InvalidSpec, "sr", `"twice"*UUID`},
		{"no SR of this UUID", string(b.options(`,"sr":"11111111-2222-3333-4444-555555555555"`)), nil, step.InvalidSpec, "sr", "no storage repository 11111111"},
		{"ISO library", string(b.options(`,"sr":"iso"`)), nil, step.Unsupported, "sr", "is for ISO images"},
		{"SR not plugged in", string(b.options(`,"sr":"unplugged"`)), nil, step.Unsupported, "sr", "not plugged in to any host"},
		{"SR full", string(b.options(`,"sr":"small","size":"1GiB"`)), nil, step.Conflict, "sr", "the SR small has 1 MiB left, and the disk needs 1024"},
		{"no network", string(b.options(`,"network":"none such"`)), nil, step.InvalidSpec, "network", `no network named "none such"`},
		{"two networks", string(b.options(`,"networks":[{"network":"twice"}]`)), nil, step.InvalidSpec, "networks[0].network", `"twice"*UUID`},
		{"no host", string(b.options(`,"affinity":"xen9"`)), nil, step.InvalidSpec, "affinity", `no host named "xen9"`},
		{"memory", string(b.options(`,"memory":8192`)), nil, step.Conflict, "memory", "no host has 8192 MiB for the VM: lab-1 has 4096 MiB free, lab-2 has 4096 MiB free"},
		{"processors", string(b.options(`,"vcpus":64`)), nil, step.Unsupported, "vcpus", "no host of the pool has 64 processors*at most 4"},
		{"kernel", string(b.options("")), []string{image.Multiboot1, image.Solo5Virtio}, step.Unsupported, "", "no virtio devices"},
		{"kernel and type", string(b.options(`,"type":"pv"`)), []string{image.Solo5Xen, image.XenPVH}, step.Unsupported, "type", "PVH only*type: pvh"},
		{"via", string(b.options(`,"via":"kernel"`)), nil, step.InvalidSpec, "via", "the XenAPI takes no kernel*target of kind xen"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.expect(t, test.options, test.abis, test.kind, test.field, test.want)
		})
	}
}

func (b *bench) expect(t *testing.T, options string, abis []string, kind step.Kind, field, want string) {
	t.Helper()
	before := len(b.lab.Resources())
	_, err := b.check(options, abis...)
	var e *step.Error
	if !errors.As(err, &e) || e.Kind != kind || e.Field != field {
		t.Fatalf("got %#v: %v, want %s of field %s", e, err, kind, field)
	}
	text := e.Error() + "\n" + e.Hint
	for part := range strings.SplitSeq(want, "*") {
		if !strings.Contains(text, part) {
			t.Errorf("got %s, want %q", text, part)
		}
	}
	if strings.Contains(text, b.lab.Password) || len(b.lab.Resources()) != before {
		t.Errorf("check told the password or made something: %s", text)
	}
}

func digestOf(s *httptest.Server) [32]byte { return sha256.Sum256(s.Certificate().Raw) }

// TestCheckPools asks pools of other kinds.
func TestCheckPools(t *testing.T) {
	t.Parallel()
	hello := []string{image.Multiboot2, image.PVH, image.XenPV, image.XenPVH}
	b := newBench(t, xapilab.Config{NoPV: true})
	b.expect(t, string(b.options(`,"type":"pv"`)), nil, step.Unsupported, "type", "XCP-ng 8.3.0, which runs no pv VMs*type: pvh or hvm")
	b.expect(t, string(b.options("")), []string{image.XenPV}, step.Unsupported, "type", "the kernel boots in a pv VM")
	for _, role := range []string{"read-only", "vm-operator"} {
		b.lab.Role(role)
		b.expect(t, string(b.options("")), nil, step.Unauthorized, "profile", "lacks the permission vdi.create*vm-admin")
	}
	b.lab.Role("vm-admin")
	b.lab.Set(b.lab.Ref("pool", "lab"), "default_SR", string(null))
	b.expect(t, string(b.options("")), nil, step.InvalidSpec, "sr", "the pool has no default SR")

	b = newBench(t, xapilab.Config{Version: "23.8.0"})
	b.expect(t, string(b.options(`,"type":"pvh"`)), nil, step.Unsupported, "type", "needs xapi 23.9, and lab-*type: pv or hvm")
	for options, want := range map[string]string{`{"type":"auto"`: `"type":"pv"`, `{"type":"hvm"`: `"type":"hvm"`} {
		spec, err := b.check(options+","+string(b.options(""))[1:], hello...)
		if err != nil || !strings.Contains(string(spec.Options), want) || !spec.Alone {
			t.Errorf("%s: %+v, %v", options, spec, err)
		}
		again, err := b.check(string(spec.Options), hello...)
		if err != nil || string(again.Options) != string(spec.Options) {
			t.Errorf("checked twice: %s, then %s, %v", spec.Options, again.Options, err)
		}
	}
	newBench(t, xapilab.Config{Version: "23.10.0"}).booted("text", usual) // its pvh VMs have no console of text

	// Before the build the types are chosen from, but none is chosen.
	spec, err := b.check(string(b.options("")))
	var s Options
	if err != nil || json.Unmarshal(spec.Options, &s) != nil || s.Type != auto || !slices.Equal(s.Types, []string{"pv", "hvm"}) {
		t.Errorf("checked before the build: %s, %v", spec.Options, err)
	}
}

// A session keeps the role that its user had at the login, also when the user gets another one.
func TestRoleChanges(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	target := b.target()
	s, err := complete(b.options(""))
	if err != nil {
		t.Fatal(err)
	}
	check := func(p *pool) error { return (&checker{pool: p}).role(t.Context()) }
	call := func(p *pool) error { return unless(p.call(t.Context(), nil, "VDI.destroy", null), "HANDLE_INVALID") }
	for _, needs := range []func(*pool) error{check, call, check, call, call} {
		b.lab.Expire() // of the session of the one before
		for _, role := range []string{"vm-operator", "vm-admin"} {
			b.lab.Role(role)
			p, err := target.connect(t.Context(), s)
			if err == nil {
				err = needs(p)
			}
			if role == "vm-admin" && err != nil || role != "vm-admin" && step.KindOf(err) != step.Unauthorized {
				t.Errorf("as a %s: %v", role, err)
			}
		}
	}
	if n := b.lab.Sessions(); n != 1 {
		t.Errorf("%d sessions, want 1", n)
	}
}

// TestCheckLives finds what another life has left.
func TestCheckLives(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	for _, c := range []struct {
		tags  step.Tags
		alone bool
	}{
		{step.Tags{App: "web", Target: "lab", Life: "0a1b2c3d", Generation: 7}, true},
		{step.Tags{App: "web", Target: "other", Life: "99999999", Generation: 1}, true},
		{step.Tags{App: "web", Target: "lab", Life: "99999999", Generation: 1}, false},
	} {
		b.lab.AddVM(map[string]any{"other_config": (&settings{}).otherConfig(c.tags, "d")})
		if spec, err := b.check(string(b.options(""))); err != nil || spec.Alone != c.alone {
			t.Errorf("beside %+v: alone %v, %v", c.tags, spec.Alone, err)
		}
	}
}
