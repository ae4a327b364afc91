package xen

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
	"github.com/morgana-deploy/morgana/xenlab"
)

// bench is a target, a store with hello in it, and the shared Xen.
type bench struct {
	*testing.T
	l     *xenlab.Lab
	site  step.Site
	hello step.Artifact
}

func newBench(t *testing.T) *bench {
	l := lab(t)
	b := &bench{T: t, l: l, site: step.Site{Host: "testhost", State: t.TempDir(), Store: steptest.NewStore(t),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil))}}
	before := onHost(t, l)
	t.Cleanup(func() {
		if after := onHost(t, l); !slices.Equal(before, after) {
			t.Errorf("left on the host:\n%s\nbefore:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
		}
	})
	kernel, err := os.ReadFile(hello(t))
	if err != nil {
		t.Fatal(err)
	}
	b.hello = b.put(kernel)
	return b
}

func (b *bench) put(content []byte) step.Artifact {
	b.Helper()
	a, err := b.site.Store.Put(b.Context(), bytes.NewReader(content))
	if err != nil {
		b.Fatal(err)
	}
	return a
}

// image packages hello for an app, which is destroyed in the end.
func (b *bench) image(app string) step.Image {
	b.Helper()
	return b.with(app, `"args":"stay","expect":"staying","timeout":"5m"`)
}

// with is image with options of its own.
func (b *bench) with(app, more string) step.Image {
	b.Helper()
	spec := step.Spec{Tags: step.Tags{App: app, Target: "lab", Life: "0a1b2c3d", Generation: 1}, Kind: Kind, Options: completed(b.T, string(options(b.l, more)))}
	img, err := New(b.site).Package(b.Context(), step.Kernel{Spec: spec, File: b.hello, ABIs: []string{image.XenPV, image.XenPVH}})
	if err != nil {
		b.Fatal(err)
	}
	return img
}

func (b *bench) register(img step.Image) step.Registration {
	b.Helper()
	r, err := New(b.site).Register(b.Context(), img)
	if err != nil {
		b.Fatal(err)
	}
	return r
}

func (b *bench) boot(r step.Registration) step.Machine {
	b.Helper()
	m, err := New(b.site).Boot(b.Context(), r)
	if err != nil {
		b.Fatal(err)
	}
	return m
}

func (b *bench) destroy(spec step.Spec) []string {
	b.Helper()
	done, err := New(b.site).Destroy(b.Context(), step.Removal{Spec: spec})
	if err != nil {
		b.Fatal(err)
	}
	return done.Removed
}

// dom0 runs a script on the host.
func (b *bench) dom0(script string, args ...string) string {
	b.Helper()
	out, err := onDom0(b.Context(), b.l, append([]string{"sh", "-c", script, "sh"}, args...)...)
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// What was cut off while it was made is made anew; what another has is left alone.
func TestWhoseDomainItIs(t *testing.T) {
	b := newBench(t)
	img := b.image("whose")
	r := b.register(img)
	name, id, err := identify(img.Spec.Tags)
	if err != nil {
		t.Fatal(err)
	}
	create := fmt.Sprintf(`printf 'name="%%s"\nuuid="%%s"\ntype="pvh"\nkernel="%s/kernel"\nmemory=32\ncmdline="stay"\n' "$1" "$2" >/tmp/whose.cfg
		xl create -p /tmp/whose.cfg >/dev/null 2>&1; rm /tmp/whose.cfg; xl domid "$1"`, r.ID)

	half := b.dom0(create, name, id)
	m := b.boot(r)
	if now := b.dom0(`xl domid "$1"`, name); now == half || m.Adopted {
		t.Errorf("the half-made domain %s was taken for a whole one: %+v", half, m)
	}
	if again := b.boot(r); !again.Adopted || again.ID != id || again.Ready != m.Ready {
		t.Errorf("booted again: %+v, not %+v adopted", again, m)
	}
	// The mark of an earlier boot of the host tells nothing.
	b.dom0(`echo another >"$1"`, Root+"/domains/"+name+"/created")
	end, err := New(b.site).Console(t.Context(), step.ConsoleFrom{Machine: m, Offset: 1 << 20})
	if err != nil || !end.Ended {
		t.Errorf("the console of before the host's reboot goes on: %+v, %v", end, err)
	}
	if m := b.boot(r); m.Adopted {
		t.Error("a domain from before the host's reboot was adopted")
	}
	b.destroy(img.Spec)

	const other = "11111111-2222-3333-4444-555555555555"
	r = b.register(img)
	theirs := b.dom0(create, name, other)
	_, err = New(b.site).Boot(t.Context(), r)
	if step.KindOf(err) != step.Conflict || !strings.Contains(err.Error(), other) {
		t.Errorf("boot: %v, not a Conflict that names the other's uuid", err)
	}
	if _, err := New(b.site).Check(t.Context(), img.Spec); step.KindOf(err) != step.Conflict {
		t.Errorf("check: %v, not a Conflict", err)
	}
	if _, err := New(b.site).Destroy(t.Context(), step.Removal{Spec: img.Spec}); step.KindOf(err) != step.Conflict {
		t.Errorf("destroy: %v, not a Conflict", err)
	}
	if now := b.dom0(`xl domid "$1"`, name); now != theirs {
		t.Errorf("somebody else's domain %s is %s now", theirs, now)
	}
	b.dom0(`xl destroy "$1"`, name)
	b.destroy(img.Spec)
}

// One that ends by itself is not started again, and says whether it was ready.
func TestDomainThatEnds(t *testing.T) {
	b := newBench(t)
	for expect, kind := range map[string]step.Kind{"command line": "", "never printed": step.BootFailed} {
		img := b.with("ends", fmt.Sprintf(`"expect":%q,"timeout":"5m"`, expect))
		r := b.register(img)
		m, err := New(b.site).Boot(t.Context(), r)
		if step.KindOf(err) != kind || (err == nil) != (kind == "") {
			t.Errorf("expect %q: %v, not %q", expect, err, kind)
		}
		var e *step.Error
		if err != nil && (!errors.As(err, &e) || !strings.Contains(e.Hint, "hello from a unikernel")) {
			t.Errorf("%v has no console in its hint", err)
		}
		if err == nil {
			b.dom0(`for i in $(seq 2000); do xl domid "$1" >/dev/null 2>&1 || exit 0; sleep 0.2; done; exit 1`, "ends.lab.0a1b2c3d-1")
			if again := b.boot(r); !again.Ended || !again.Adopted || !strings.HasPrefix(again.Ready, "console matched") {
				t.Errorf("booted again after it ended: %+v (first %+v)", again, m)
			}
			text, err := New(b.site).Console(t.Context(), step.ConsoleFrom{Machine: m, WaitSeconds: 60})
			if err != nil || !strings.Contains(text.Text, "hello from a unikernel") {
				t.Errorf("console of the ended: %q, %v", text.Text, err)
			}
			text, err = New(b.site).Console(t.Context(), step.ConsoleFrom{Machine: m, Offset: text.Next, WaitSeconds: 60})
			if err != nil || !text.Ended || text.Text != "" {
				t.Errorf("behind the end: %+v, %v", text, err)
			}
		}
		b.destroy(img.Spec)
	}
}
