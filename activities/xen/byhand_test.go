package xen

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

// What to do by hand is done with the configuration that the worker has.
func TestHintNamesTheConfiguration(t *testing.T) {
	config := filepath.Join(t.TempDir(), "ssh_config")
	t.Setenv("MORGANA_SSH_CONFIG", config)
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	spec := step.Spec{Tags: step.Tags{App: "web", Target: "lab", Life: "0a1b2c3d", Generation: 1}, Kind: Kind,
		Options: json.RawMessage(`{"host":"ssh://root@127.0.0.1:1"}`)}
	check := func() *step.Error {
		t.Helper()
		_, err := New(step.Site{Host: "here", State: t.TempDir()}).Check(t.Context(), spec)
		var e *step.Error
		if !errors.As(err, &e) || e.Kind != step.NotFound || e.Field != "host" {
			t.Fatalf("%+v, want NotFound of host", err)
		}
		return e
	}
	if e := check(); !strings.Contains(e.Error(), "MORGANA_SSH_CONFIG names a file that is not there: "+config) {
		t.Errorf("no such file: %v", e)
	}
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want := "ssh -F " + config + " -p 1 root@127.0.0.1 xl list"
	if e := check(); !strings.Contains(e.Hint, want) {
		t.Errorf("nobody there: hint %q, want %q", e.Hint, want)
	}
}
