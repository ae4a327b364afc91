package carrier_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/carrier"
	"github.com/morgana-deploy/morgana/carrier/carriertest"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

func TestOptions(t *testing.T) {
	for _, test := range []struct {
		options carrier.Carriage
		field   string
	}{
		{carrier.Carriage{}, ""},
		{carrier.Carriage{Carrier: "linux", Respawn: true, Linux: "/a.deb"}, ""},
		{carrier.Carriage{Carrier: "linux", Linux: "linux-image-6.1.0-50-cloud-amd64=6.1.176-1~a+b"}, ""},
		{carrier.Carriage{Carrier: "linux", Linux: "linux-image-amd64"}, "linux"},
		{carrier.Carriage{Carrier: "linux", Linux: "-o=1"}, "linux"},
		{carrier.Carriage{Carrier: "bsd"}, "carrier"},
		{carrier.Carriage{Linux: "/a.deb"}, "linux"},
		{carrier.Carriage{Tender: "solo5-spt"}, "tender"},
		{carrier.Carriage{Respawn: true}, "respawn"},
	} {
		var e *step.Error
		if err := test.options.Read(); (err != nil) != (test.field != "") || errors.As(err, &e) && (e.Field != test.field || e.Kind != step.InvalidSpec) {
			t.Errorf("%+v: %v", test.options, err)
		}
	}
}

// A tender that is not in PATH is taken from the opam switch in which the kernel is made.
func TestTenderOfTheSwitch(t *testing.T) {
	bin := t.TempDir()
	for name, text := range map[string]string{"morgana-carrier": "", "opam": "#!/bin/sh\necho " + bin + "/$2\n", "--switch=five/solo5-spt": ""} {
		path := filepath.Join(bin, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o700)); err != nil { //nolint:gosec // programs
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin)
	deb := filepath.Join(bin, "morgana-carrier") // a file that is there
	spec := step.Spec{Origin: step.Origin{ABIs: []string{image.Solo5SPT}}, Toolchain: step.Recipe{Kind: "mirage", Options: json.RawMessage(`{"switch":"five"}`)}}
	if err := (&carrier.Carriage{Carrier: "linux", Linux: deb}).Complete(t.Context(), spec); err != nil {
		t.Error(err)
	}
	var e *step.Error
	if err := (&carrier.Carriage{Carrier: "linux", Linux: bin + "/none.deb"}).Complete(t.Context(), spec); !errors.As(err, &e) || e.Kind != step.NotFound || e.Field != "linux" {
		t.Errorf("without the package: %v", err)
	}
	spec.Toolchain.Options = nil
	if err := (&carrier.Carriage{Carrier: "linux", Linux: deb}).Complete(t.Context(), spec); !errors.As(err, &e) || e.Kind != step.Unsupported || e.Field != "tender" {
		t.Errorf("of another switch: %v", err)
	}
	for _, n := range carrier.Needs(t.Context()) {
		if (n.Found != "") != (n.What == "morgana-carrier") || (n.Fix != "") == (n.Found != "") {
			t.Errorf("doctor: %+v", n)
		}
	}
}

// What cannot be carried is refused with the option to blame.
func testRefusals(t *testing.T, parts carriertest.Parts) {
	text := filepath.Join(t.TempDir(), "text.deb")
	if err := os.WriteFile(text, []byte("no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	linux := image.Info{ABIs: []string{image.LinuxExecutable}}
	spt := image.Info{ABIs: []string{image.Solo5SPT}}
	for _, test := range []struct {
		name    string
		options carrier.Carriage
		cargo   carrier.Cargo
		kind    step.Kind
		field   string
		text    string
	}{
		{"virtio kernel", carrier.Carriage{}, carrier.Cargo{Info: image.Info{ABIs: []string{image.Solo5Virtio}}}, step.Unsupported, "", "no Linux program and no Solo5 kernel"},
		{"no tender", carrier.Carriage{Tender: "solo5-none"}, carrier.Cargo{Info: spt}, step.Unsupported, "tender", "solo5-none is neither in the worker's PATH nor in its opam switch"},
		{"quotes", carrier.Carriage{}, carrier.Cargo{Kernel: parts.Web, Info: linux, Args: `a "b c"`}, step.InvalidSpec, "args", "split at blanks"},
		{"no package", carrier.Carriage{Linux: "/none.deb"}, carrier.Cargo{Kernel: parts.Web, Info: linux}, step.NotFound, "linux", "/none.deb"},
		{"another file", carrier.Carriage{Linux: text}, carrier.Cargo{Kernel: parts.Web, Info: linux}, step.InvalidSpec, "linux", "no ar archive"},
		{"unknown version", carrier.Carriage{Linux: "linux-image-cloud-amd64=0"}, carrier.Cargo{Kernel: parts.Web, Info: linux}, "", "linux", "Version '0'"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := test.options.Ship(t.Context(), t.TempDir(), t.TempDir(), test.cargo)
			var e *step.Error
			if !errors.As(err, &e) || e.Kind != test.kind || e.Field != test.field || !strings.Contains(e.Error(), test.text) || e.Hint == "" {
				t.Errorf("got %v, %+v", err, e)
			}
		})
	}
}
