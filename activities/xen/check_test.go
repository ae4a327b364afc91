package xen

import (
	"strings"
	"testing"

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

// What xl list has in its column State.
func TestOver(t *testing.T) {
	for state, want := range map[string]string{"is b\n": "", "is r\n": "", "is p\n": "", "is \n": "", "gone\n": "ended",
		"is s\n": "ended", "is sd\n": "ended", "is d\n": "ended", "is sc\n": "crashed"} {
		if got := over(state); got != want {
			t.Errorf("%q: %q, want %q", state, got, want)
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
