package prebuilt

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
)

// kernel is a multiboot 1 header with load addresses and nothing to boot.
var kernel = []byte{
	0x02, 0xb0, 0xad, 0x1b, 0x00, 0x00, 0x01, 0x00, 0xfe, 0x4f, 0x51, 0xe4, 0x00, 0x00, 0x10, 0x00,
	0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00,
}

func site(t *testing.T) step.Site {
	return step.Site{Host: "here", State: t.TempDir(), Store: steptest.NewStore(t)}
}

func specOf(t *testing.T, s step.Site, data []byte) step.Spec {
	t.Helper()
	a, err := s.Store.Put(t.Context(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return step.Spec{Toolchain: step.Recipe{Kind: Kind}, Origin: step.Origin{Kernel: &a}}
}

func TestKernel(t *testing.T) {
	s := site(t)
	tc := New(s)
	spec := specOf(t, s, kernel)
	src, err := tc.Configure(t.Context(), spec)
	if err != nil || src.Host != "" || src.Tree != "" {
		t.Fatalf("configure: %+v, %v", src, err)
	}
	k, err := tc.Build(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	if k.File != *spec.Origin.Kernel || !slices.Contains(k.ABIs, image.Multiboot1) {
		t.Errorf("kernel is %+v", k)
	}
	if b, err := tc.Built(t.Context(), spec); err != nil || b.Kernel == nil || b.Kernel.File != k.File {
		t.Errorf("built: %+v, %v", b, err)
	}
	if gone, err := tc.Clean(t.Context(), spec); err != nil || len(gone.Removed) > 0 {
		t.Errorf("clean: %+v, %v", gone, err)
	}
	left, err := os.ReadDir(filepath.Join(s.State, Kind))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestRefused(t *testing.T) {
	s := site(t)
	tc := New(s)
	for name, c := range map[string]struct {
		kind   step.Kind
		field  string
		change func(*step.Spec)
	}{
		"option":    {step.InvalidSpec, "kernel", func(s *step.Spec) { s.Toolchain.Options = json.RawMessage(`{"kernel":"x"}`) }},
		"no kernel": {step.InvalidSpec, "toolchain", func(s *step.Spec) { s.Origin.Kernel = nil }},
		"not there": {step.NotFound, "", func(s *step.Spec) { s.Origin.Kernel.SHA256 = strings.Repeat("0", 64) }},
	} {
		spec := specOf(t, s, kernel)
		c.change(&spec)
		_, err := tc.Configure(t.Context(), spec)
		_, buildErr := tc.Build(t.Context(), step.Source{Spec: spec})
		for _, err := range []error{err, buildErr} {
			if step.KindOf(err) != c.kind {
				t.Errorf("%s: error is %v, want kind %s", name, err, c.kind)
			}
		}
	}
	_, err := tc.Build(t.Context(), step.Source{Spec: specOf(t, s, []byte("#!/bin/sh\n"))})
	if step.KindOf(err) != step.InvalidSpec {
		t.Errorf("a script: %v", err)
	}
}
