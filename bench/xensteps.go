package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/morgana-deploy/morgana/activities/xen"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/store"
)

// xenStages are what the xen target does for a deploy, and its end. Configure and
// build are the toolchain's.
var xenStages = []string{"check", "package", "register", "boot", "destroy"}

// xenSteps deploys by the xen target's own steps.
type xenSteps struct {
	target  *xen.Target
	store   step.Store
	options []byte
	n       int
}

func newXenSteps(ctx context.Context, dir, address string) (*xenSteps, error) {
	s, err := store.Open(ctx, filepath.Join(dir, "store"))
	if err != nil {
		return nil, err
	}
	site := step.Site{Host: host, State: filepath.Join(dir, "state"), Store: s, Log: slog.New(slog.DiscardHandler)}
	options := fmt.Appendf(nil, `{"host":%q,"memory":%d,"args":"stay","expect":%q}`, address, xenMemory, greeting)
	return &xenSteps{target: xen.New(site), store: s, options: options}, nil
}

// each does these stages of a domain that nobody has had, each within around.
// What was made stays if the last is not destroy.
func (x *xenSteps) each(ctx context.Context, kernel []byte, stages []string, around func(stage string, do func() error) error) error {
	a, err := x.store.Put(ctx, bytes.NewReader(kernel))
	if err != nil {
		return err
	}
	x.n++
	spec := step.Spec{Kind: xen.Kind, Options: x.options,
		Tags: step.Tags{App: fmt.Sprintf("steps%d", x.n), Target: "bench", Life: "00000000", Generation: 1}}
	var img step.Image
	var registration step.Registration
	do := map[string]func() error{
		"check": func() (err error) { spec, err = x.target.Check(ctx, spec); return err },
		"package": func() (err error) {
			img, err = x.target.Package(ctx, step.Kernel{Spec: spec, File: a, ABIs: []string{image.PVH, image.XenPV}})
			return err
		},
		"register": func() (err error) { registration, err = x.target.Register(ctx, img); return err },
		"boot":     func() (err error) { _, err = x.target.Boot(ctx, registration); return err },
		"destroy":  func() (err error) { _, err = x.target.Destroy(ctx, step.Removal{Spec: spec}); return err },
	}
	for _, s := range stages {
		if err := around(s, do[s]); err != nil {
			return fmt.Errorf("xen target: %w", err)
		}
	}
	return nil
}
