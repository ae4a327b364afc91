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

// Others could put a folder of theirs in the place of one that is below a folder of all.
func TestStateFolderBelowAFolderOfAll(t *testing.T) {
	alone(t)
	all := filepath.Join(t.TempDir(), "all")
	write(t, filepath.Join(all, "mine", "state", "x"), "")
	if err := os.Symlink(filepath.Join(all, "mine"), filepath.Join(filepath.Dir(all), "link")); err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[os.FileMode]string{0o755: "", 0o775: "", 0o777 | os.ModeSticky: "", 0o777: "other users may write to " + all} {
		if err := os.Chmod(all, mode); err != nil {
			t.Fatal(err)
		}
		for _, state := range []string{"all/mine/state", "all/mine/missing", "all/missing", "link/state"} {
			state = filepath.Join(filepath.Dir(all), state)
			t.Setenv("MORGANA_STATE", state)
			_, err := LoadSettings(nil)
			switch {
			case want == "" && err != nil:
				t.Errorf("mode %v: %s: %v", mode, state, err)
			case want != "":
				wantError(t, err, step.Unauthorized, "use state folder "+state+": "+want, "chmod o-w "+all+", or set MORGANA_STATE to a folder of your own")
			}
		}
	}
}
