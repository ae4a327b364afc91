package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var link = regexp.MustCompile(`\]\(([^)# ]+)`)

// TestLinks: each page that a page links to is there, and each page of docs can be
// reached from the README.
func TestLinks(t *testing.T) {
	const root = ".."
	linked := map[string][]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (slices.Contains([]string{"testdata", "bin"}, d.Name()) || path != root && strings.HasPrefix(d.Name(), ".")) {
			return fs.SkipDir
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		linked[path] = nil
		data, err := os.ReadFile(path)
		for _, m := range link.FindAllSubmatch(data, -1) {
			if to := string(m[1]); !strings.Contains(to, ":") {
				linked[path] = append(linked[path], filepath.Join(filepath.Dir(path), to))
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	var visit func(path string)
	visit = func(path string) {
		if !seen[path] {
			seen[path] = true
			for _, to := range linked[path] {
				visit(to)
			}
		}
	}
	visit(filepath.Join(root, "README.md"))
	for path, all := range linked {
		for _, to := range all {
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s links to %s: %v", path, to, err)
			}
		}
		if strings.HasPrefix(path, filepath.Join(root, "docs")) && !strings.Contains(path, "/adr/") && !seen[path] {
			t.Errorf("no page leads from the README to %s", path)
		}
	}
}
