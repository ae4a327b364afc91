package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"sync"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/step"
)

// kindNeeds is a line of --doctor, which morgana doctor reads: the needs of one kind.
type kindNeeds struct {
	// Role is "toolchain" or "target"; empty for the kind "source".
	Role string `json:"role"`
	Kind string `json:"kind"`
	// Needs is empty, not null, for a kind that needs nothing or is no step.Needer.
	Needs []step.Need `json:"needs"`
}

// doctor writes the needs of the kinds in the settings, one JSON object a line, in the
// order of kinds. It uses neither Temporal nor the store, and changes nothing.
func doctor(ctx context.Context, w io.Writer, settings config.Settings) error {
	site := step.Site{Host: settings.Host, State: settings.State, Log: slog.New(slog.DiscardHandler)}
	served, err := chosen(kinds(site, settings.Builds), settings.Kinds)
	if err != nil {
		return err
	}
	return writeNeeds(ctx, w, served)
}

func writeNeeds(ctx context.Context, w io.Writer, served []kind) error {
	all := make([]kindNeeds, len(served))
	var asked sync.WaitGroup
	for i, k := range served {
		all[i] = kindNeeds{Kind: k.name, Needs: []step.Need{}}
		switch k.does.(type) {
		case step.Toolchain:
			all[i].Role = "toolchain"
		case step.Target:
			all[i].Role = "target"
		}
		if needer, ok := k.does.(step.Needer); ok {
			asked.Go(func() { // some run a probe, which takes seconds
				if needs := needer.Needs(ctx); needs != nil {
					all[i].Needs = needs
				}
			})
		}
	}
	asked.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	lines := json.NewEncoder(w)
	for _, n := range all {
		if err := lines.Encode(n); err != nil {
			return err
		}
	}
	return nil
}
