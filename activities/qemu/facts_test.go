package qemu

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
)

func newTarget(t *testing.T) *Target {
	site := step.Site{Host: "testhost", State: t.TempDir()}
	return &Target{site, machine.In(site, Kind)}
}

// What was a boot failure of QEMU's is found by Check, and in the option.
func TestCheckAsksQEMU(t *testing.T) {
	need.Tools(t, defaultQEMU)
	spec := step.Spec{Tags: step.Tags{App: "a", Target: "b", Life: "0", Generation: 1}}
	for _, test := range []struct {
		options, field, text, hint string
	}{
		{`{"machine":"q36"}`, "machine", `no machine type "q36"`, `"q35"`},
		{`{"machine":"isapc"}`, "machine", `no machine type "isapc"`, "pc, q35 or microvm"},
		{`{"cpu":"nope"}`, "cpu", `no processor "nope"`, "-cpu help"},
		{`{"cpu":"qemu46"}`, "cpu", `no processor "qemu46"`, `"qemu64"`},
		{`{"qemu":"true"}`, "qemu", "no QEMU for x86", "leave it out"},
		{`{"qemu":"false"}`, "qemu", "failed: exit status 1", "leave it out"},
		{`{"qemu":"ls"}`, "qemu", "", "leave it out"},
		{`{"qemu":"/dev/null"}`, "qemu", "the worker may not run /dev/null", "leave it out"},
		{`{"qemu":"/nope/qemu"}`, "qemu", "this host has no /nope/qemu", "leave it out"},
		{`{"qemu":"qemu-system-x86_65"}`, "qemu", "not installed", "leave it out"},
	} {
		spec.Options = withTCG(test.options)
		_, err := newTarget(t).Check(t.Context(), spec)
		if e := detail(err); e.Field != test.field || !strings.Contains(e.Error(), test.text) || !strings.Contains(e.Hint, test.hint) || !e.Kind.UserError() {
			t.Errorf("%s: %s %s %v, hint %q", test.options, e.Kind, e.Field, err, e.Hint)
		}
	}
	for _, options := range []string{`{"machine":"q35","cpu":"max,-smap"}`, `{"machine":"microvm","cpu":"qemu64"}`, `{"machine":"pc"}`} {
		target := newTarget(t)
		for range 2 { // asked, then remembered
			spec.Options = withTCG(options)
			if _, err := target.Check(t.Context(), spec); err != nil {
				t.Errorf("%s: %v", options, err)
			}
		}
	}
}

func TestFactsAreLearntOnce(t *testing.T) {
	need.Tools(t, defaultQEMU)
	program, err := exec.LookPath(defaultQEMU)
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	counting := fake(t, `echo "$@" >>`+log+"; exec "+program+` "$@"`)
	target := newTarget(t)
	var first facts
	for i := range 3 {
		known, err := target.learn(t.Context(), counting)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = known
		}
		if known.Version != first.Version || !slices.Equal(known.CPUs, first.CPUs) || !slices.Equal(known.Machines, first.Machines) {
			t.Errorf("learnt %+v, then %+v", first, known)
		}
	}
	if first.Version == "" || !slices.Contains(first.CPUs, "qemu64") || !slices.Contains(first.Machines, microvm) || slices.Contains(first.Machines, "none") {
		t.Errorf("learnt %+v", first)
	}
	if calls := strings.Count(machine.Tail(log), "\n") + 1; calls != 4 {
		t.Errorf("%d calls of QEMU:\n%s", calls, machine.Tail(log))
	}
}
