package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/step"
)

type needy struct {
	step.Target
	needs []step.Need
}

func (n needy) Needs(context.Context) []step.Need { return n.needs }

func TestWriteNeeds(t *testing.T) {
	var out bytes.Buffer
	err := writeNeeds(t.Context(), &out, []kind{
		{name: "make", does: struct{ step.Toolchain }{}},
		{name: "moon", does: needy{needs: []step.Need{{For: "fly", What: "rocket", Fix: "apt-get install rocket"}}}},
		{name: "bare", does: needy{}},
	})
	const want = `{"role":"toolchain","kind":"make","needs":[]}
{"role":"target","kind":"moon","needs":[{"for":"fly","what":"rocket","fix":"apt-get install rocket"}]}
{"role":"target","kind":"bare","needs":[]}
`
	if err != nil || out.String() != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, out.String(), want)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	out.Reset()
	if err := writeNeeds(gone, &out, nil); err == nil || out.Len() > 0 {
		t.Errorf("cancelled: %v, wrote %s", err, out.String())
	}
}

// TestDoctor asks the real kinds, which have no store.
func TestDoctor(t *testing.T) {
	var out bytes.Buffer
	state := t.TempDir()
	if err := doctor(t.Context(), &out, config.Settings{Host: "here", State: state, Builds: 1}); err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for line := range strings.Lines(out.String()) {
		var n kindNeeds
		if err := json.Unmarshal([]byte(line), &n); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		kinds = append(kinds, n.Role+" "+n.Kind)
		for _, need := range n.Needs {
			if need.For == "" || need.What == "" || need.Found == "" && need.Fix == "" && need.Why == "" {
				t.Errorf("%s: %+v tells too little", n.Kind, need)
			}
		}
	}
	all := strings.Join(kinds, ", ")
	for _, want := range []string{"toolchain command", "toolchain prebuilt", "target qemu"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s in %s", want, all)
		}
	}
	if err := doctor(t.Context(), &out, config.Settings{Host: "here", State: state, Builds: 1, Kinds: []string{"quemu"}}); err == nil {
		t.Error("a kind that does not exist is taken")
	}
}
