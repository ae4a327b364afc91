// Package bench compares the cost of Morgana with that of a peer: the least that does
// the same work. Run it by make bench. Morgana and the peer take turns, so a host that
// slows down slows both, and their ratio "x-peer" changes less than either. -count is the
// number of samples, -benchtime is 1x, and benchstat gives medians. No time is asserted.
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

// samples are the samples of one figure, of Morgana and of the peer.
type samples struct {
	name, unit string
	ours, peer []float64
}

// figures are the figures of a benchmark.
type figures []*samples

// add adds one sample of Morgana and one of the peer, in seconds or the given unit.
func (f *figures) add(name string, ours, peer float64, unit ...string) {
	i := slices.IndexFunc(*f, func(s *samples) bool { return s.name == name })
	if i < 0 {
		i = len(*f)
		*f = append(*f, &samples{name: name, unit: append(unit, "sec/op")[0]})
	}
	s := (*f)[i]
	s.ours, s.peer = append(s.ours, ours), append(s.peer, peer)
}

// measure calls round -count times and then reports each sample as a run of a
// sub-benchmark. -count alone does not repeat a benchmark that has sub-benchmarks.
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
			b.ReportMetric(0, "ns/op") // 0 is not printed
			b.ReportMetric(ours, s.unit)
			b.ReportMetric(peer, "peer-"+s.unit)
			b.ReportMetric(ours/peer, "x-peer")
		})
	}
}

// timed returns the seconds that do takes. An error of do fails the benchmark.
func timed(b *testing.B, do func() error) float64 {
	b.Helper()
	began := time.Now()
	if err := do(); err != nil {
		b.Fatal(err)
	}
	return time.Since(began).Seconds()
}

// hello builds a copy of examples/hello and returns the kernel's path.
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

// binary returns the path of one of Morgana's programs.
func binary(name string) string { return filepath.Join(os.Getenv("MORGANA_BIN"), name) }

// daemon runs one of Morgana's programs until the benchmark's end. It returns the path
// of its log.
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

// server starts a Temporal server with a new database and returns its address and process id.
func server(b *testing.B) (address string, pid int) {
	b.Helper()
	folder := b.TempDir()
	ready := filepath.Join(folder, "ready.json")
	log := daemon(b, os.Environ(), "morgana-devserver", "--port", "0", "--ui-port", "0",
		"--db", filepath.Join(folder, "temporal.db"), "--ready-file", ready)
	var is struct {
		Address string
		PID     int
	}
	for range 600 {
		if text, err := os.ReadFile(ready); err == nil && json.Unmarshal(text, &is) == nil {
			return is.Address, is.PID
		}
		time.Sleep(100 * time.Millisecond)
	}
	said, _ := os.ReadFile(log)
	b.Fatalf("the server does not get ready:\n%s", said)
	return "", 0
}
