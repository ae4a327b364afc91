package xenserver

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
	"github.com/morgana-deploy/morgana/xapilab"
)

// TestConformance runs the suite against a lab whose guests are pretended.
func TestConformance(t *testing.T) {
	t.Parallel()
	b := newBench(t, xapilab.Config{})
	kernel, err := hello()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "hello")
	if err := os.WriteFile(path, kernel, 0o600); err != nil {
		t.Fatal(err)
	}
	steptest.Run(t, steptest.Case{
		New: func(site step.Site) step.Target {
			here := *b
			here.site = site
			return here.target()
		},
		Spec:       step.Spec{Kind: Kind, Options: b.options(usual)},
		Kernel:     path,
		ABIs:       []string{image.Multiboot2, image.PVH, image.XenPV, image.XenPVH},
		Misspelt:   json.RawMessage(`{"memry":64}`),
		Nearest:    "memory",
		Changed:    b.options(usual + `,"size":"64MiB"`),
		NeverReady: b.options(`,"args":"stay","expect":"never printed"`),
		ConsoleHas: "hello from a unikernel",
		Ends:       b.options(`,"expect":"hello from"`),
		Secrets:    []string{b.lab.Password},
		Resources:  func(*testing.T, step.Site) []string { return b.lab.Resources() },
	})
}
