package xen

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// What xen_caps and the version of a host allow.
func TestRuns(t *testing.T) {
	const both = "xen-3.0-x86_64 hvm-3.0-x86_32 hvm-3.0-x86_64"
	host := &dom0{}
	for _, c := range []struct{ kind, version, caps, says string }{
		{typePVH, "4.17", both, ""},
		{typePVH, "4.10", both, ""},
		{typePVH, "4.9", both, "PVH needs 4.10"},
		{typePVH, "3.4", both, "PVH needs 4.10"},
		{typePVH, "4.17", "xen-3.0-x86_64", "cannot run PVH domains"},
		{typeHVM, "4.17", both, ""},
		{typeHVM, "4.9", both, "hvm domains are made for 4.10"},
		{typeHVM, "4.17", "xen-3.0-x86_64", "cannot run HVM domains"},
		{typePV, "3.0", "xen-3.0-x86_64", ""},
		{typePV, "4.17", "hvm-3.0-x86_32 hvm-3.0-x86_64", "cannot run PV domains"},
	} {
		major, minor, _ := strings.Cut(c.version, ".")
		f := facts{info: map[string]string{"xen_major": major, "xen_minor": minor, "xen_caps": c.caps}}
		err := f.runs(host, c.kind)
		if c.says == "" && err != nil || c.says != "" && (step.KindOf(err) != step.Unsupported || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s on Xen %s with %q: %v, want %q", c.kind, c.version, c.caps, err, c.says)
		}
	}
}

// Check refuses options without the devices that the source tells of, before the build and
// without asking the host. A vif or disk without a name is bound.
func TestDevicesOfTheSource(t *testing.T) {
	for _, test := range []struct{ options, field, text, hint string }{
		{`{}`, "vif", "@NETWORK:0@ of the xl.in is not bound", `write vif: [{name: "0", bridge: xenbr0}]`},
		{`{"vif":[{"name":"service","bridge":"xenbr0"}]}`, "vif", "@NETWORK:0@ of the xl.in is not bound", `{name: "0"`},
		{`{"vif":[{"bridge":"xenbr0"}]}`, "disks", "@BLOCK:store@ of the xl.in is not bound", `write disks: [{name: "store"`},
		{`{"vif":[{"bridge":"xenbr0"}],"disks":[{"path":"/dev/vg/data"}]}`, "", "", ""},
		{`{"vif":[{"name":"0"},{"bridge":"xenbr1"}],"disks":[{"name":"store","path":"/dev/vg/data"}]}`, "", "", ""},
	} {
		spec := step.Spec{Tags: step.Tags{App: "a", Target: "b", Life: "0a1b2c3d", Generation: 1}, Kind: Kind,
			Options: []byte(test.options), Origin: step.Origin{Networks: []string{"0"}, Blocks: []string{"store"}}}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // the host is not asked
		_, err := New(step.Site{State: t.TempDir()}).Check(ctx, spec)
		var e *step.Error
		switch errors.As(err, &e); {
		case test.text == "" && step.KindOf(err) == step.InvalidSpec:
			t.Errorf("%s: got %v", test.options, err)
		case test.text != "" && (e == nil || e.Kind != step.InvalidSpec || e.Field != test.field || !strings.Contains(err.Error(), test.text) || !strings.Contains(e.Hint, test.hint)):
			t.Errorf("%s: got %v", test.options, err)
		}
	}
}

// Outputs of verb observe as they were seen.
func TestHealth(t *testing.T) {
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0).UTC() }
	for out, want := range map[string]step.Health{
		"is b\nsince 17\nended 18\n":            {State: step.Running, Since: at(17)},
		"is r\nsince 17\n":                      {State: step.Running, Since: at(17)},
		"is \nsince 17\n":                       {State: step.Running, Since: at(17)},
		"is p\ngone\n":                          {State: step.Running},
		"gone\n":                                {State: step.Gone},
		"is sc\nsince 17\nreason 3\nended 19\n": {State: step.Ended, How: "crashed", Since: at(19)},
		"is sc\nsince 17\n":                     {State: step.Ended, How: "crashed"},
		"is s\nsince 17\n":                      {State: step.Ended},
		"is d\nsince 17\n":                      {State: step.Ended},
		"since 17\nreason 0\nended 19\n":        {State: step.Ended, How: "shut down", Success: true, Since: at(19)},
		"since 17\nreason 5\nended 19\n":        {State: step.Ended, How: "shut down with reason 5", Since: at(19)},
		"since 17\n":                            {State: step.Ended},
		"rebooted\n":                            {State: step.Ended, How: "ended with its host"},
	} {
		if got := healthOf(out); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, want %+v", out, got, want)
		}
	}
}

// Memory is refused where it cannot be had, and not where it need not be.
func TestMemory(t *testing.T) {
	const fixed = "dom0_mem=768M"
	for _, c := range []struct {
		name, line string
		mib        int
		runs       bool
		says       string
	}{
		{"enough", fixed, 900, false, ""},
		{"too much", fixed, 3000, true, "more than"},
		{"not free", fixed, 1000, false, "has free: 1000 MiB"},
		{"not free, and one of ours may stay", fixed, 1000, true, ""},
		{"dom0 gives of its own", "", 1000, false, ""},
		{"an xl.in may say", fixed, 0, false, ""},
	} {
		f := facts{info: map[string]string{"free_memory": "1000", "total_memory": "2559", "xen_commandline": c.line}}
		err := f.checkMemory(&dom0{}, c.mib, 1, c.runs)
		if c.says == "" && err != nil || c.says != "" && (step.KindOf(err) != step.Conflict || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.says)
		}
	}
}
