package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Two hosts share a server and a store. A tree is built and removed on the host
// that configured it, also when configure fails. A machine is ended on the host
// that runs it.
func TestTwoHosts(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	other := filepath.Join(l.folder, "other")
	first := l.env
	l.env = append(slices.Clone(first), "MORGANA_HOST=other", "MORGANA_STATE="+other, "MORGANA_STORE=file://"+l.state("store"))
	second := l.start("morgana-worker", "--listen", "127.0.0.1:0")
	t.Cleanup(func() { l.kill(second) })
	l.env = first

	entries := func(folder string) (names []string) {
		for _, kind := range []string{"command", "qemu"} {
			all, _ := os.ReadDir(filepath.Join(folder, kind)) // a host that had nothing to do has none
			for _, e := range all {
				if e.Name() != "cache" && e.Name() != ".facts.json" {
					names = append(names, kind+"/"+e.Name())
				}
			}
		}
		return names
	}
	const tries = 6 // all of them meet the same host once in 32 runs
	for i := range tries {
		folder := l.hello()
		l.write(filepath.Join(folder, "morgana.yaml"), fmt.Sprintf("app: broken%d\ntoolchain: {kind: command, configure: [[\"false\"]], build: [[make]], kernel: hello}\ntargets: {dev: {kind: qemu}}\n", i))
		if r := l.morgana(folder, "deploy"); r.code != 1 {
			t.Fatalf("exit status %d\n%s%s", r.code, r.out, r.errOut)
		}
		if left := append(entries(l.state()), entries(other)...); len(left) > 0 {
			t.Fatalf("deploy %d left %q", i, left)
		}
	}
	ran := map[string]int{}
	for i := range tries {
		folder := l.hello()
		l.write(filepath.Join(folder, "morgana.yaml"), fmt.Sprintf("app: good%d\ntoolchain: {kind: command, build: [[make]], kernel: hello}\ntargets: {dev: {kind: qemu, args: stay, expect: staying, accel: tcg}}\n", i))
		l.deployed(folder)
		here, there := entries(l.state()), entries(other)
		if len(here)+len(there) != 1 {
			t.Errorf("deploy %d: %q and %q, want one machine and no tree", i, here, there)
		}
		ran["here"] += len(here)
		ran["there"] += len(there)
		if r := l.morgana(folder, "destroy"); r.code != 0 {
			t.Fatalf("exit status %d\n%s%s", r.code, r.out, r.errOut)
		}
		if left := append(entries(l.state()), entries(other)...); len(left) > 0 {
			t.Errorf("destroy %d left %q", i, left)
		}
	}
	t.Logf("machines ran on: %v", ran)
}
