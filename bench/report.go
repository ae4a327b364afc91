package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"

	"go.temporal.io/sdk/temporal"
)

// unit is a figure's: durations are kept in seconds.
type unit string

const (
	seconds   unit = "s"
	perSecond unit = "/s"
	mebibytes unit = "MiB"
	count     unit = ""
)

// comparison is a row's samples, ours and the peer's in turn.
type comparison struct{ ours, peer []float64 }

func (c *comparison) add(ours, peer float64) {
	c.ours, c.peer = append(c.ours, ours), append(c.peer, peer)
}

// report is all that is printed.
type report struct {
	Conditions circumstances `json:"conditions"`
	Figures    []figure      `json:"figures"`
}

// figure is a row of medians. Ratio is that of the ratios of each sample of ours
// to the peer's next to it, which a machine that slows down changes less than
// it does Ours and Peer; Low and High bound the middle half of them.
type figure struct {
	Name    string  `json:"name"`
	Unit    unit    `json:"unit"`
	Ours    float64 `json:"ours"`
	Peer    float64 `json:"peer"`
	Ratio   float64 `json:"ratio"`
	Low     float64 `json:"low"`
	High    float64 `json:"high"`
	Samples int     `json:"samples"`
}

func (r *report) add(name string, u unit, c comparison) {
	var ratios []float64
	for i := range c.ours {
		ratios = append(ratios, c.ours[i]/c.peer[i])
	}
	f := figure{Name: name, Unit: u, Ours: quantile(c.ours, 0.5), Peer: quantile(c.peer, 0.5), Samples: len(ratios),
		Ratio: quantile(ratios, 0.5), Low: quantile(ratios, 0.25), High: quantile(ratios, 0.75)}
	r.Figures = append(r.Figures, f)
}

// quantile interpolates between the samples next to it.
func quantile(samples []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(samples))
	at := q * float64(len(s)-1)
	low, part := math.Modf(at)
	i := int(low)
	if part == 0 {
		return s[i]
	}
	return s[i]*(1-part) + s[i+1]*part
}

func (r *report) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func (r *report) writeTable(w io.Writer) error {
	if _, err := fmt.Fprintf(w, "%s\n\n", r.Conditions); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { _, _ = fmt.Fprintln(t, strings.Join(cells, "\t")) } // Flush tells
	row("figure: ours / peer", "ours", "peer", "ratio", "(middle half)", "samples")
	for _, f := range r.Figures {
		row(f.Name, f.Unit.format(f.Ours), f.Unit.format(f.Peer), fmt.Sprintf("%.2f", f.Ratio),
			fmt.Sprintf("(%.2f to %.2f)", f.Low, f.High), fmt.Sprint(f.Samples))
	}
	return t.Flush()
}

func (u unit) format(v float64) string {
	if u == seconds {
		return fmt.Sprintf("%.1f ms", 1000*v)
	}
	if u == mebibytes {
		return fmt.Sprintf("%.1f MiB", v)
	}
	if u == count {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f%s", v, u)
}

// circumstances are what the figures depend on.
type circumstances struct {
	CPUs   int    `json:"cpus"`
	CPU    string `json:"cpu,omitempty"`
	Load   string `json:"load,omitempty"`
	Go     string `json:"go"`
	SDK    string `json:"temporalSDK"`
	Server string `json:"temporalServer,omitempty"`
	QEMU   string `json:"qemu,omitempty"`
}

// conditions says what is known before anything is measured. What this system
// does not tell stays empty.
func conditions(ctx context.Context) circumstances {
	c := circumstances{CPUs: runtime.NumCPU(), Go: runtime.Version(), SDK: temporal.SDKVersion}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		_, rest, _ := strings.Cut(string(b), "model name")
		name, _, _ := strings.Cut(rest, "\n")
		c.CPU = strings.TrimLeft(name, "\t :")
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		c.Load, _, _ = strings.Cut(string(b), " ")
	}
	if b, err := exec.CommandContext(ctx, qemuProgram, "--version").Output(); err == nil {
		_, rest, _ := strings.Cut(string(b), "version ")
		if words := strings.Fields(rest); len(words) > 0 {
			c.QEMU = words[0]
		}
	}
	return c
}

func (c circumstances) String() string {
	parts := []string{fmt.Sprintf("%d CPUs", c.CPUs)}
	add := func(what, value string) {
		if value != "" {
			parts = append(parts, strings.TrimSpace(what+" "+value))
		}
	}
	add("", c.CPU)
	add("load", c.Load)
	add("", c.Go)
	add("Temporal SDK", c.SDK)
	add("server", c.Server)
	add("QEMU", c.QEMU)
	return strings.Join(parts, ", ")
}
