package main

import (
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/config"
)

// A kind that no worker serves is told with its line, a misspelt one soon and with ours.
func TestUnservedKind(t *testing.T) {
	serveWorkflows(t, withServer(t))
	inFolder(t, map[string]string{config.Filename: "app: two\ntoolchain:\n  kind: comand\ntargets:\n  low:\n    kind: qmeu\n  own: {kind: acme}\n  xen: {}\n"})
	began := time.Now()
	status, _, errOut := morgana(t, "deploy", "-t", "low")
	if took := time.Since(began); status != 2 || took > time.Minute || errOut != "error: morgana.yaml:6: targets.low.kind: no worker polls task queue \"qmeu\"\n"+
		"hint: did you mean \"qemu\"? If not, start a worker that serves qmeu\n" {
		t.Errorf("exit %d after %v, %s", status, took, errOut)
	}

	p, err := config.Load("", nil)
	if err != nil {
		t.Fatal(err)
	}
	const hint = "start a worker that serves it, or correct the kind or taskQueue in morgana.yaml"
	for _, c := range []struct {
		target           int
		queue, say, hint string
		wait             time.Duration
	}{
		{0, "comand", `morgana.yaml:3: toolchain.kind: no worker polls task queue "comand"`, `did you mean "command"? If not, start a worker that serves comand`, patience / 3},
		{1, "acme", `morgana.yaml:7: targets.own.kind: no worker polls task queue "acme"`, hint, patience},
		{1, "sign", `find a worker: no worker polls task queue "sign"`, hint, patience},
		{2, "xen", `morgana.yaml:8: targets.xen.kind: no worker polls task queue "xen"`, hint, patience},
	} {
		e, wait := unserved(p, p.Targets[c.target], c.queue)
		if e.Error() != c.say || e.Hint != c.hint || wait != c.wait {
			t.Errorf("%s: waits %v, then %v (%s)", c.queue, wait, e, e.Hint)
		}
	}
}
