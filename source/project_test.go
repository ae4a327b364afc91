package source

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The project file in use is no part of the source, by whichever path it was named. Other
// files of its name are.
func TestProjectFileIsNoSource(t *testing.T) {
	files := map[string]string{"main.c": "int main;", "morgana.yaml": "app: a", "lib/morgana.yaml": "app: b",
		"prod.yaml": "-> deploy/prod.yaml", "deploy/prod.yaml": "app: c"}
	folder := tree(t, files)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(folder, link); err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(tree(t, map[string]string{"morgana.yaml": "app: d"}), "morgana.yaml")
	for _, c := range []struct{ folder, project, left string }{
		{folder, filepath.Join(folder, "morgana.yaml"), "morgana.yaml"},
		{link, filepath.Join(folder, "morgana.yaml"), "morgana.yaml"},
		{folder, filepath.Join(link, "morgana.yaml"), "morgana.yaml"},
		{folder, filepath.Join(folder, "lib", "morgana.yaml"), "lib/morgana.yaml"},
		{folder, filepath.Join(folder, "prod.yaml"), "deploy/prod.yaml prod.yaml"},
		{filepath.Join(folder, "lib"), filepath.Join(folder, "morgana.yaml"), ""},
		{folder, elsewhere, ""},
	} {
		all, got := packed(t, c.folder, ""), packed(t, c.folder, c.project)
		left := slices.DeleteFunc(all, func(name string) bool { return slices.Contains(got, name) })
		if s := strings.Join(left, " "); s != c.left {
			t.Errorf("%s leaves out %q of %s, want %q", c.project, s, c.folder, c.left)
		}
	}
	// A toolchain may need no source.
	alone := tree(t, map[string]string{"morgana.yaml": "app: a"})
	if got := packed(t, alone, filepath.Join(alone, "morgana.yaml")); len(got) != 0 {
		t.Errorf("packed %q", got)
	}
	// A link out of the folder is refused, unless it is the project file.
	if err := os.Symlink(elsewhere, filepath.Join(folder, "out.yaml")); err != nil {
		t.Fatal(err)
	}
	if got := packed(t, folder, filepath.Join(folder, "out.yaml")); slices.Contains(got, "out.yaml") || len(got) != 5 {
		t.Errorf("packed %q", got)
	}
}
