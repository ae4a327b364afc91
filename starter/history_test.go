package main

import (
	"strings"
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

// A request that is refused has its error alone: no deploy has failed.
func TestRefusedIsNoFailedDeploy(t *testing.T) {
	var out, drawn lines
	b := &board{w: &drawn, targets: map[string]*boardTarget{}}
	for _, w := range []interface{ event(event) }{&plain{cli: &cli{out: &out}, waits: map[string]bool{}}, b} {
		w.event(event{Event: "failed", App: "web", Target: "loc", Error: &failure{Message: "web/loc has no generation 7"}})
	}
	if out.text.String() != "" || strings.Contains(drawn.text.String(), "web/loc") {
		t.Errorf("shows %q and %q", out.text.String(), drawn.text.String())
	}
}
