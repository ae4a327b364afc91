package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// peers names what the store's benchmarks compare with, by the unit of the
// metric that has the ratio.
var peers = []struct{ benchmark, unit, name string }{
	{"BenchmarkPut", "x-copy", "put 64 MiB into the store / hash, copy and sync a file"},
	{"BenchmarkPut", "x-copy-nosync", "put 64 MiB into the store / hash and copy a file"},
	{"BenchmarkPutAgain", "x-sha256", "put 64 MiB that the store has / hash them"},
}

// measureStore runs the store's own benchmarks a few times and reads their
// ratios.
func measureStore(ctx context.Context, r *report) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkPut(Again)?$", "-benchtime", "3x", "-count", "5", "./store")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("benchmarks of the store: %w\n%s", err, out)
	}
	rows := make([]comparison, len(peers))
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		if len(words) < 2 || !strings.HasPrefix(words[0], "Benchmark") {
			continue
		}
		name, _, _ := strings.Cut(words[0], "-") // "-2" is the number of processors
		metrics := map[string]float64{}
		for i := 2; i+1 < len(words); i += 2 {
			if metrics[words[i+1]], err = strconv.ParseFloat(words[i], 64); err != nil {
				return fmt.Errorf("read %q: %w", line, err)
			}
		}
		for i, p := range peers {
			if ratio := metrics[p.unit]; name == p.benchmark && ratio > 0 {
				ours := metrics["ns/op"] / 1e9
				rows[i].add(ours, ours/ratio)
			}
		}
	}
	for i, p := range peers {
		if len(rows[i].ours) == 0 {
			return errors.New(p.benchmark + " told no " + p.unit)
		}
		r.add(p.name, seconds, rows[i])
	}
	return nil
}
