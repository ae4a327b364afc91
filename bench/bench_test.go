// Package bench measures what Morgana costs beside the least that could do the
// same: make bench. Ours and its peer take turns, so that a machine that slows down
// slows both: their ratio, "x-peer", changes less than either. -count says how many
// samples there are, -benchtime is 1x, and benchstat gives medians. Nothing is
// asserted about time.
package bench

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/need"
)

const (
	host     = "bench"
	greeting = "hello from a unikernel"
)

// samples are those of one figure, ours and the peer's in turn.
type samples struct {
	name, unit string
	ours, peer []float64
}

// figures are those of a benchmark.
type figures []*samples

// add takes a sample of ours and of its peer, in seconds or in another unit.
func (f *figures) add(name string, ours, peer float64, unit ...string) {
	i := slices.IndexFunc(*f, func(s *samples) bool { return s.name == name })
	if i < 0 {
		i = len(*f)
		*f = append(*f, &samples{name: name, unit: append(unit, "sec/op")[0]})
	}
	s := (*f)[i]
	s.ours, s.peer = append(s.ours, ours), append(s.peer, peer)
}

// measure does as many rounds as -count says and then reports each sample as a run
// of a benchmark: -count does not repeat a benchmark that has others within.
func measure(b *testing.B, round func(f *figures)) {
	count, err := strconv.Atoi(flag.Lookup("test.count").Value.String())
	if err != nil {
		b.Fatal(err)
	}
	var all figures
	for range count {
		round(&all)
	}
	for _, s := range all {
		next := 0
		b.Run(s.name, func(b *testing.B) {
			ours, peer := s.ours[next%count], s.peer[next%count]
			next++
			b.ReportMetric(0, "ns/op") // which is then not printed
			b.ReportMetric(ours, s.unit)
			b.ReportMetric(peer, "peer-"+s.unit)
			b.ReportMetric(ours/peer, "x-peer")
		})
	}
}

// timed gives the seconds that do takes, which must succeed.
func timed(b *testing.B, do func() error) float64 {
	b.Helper()
	began := time.Now()
	if err := do(); err != nil {
		b.Fatal(err)
	}
	return time.Since(began).Seconds()
}

// hello builds examples/hello in a copy and gives the kernel's path.
func hello(b *testing.B) string {
	b.Helper()
	need.Tools(b, "make", "gcc")
	folder := filepath.Join(b.TempDir(), "hello")
	if err := os.CopyFS(folder, os.DirFS("../examples/hello")); err != nil {
		b.Fatal(err)
	}
	if out, err := exec.Command("make", "-s", "-B", "-C", folder, "hello").CombinedOutput(); err != nil {
		b.Fatalf("make hello: %v\n%s", err, out)
	}
	return filepath.Join(folder, "hello")
}

// binary is the path of one of Morgana's own programs.
func binary(name string) string { return filepath.Join(os.Getenv("MORGANA_BIN"), name) }

// daemon starts one of them, until the benchmark's end, and gives its log.
func daemon(b *testing.B, env []string, name string, args ...string) (log string) {
	b.Helper()
	need.Tools(b, binary(name))
	out, err := os.Create(filepath.Join(b.TempDir(), "log"))
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(binary(name), args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, out, out
	if err := errors.Join(cmd.Start(), out.Close()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	return out.Name()
}

// server starts a Temporal server with a new database and gives its address.
func server(b *testing.B) (address string) {
	b.Helper()
	folder := b.TempDir()
	ready := filepath.Join(folder, "ready.json")
	log := daemon(b, os.Environ(), "morgana-devserver", "--port", "0", "--ui-port", "0",
		"--db", filepath.Join(folder, "temporal.db"), "--ready-file", ready)
	var is struct{ Address string }
	for range 600 {
		if text, err := os.ReadFile(ready); err == nil && json.Unmarshal(text, &is) == nil {
			return is.Address
		}
		time.Sleep(100 * time.Millisecond)
	}
	said, _ := os.ReadFile(log)
	b.Fatalf("the server does not get ready:\n%s", said)
	return ""
}
