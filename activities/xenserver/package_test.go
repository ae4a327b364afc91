package xenserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
	"github.com/morgana-deploy/morgana/xapilab"
)

// TestPackage compares the images of options with that of a pvh VM.
func TestPackage(t *testing.T) {
	t.Parallel()
	need.Tools(t, "make", "gcc")
	target, kernel := packager(t)
	packed := func(options string) (step.Image, Options) {
		t.Helper()
		spec := step.Spec{Tags: step.Tags{App: "web", Target: "lab", Life: "0a1b2c3d", Generation: 1}, Kind: Kind, Options: completed(t, options)}
		img, err := target.Package(t.Context(), step.Kernel{Spec: spec, File: kernel})
		var o Options
		if err = errors.Join(err, json.Unmarshal(img.Spec.Options, &o)); err != nil {
			t.Fatalf("%s: %v", options, err)
		}
		return img, o
	}
	first, o := packed(`{"types":["pvh","hvm"]}`)
	if o.Type != typePVH || o.Types != nil || o.Host != "https://xen1" {
		t.Errorf("options %+v", o)
	}
	for _, test := range []struct {
		options   string
		disk, all bool // the same disk, and the same image
	}{
		{`{"type":"pvh"}`, true, true},
		{`{"type":"pvh","profile":"prod","format":"raw"}`, true, true},
		{`{"type":"pv"}`, true, false},
		{`{"type":"pvh","args":"a \"b\\"}`, true, false}, // they are the VM's
		{`{"type":"pvh","memory":256}`, true, false},
		{`{"type":"pvh","sr":"other"}`, true, false},
		{`{"type":"pvh","size":"2MiB"}`, false, false},
		{`{"type":"hvm"}`, false, false},
	} {
		img, _ := packed(test.options)
		if disk := machine.ContentDigest(img) == machine.ContentDigest(first); disk != test.disk || (img.Digest == first.Digest) != test.all {
			t.Errorf("%s: the same disk %v, the same image %v", test.options, disk, img.Digest == first.Digest)
		}
	}
	one, _ := packed(`{"type":"hvm","args":"a"}`)
	other, _ := packed(`{"type":"hvm","args":"b"}`)
	if machine.ContentDigest(one) == machine.ContentDigest(other) {
		t.Error("args of an hvm VM are not on its disk")
	}
}

func packager(t *testing.T) (*Target, step.Artifact) {
	t.Helper()
	site := step.Site{Host: "testhost", State: t.TempDir(), Store: steptest.NewStore(t)}
	b, err := hello()
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := site.Store.Put(t.Context(), bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return New(site), kernel
}

// completed returns the options as check would complete them.
func completed(t *testing.T, options string) json.RawMessage {
	t.Helper()
	s, err := complete(json.RawMessage(options))
	if err != nil {
		t.Fatal(err)
	}
	s.Host = "https://xen1"
	b, err := json.Marshal(s.Options)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPackageRefuses(t *testing.T) {
	t.Parallel()
	need.Tools(t, "make", "gcc")
	target, kernel := packager(t)
	for _, test := range []struct{ options, field, want string }{
		{`{"type":"pvh","modules":["initrd.img"]}`, "modules[0]", "no file"},
		{`{"type":"pvh","memory":4,"modules":["large.img"]}`, "memory", "too little"},
		{`{"type":"hvm","size":"1MiB"}`, "size", "too small"},
		{`{"type":"hvm","args":"'a'"}`, "args", "GRUB"},
	} {
		spec := step.Spec{Tags: step.Tags{App: "web", Target: "lab", Life: "0a1b2c3d", Generation: 1}, Kind: Kind, Options: completed(t, test.options)}
		_, err := target.Package(t.Context(), step.Kernel{Spec: spec, File: kernel, Files: []step.File{{Name: "large.img", Artifact: step.Artifact{Size: 4 << 20}}}})
		var e *step.Error
		if !errors.As(err, &e) || e.Kind != step.InvalidSpec || e.Field != test.field || !strings.Contains(e.Error()+"\n"+e.Hint, test.want) || strings.Contains(e.Hint, "via") {
			t.Errorf("%s: %v (%+v)", test.options, err, e)
		}
	}
}

// TestForecast tells the default SR, the least size of the disk, and the number of interfaces.
func TestForecast(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	b.lab.AddNetwork("a")
	b.lab.AddNetwork("b")
	for _, test := range []struct {
		more string
		want []string
	}{
		{"", []string{"boot disk of at least 1 MiB in the pool's default SR, " + b.lab.SR + ",", "give it 1 network interface"}},
		{`,"type":"hvm"`, []string{"boot disk of at least 2 MiB in "}},
		{`,"size":"1GiB","sr":"` + b.lab.SR + `"`, []string{"boot disk of 1GiB in SR " + b.lab.SR + ","}},
		{`,"networks":[{"network":"a"},{"network":"b"}]`, []string{"give it 2 network interfaces"}},
	} {
		spec, err := b.target().Check(t.Context(), step.Spec{Tags: step.Tags{App: "web", Target: "lab", Life: "0a1b2c3d", Generation: 1}, Kind: Kind, Options: b.options(test.more)})
		if err != nil {
			t.Fatal(err)
		}
		all, err := b.target().Forecast(t.Context(), spec)
		if got := fmt.Sprintf("%+v", all); err != nil || slices.ContainsFunc(test.want, func(w string) bool { return !strings.Contains(got, w) }) {
			t.Errorf("%s: %s, want %q: %v", test.more, got, test.want, err)
		}
	}
}
