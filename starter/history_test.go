package main

import (
	"testing"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/workflows"
)

// FROM is the repository of a source in git, and not the folder of morgana.yaml.
func TestHistorySaysFromWhat(t *testing.T) {
	const commit = "0123456789abcdef0123456789abcdef01234567"
	for want, g := range map[string]workflows.Generation{
		"https://h/r, main, folder a @ 0123456789ab": {Folder: "/home/ann", Project: "h/yaml", Commit: commit, Git: &step.Git{URL: "https://h/r", Ref: "main", Path: "a"}},
		"h/yaml @ 0123456789ab":                      {Folder: "/home/ann", Project: "h/yaml", Commit: commit},
		"/home/ann":                                  {Folder: "/home/ann"},
	} {
		if got := generationCells(g)[2]; got != want {
			t.Errorf("from %q, want %q", got, want)
		}
	}
}
