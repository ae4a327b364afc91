package step_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

func TestValid(t *testing.T) {
	good := step.Image{Spec: goldenSpec, Digest: step.DigestOf(goldenFiles), Format: "kernel", Files: goldenFiles}
	if err := good.Valid(); err != nil {
		t.Fatal(err)
	}
	for field, spoil := range map[string]func(*step.Image){
		"app":                      func(i *step.Image) { i.Spec.App = "../etc" },
		"generation":               func(i *step.Image) { i.Spec.Generation = 0 },
		"kind":                     func(i *step.Image) { i.Spec.Kind = "q@h" },
		"spec.host":                func(i *step.Image) { i.Spec.Host = "a b" },
		"digest":                   func(i *step.Image) { i.Digest = "d1" },
		"files[1].name":            func(i *step.Image) { i.Files[1].Name = i.Files[0].Name },
		"files[0].artifact":        func(i *step.Image) { i.Files[0].Artifact.Size = -1 },
		"files[0].artifact.sha256": func(i *step.Image) { i.Files[0].Artifact.SHA256 = strings.Repeat("A", 64) },
	} {
		bad := good
		bad.Files = append([]step.File(nil), good.Files...)
		spoil(&bad)
		wantField(t, bad.Valid(), field)
	}
	for _, name := range []string{"", ".", "..", ".hidden", "-rf", "a/b", "/a", "../a", "a\nb", "a\x00", "a\xffb", strings.Repeat("a", 201)} {
		wantField(t, step.CheckFileName("name", name), "name")
	}
	for _, name := range []string{"kernel", "hello.xl.in", "a b", "grüße", strings.Repeat("a", 200)} {
		if err := step.CheckFileName("name", name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestSameOwner(t *testing.T) {
	for field, change := range map[string]func(*step.Spec){
		"spec.app":        func(s *step.Spec) { s.App = "other" },
		"spec.target":     func(s *step.Spec) { s.Target = "other" },
		"spec.life":       func(s *step.Spec) { s.Life = "ffffffff" },
		"spec.generation": func(s *step.Spec) { s.Generation++ },
		"spec.kind":       func(s *step.Spec) { s.Kind = "xen" },
		"spec.host":       func(s *step.Spec) { s.Host = "" },
		"spec.alone":      func(s *step.Spec) { s.Alone = false },
		"spec.options":    func(s *step.Spec) { s.Options = json.RawMessage(`{"host":"elsewhere"}`) },
		"spec.toolchain":  func(s *step.Spec) { s.Toolchain.Kind = "other" },
		"spec.origin":     func(s *step.Spec) { s.Origin.Folder = "/other" },
	} {
		after := goldenSpec
		change(&after)
		wantField(t, step.SameOwner(step.Package, goldenSpec, after), field)
		mayChange := field == "spec.host" || field == "spec.options" || field == "spec.alone"
		if err := step.SameOwner(step.Check, goldenSpec, after); (err == nil) != mayChange {
			t.Errorf("%s changed by check: %v", field, err)
		}
	}
	// Steps in other languages write the same JSON value differently.
	spaced, none := goldenSpec, goldenSpec
	spaced.Options = json.RawMessage(` { "ports" : ["8080:80"], "memory": 64.0 } `)
	if err := step.SameOwner(step.Boot, goldenSpec, spaced); err != nil {
		t.Error(err)
	}
	none.Options = nil
	null := none
	null.Options = json.RawMessage("null")
	if err := errors.Join(step.SameOwner(step.Boot, none, null), step.SameOwner(step.Boot, null, none)); err != nil {
		t.Error(err)
	}
}

func wantField(t *testing.T, err error, field string) {
	t.Helper()
	var e *step.Error
	if !errors.As(err, &e) || e.Kind != step.InvalidSpec || e.Field != field || e.Hint == "" {
		t.Errorf("got %#v, want InvalidSpec of %s with a hint", err, field)
	}
}

func TestToken(t *testing.T) {
	tags := step.Tags{App: strings.Repeat("a", 40), Target: strings.Repeat("b", 40), Life: "98767bcc", Generation: 1}
	one, err := tags.Token("instance")
	if err != nil || len(one) > 64 {
		t.Fatalf("%q, %v", one, err)
	}
	other := tags
	other.Generation++
	for _, different := range []func() (string, error){
		func() (string, error) { return tags.Token("volume") },
		func() (string, error) { return other.Token("instance") },
	} {
		if two, err := different(); err != nil || two == one {
			t.Errorf("%q and %q, %v", one, two, err)
		}
	}
	if again, _ := tags.Token("instance"); again != one {
		t.Errorf("%q, then %q", one, again)
	}
	tags.Life = ""
	if _, err := tags.Token("instance"); step.KindOf(err) != step.InvalidSpec {
		t.Errorf("tags of no rollout: %v", err)
	}
}
