package tree

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/tree/treetest"
)

// at is the toolchain on a host where facts says what there is.
func (b *bench) at(facts func() Facts) *Toolchain {
	return b.changed(func(r *Recipe) {
		r.Inspect = func(context.Context, Environ) (Facts, error) { return facts(), nil }
	})
}

// A tree is built where it was configured in every sense: with the same tools,
// installed packages and environment. What the configure commands install
// themselves is no change.
func TestHostChangedAfterConfigure(t *testing.T) {
	before := Facts{Env: map[string]string{"SWITCH": "one"}, Tools: []string{"tool 1"}, Installed: []string{"library 1"}}
	for name, change := range map[string]func(t *testing.T, f *Facts){
		"switch":      func(_ *testing.T, f *Facts) { f.Env = map[string]string{"SWITCH": "two"} },
		"tool":        func(_ *testing.T, f *Facts) { f.Tools = []string{"tool 2"} },
		"upgrade":     func(_ *testing.T, f *Facts) { f.Installed = []string{"library 2"} },
		"environment": func(t *testing.T, _ *Facts) { t.Setenv("CC", "another") },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			facts := before
			tc := b.at(func() Facts { return facts })
			spec := b.Spec(makeIt(), project)
			src, err := tc.Configure(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			change(t, &facts)
			_, err = tc.Build(t.Context(), src)
			_ = wantError(t, err, step.TreeGone, "was configured with other tools", "configure has to run again")
			if k, err := b.Deploy(t.Context(), tc, spec); err != nil || k.Cached {
				t.Errorf("configured again: %+v, %v", k, err)
			}
			if k, err := b.Deploy(t.Context(), tc, spec); err != nil || !k.Cached {
				t.Errorf("the next: %+v, %v", k, err)
			}
		})
	}
}

// A tool that is being replaced by somebody else is no reason to give up.
func TestToolMissingMeanwhile(t *testing.T) {
	b := newBench(t)
	looks, missing := 0, 0
	tc := b.changed(func(r *Recipe) {
		r.Inspect = func(context.Context, Environ) (Facts, error) {
			if looks++; looks == missing {
				return Facts{}, &step.Error{Kind: step.Unsupported, Err: errors.New("no tool")}
			}
			return Facts{}, nil
		}
	})
	o := makeIt()
	o.Configure = [][]string{{"true"}}
	spec := b.Spec(o, project)
	missing = 2
	_, err := tc.Configure(t.Context(), spec)
	if err == nil || step.KindOf(err) != "" || err.Error() != "look at what configure has installed: no tool" {
		t.Errorf("at the end of configure: %v of kind %q", err, step.KindOf(err))
	}
	looks, missing = 0, 3
	src, err := tc.Configure(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tc.Build(t.Context(), src)
	_ = wantError(t, err, step.TreeGone, "was configured with other tools")
	looks, missing = 0, 1
	_, err = tc.Configure(t.Context(), spec)
	_ = wantError(t, err, step.Unsupported, "no tool")
}

func TestConfigureInstalls(t *testing.T) {
	b := newBench(t)
	shelf := t.TempDir() // a file there is a package
	facts := Facts{Tools: []string{"tool 1"}}
	tc := b.at(func() Facts {
		f := facts
		f.Installed, _ = filepath.Glob(filepath.Join(shelf, "*"))
		return f
	})
	o := makeIt()
	o.Configure = [][]string{{"touch", filepath.Join(shelf, "library")}}
	spec := b.Spec(o, project)
	for _, cached := range []bool{false, true} {
		if k, err := b.Deploy(t.Context(), tc, spec); err != nil || k.Cached != cached {
			t.Errorf("want cached %t: %+v, %v", cached, k, err)
		}
	}
	if out, err := treetest.Command(t, shelf, "touch", "upgrade").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if k, err := b.Deploy(t.Context(), tc, spec); err != nil || k.Cached {
		t.Errorf("after an upgrade: %+v, %v", k, err)
	}
}

// What was upgraded while the build ran is in no key: not even if it is taken
// back.
func TestHostChangedDuringBuild(t *testing.T) {
	b := newBench(t)
	library := filepath.Join(t.TempDir(), "library")
	tc := b.at(func() Facts {
		all, _ := filepath.Glob(library)
		return Facts{Installed: all}
	})
	o := makeIt()
	o.Build = append(o.Build, []string{"touch", library})
	spec := b.Spec(o, project)
	for range 2 {
		if k, err := b.Deploy(t.Context(), tc, spec); err != nil || k.Cached {
			t.Errorf("%+v, %v", k, err)
		}
		if err := os.Remove(library); err != nil {
			t.Fatal(err)
		}
	}
}
