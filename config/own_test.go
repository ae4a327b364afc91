package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

// State is used only in a folder that nobody else can write to.
func TestStateFolderOfOthers(t *testing.T) {
	alone(t)
	folder := t.TempDir()
	t.Setenv("MORGANA_STATE", folder)
	for _, test := range []struct {
		mode  os.FileMode
		owner int
		want  string
	}{
		{0o700, os.Geteuid(), ""},
		{0o755, os.Geteuid(), ""},
		{0o777 | os.ModeSticky, os.Geteuid(), "use state folder " + folder + ": other users may write to it"},
		{0o770, os.Geteuid(), "other users may write to it"},
		{0o700, 12345, "it belongs to user 12345, not to user "},
	} {
		if test.owner != os.Geteuid() && os.Geteuid() != 0 {
			continue // only root can give a folder away
		}
		if err := os.Chmod(folder, test.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(folder, test.owner, -1); err != nil {
			t.Fatal(err)
		}
		_, err := LoadSettings(nil)
		switch {
		case test.want == "" && err != nil, test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("mode %v, owner %d: got %v, want %q", test.mode, test.owner, err, test.want)
		case err != nil && !step.KindOf(err).UserError():
			t.Errorf("mode %v, owner %d: %v is no user's error", test.mode, test.owner, err)
		}
	}
}

func TestStateFolderIsAFile(t *testing.T) {
	alone(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("MORGANA_STATE", file)
	_, err := LoadSettings(nil)
	if want := "use state folder " + file + ": it is not a folder"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
