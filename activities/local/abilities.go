package local

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// Observe looks at the machine's supervisor, and after its end at the status file.
func (t *Target) Observe(_ context.Context, m step.Machine) (step.Health, error) {
	return t.machines.Observe(m, func(m machine.Machine) (step.Health, error) {
		end, err := readOutcome(m)
		if end == nil || err != nil {
			return step.Health{}, err
		}
		info, err := os.Stat(m.File(statusFile))
		if err != nil {
			return step.Health{}, err
		}
		h := step.Health{How: end.String(), Success: *end == outcome{}, Since: info.ModTime()}
		if end.Error == "" && end.Signal == 0 {
			h.How = fmt.Sprintf("exit status %d", end.Status)
		}
		return h, nil
	})
}

// List lists folders, taps, and processes that a program left when it ended.
func (t *Target) List(ctx context.Context, spec step.Spec) ([]step.Resource, error) {
	wanted := machine.Wanted(spec.Tags)
	all, err := t.machines.List(t.site.Host, wanted, true)
	if err != nil {
		return nil, step.During("list local machines", err)
	}
	left, err := t.orphans(ctx, wanted)
	if err != nil {
		return nil, step.During("list local processes", err)
	}
	for _, o := range left {
		all = append(all, step.Resource{Tags: o.m.Tags, Kind: "process", ID: strconv.Itoa(o.pid), Where: t.site.Host})
	}
	return all, nil
}

// Forecast lists the actions of Register and Boot.
func (t *Target) Forecast(_ context.Context, spec step.Spec) (_ []step.Action, err error) {
	defer step.SetOp("forecast local target", &err)
	s, err := readOptions(spec.Options)
	if err != nil {
		return nil, err
	}
	all, err := t.machines.Forecast(spec.Tags)
	if err != nil {
		return nil, err
	}
	for _, b := range s.Blocks {
		if b.Path != "" {
			all = append(all, step.Action{Call: "flock " + b.Path, Why: "block device " + b.Name + ", for this machine alone"})
		} else {
			size := fmt.Sprintf("%d MiB", b.Size)
			all = append(all, step.Action{Call: "truncate -s " + size + " " + blockPrefix + b.Name, Why: "block device " + b.Name, Cost: "up to " + size + " of disk"})
		}
	}
	for _, tap := range s.taps(spec.Tags) {
		acts, err := tap.Forecast()
		if err != nil {
			return nil, err
		}
		all = append(all, acts...)
	}
	starts := step.Action{Call: strings.Join(append([]string{"./" + kernelFile}, s.Args...), " "), Why: "run the program until it is ready, for at most " + s.Timeout}
	if abi, err := image.Supports(Kind, spec.Origin.ABIs); err == nil && (abi == image.Solo5SPT || abi == image.Solo5HVT) {
		tender := abi
		if s.Tender != "" {
			tender = s.Tender
		}
		starts.Call = tender + " " + starts.Call
		if abi == image.Solo5HVT {
			starts.Permission = machine.KVM
		}
	}
	return append(all, starts), nil
}

// Addresses returns that a Solo5 guest has none.
func (*Target) Addresses(spec step.Spec) (_ []step.Address, known bool) {
	abi, err := image.Supports(Kind, spec.Origin.ABIs)
	return nil, err == nil && len(spec.Origin.ABIs) > 0 && abi != image.LinuxExecutable
}

// OnHost reports whether the machine's ports are this host's: a program's are, a Solo5
// guest's are not.
func (t *Target) OnHost(m step.Machine) bool {
	at, err := t.machines.Of(m.Of().Tags)
	if err != nil {
		return false
	}
	rec, err := at.Record()
	if err != nil {
		return false
	}
	s, err := readRecord(rec.Options)
	return err == nil && s.ABI == image.LinuxExecutable
}
