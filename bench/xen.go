package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/morgana-deploy/morgana/xenlab"
)

const (
	xenRuns = 3 // a deploy to a Xen that is emulated takes its time
	// xenMemory is a domain's, in MiB.
	xenMemory = 32
)

// measureXen times deploys of examples/hello to a lab's Xen until the kernel has
// greeted, by the xen target and by the product, and by hand: xl over one ssh
// connection that is up, as is the target's. A lab emulates, so its times say
// little; they are there to divide by.
func measureXen(ctx context.Context, dir string, r *report) (err error) {
	if err := xenlab.Missing(ctx); err != nil {
		say("xen: %v: left out", err)
		return nil
	}
	dir = filepath.Join(dir, "xen") // part boot has its own
	kernel, err := buildHello(ctx, dir)
	if err != nil {
		return err
	}
	lab, err := xenlab.Start(ctx, filepath.Join(dir, "lab"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	if err := os.Setenv("MORGANA_SSH_CONFIG", lab.Config); err != nil { // remote's way to be told
		return err
	}
	hand, err := connect(ctx, lab, filepath.Join(dir, "ssh.sock"))
	if err != nil {
		return err
	}
	defer hand.close(ctx)
	steps, err := newXenSteps(ctx, dir, lab.Host)
	if err != nil {
		return err
	}
	product, err := startXenProduct(ctx, filepath.Join(dir, "product"), lab)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, product.stop()) }()
	x := &xenRounds{kernel: kernel, hand: hand, steps: steps, product: product, stages: map[string]*comparison{}}
	for _, s := range xenStages {
		x.stages[s] = &comparison{}
	}
	if err := x.keep(ctx); err != nil {
		return err
	}
	for x.n = range xenRuns + 1 { // the first warms caches
		say("xen: round %d of %d", x.n, xenRuns)
		if err := x.round(ctx); err != nil {
			return err
		}
	}
	x.report(r)
	return x.work(ctx, filepath.Join(dir, "counted"), r)
}

// xenRounds are the samples of all rounds, of a kernel that is new to the host
// and of one that is there.
type xenRounds struct {
	kernel  string // path of examples/hello's
	there   []byte // the kernel that a domain nobody starts keeps on the host
	n, made int
	hand    *byHand
	steps   *xenSteps
	product *xenProduct

	stepsNew, stepsThere, roomGone        comparison
	productNew, productThere, productGone comparison
	stages                                map[string]*comparison // of a new kernel, and an ssh that does nothing
}

// fresh is the kernel with bytes behind it that nobody loads: another digest.
func (x *xenRounds) fresh() ([]byte, error) {
	b, err := os.ReadFile(x.kernel)
	x.made++
	return fmt.Appendf(b, "%016d", x.made), err
}

func (x *xenRounds) keep(ctx context.Context) (err error) {
	if x.there, err = x.fresh(); err != nil {
		return err
	}
	return x.steps.each(ctx, x.there, xenStages[:3], func(_ string, do func() error) error { return do() })
}

func (x *xenRounds) round(ctx context.Context) error {
	fresh, err := x.fresh()
	if err != nil {
		return err
	}
	again, err := x.fresh() // both may not send the same
	if err != nil {
		return err
	}
	for _, is := range []struct {
		new            bool
		steps, product []byte
		stages, whole  *comparison
	}{
		{true, fresh, again, &x.stepsNew, &x.productNew},
		{false, x.there, x.there, &x.stepsThere, &x.productThere},
	} {
		if is.new && x.n == 0 {
			continue
		}
		nothing, err := timed(func() error { return x.hand.run(ctx, "true") })
		if err != nil {
			return err
		}
		took := map[string]float64{}
		if err := x.steps.each(ctx, is.steps, xenStages, func(stage string, do func() error) (err error) {
			took[stage], err = timed(do)
			return err
		}); err != nil {
			return err
		}
		if !is.new { // its copy is not timed
			if err := x.hand.write(ctx, handKernel, is.steps); err != nil {
				return err
			}
		}
		peer, err := timed(func() error { return x.hand.deploy(ctx, is.steps, is.new) })
		if err != nil {
			return fmt.Errorf("xl by hand: %w", err)
		}
		peerGone, err := timed(func() error { return x.hand.destroy(ctx) })
		if err != nil {
			return err
		}
		whole, gone, err := x.product.deployed(ctx, is.product)
		if err != nil {
			return err
		}
		if x.n == 0 {
			continue
		}
		stages := 0.0
		for _, s := range xenStages[:4] {
			stages += took[s]
		}
		is.stages.add(stages, peer)
		is.whole.add(whole, peer)
		x.roomGone.add(took["destroy"], peerGone)
		x.productGone.add(gone, peerGone)
		if is.new {
			for _, s := range xenStages {
				x.stages[s].add(took[s], nothing)
			}
		}
	}
	return nil
}

func (x *xenRounds) report(r *report) {
	r.add("xen target's stages, kernel new to the host / xl by hand", seconds, x.stepsNew)
	r.add("... kernel that is there / xl by hand", seconds, x.stepsThere)
	r.add("... destroy / xl destroy by hand", seconds, x.roomGone)
	r.add("morgana deploy to Xen, kernel new to the host / xl by hand", seconds, x.productNew)
	r.add("... kernel that is there / xl by hand", seconds, x.productThere)
	r.add("morgana destroy / xl destroy by hand", seconds, x.productGone)
	for _, s := range xenStages {
		r.add("xen target: "+s+", kernel new to the host / ssh true", seconds, *x.stages[s])
	}
}
