package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
	"github.com/morgana-deploy/morgana/store"
	"github.com/morgana-deploy/morgana/workflows"
)

// The Python target passes the conformance suite of the Go targets: it keeps the
// laws of docs/steps.md.
func TestPythonTargetConformance(t *testing.T) {
	t.Parallel()
	p := newPythonLab(t)
	p.stopPython()
	kernel := filepath.Join(t.TempDir(), "hello")
	p.write(kernel, string(p.kernel()))
	artifacts, err := store.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := p.client()
	// Each test has a site of its own, and so a worker of its own.
	state := ""
	machines := func(site step.Site) string { return filepath.Join(site.State, "pyqemu") }
	steptest.Run(t, steptest.Case{
		New:        func(site step.Site) step.Target { return remote{c, site, artifacts} },
		Spec:       step.Spec{Kind: "pyqemu", Options: json.RawMessage(`{"args":"stay","expect":"hello from a unikernel"}`)},
		Kernel:     kernel,
		ABIs:       []string{"multiboot2", "pvh", "xen-pv", "xen-pvh"},
		Misspelt:   json.RawMessage(`{"memroy":64}`),
		Nearest:    "memory",
		Changed:    json.RawMessage(`{"args":"stay","expect":"hello from a unikernel","memory":72}`),
		NeverReady: json.RawMessage(`{"args":"stay","expect":"never said"}`),
		ConsoleHas: "command line: [stay]",
		Resources: func(t *testing.T, site step.Site) (all []string) {
			if site.State != state {
				if state != "" {
					p.stopPython()
				}
				state = site.State
				p.startPython("PYQEMU_STATE="+machines(site), "PYQEMU_HOST="+site.Host)
			}
			entries, _ := os.ReadDir(machines(site)) // not there: none
			for _, e := range entries {
				all = append(all, "folder "+e.Name())
			}
			procs, _ := filepath.Glob("/proc/[0-9]*/cwd")
			for _, link := range procs {
				if cwd, _ := os.Readlink(link); strings.HasPrefix(cwd, machines(site)) {
					all = append(all, "process "+link+" in "+cwd)
				}
			}
			return all
		},
	})
	p.stopPython()
}

// remote is a target in another language. Each method runs an activity on the
// task queue that a workflow would use.
type remote struct {
	c     client.Client
	site  step.Site
	store step.Store // in the format that Python reads
}

var calls atomic.Int64

func call[Out any](ctx context.Context, r remote, name, host string, in any) (out Out, err error) {
	s := step.Step{Activity: "pyqemu." + name, TaskQueue: "pyqemu", OnHost: true}
	h, err := r.c.ExecuteActivity(ctx, client.StartActivityOptions{
		ID: fmt.Sprintf("%s-%d", name, calls.Add(1)), TaskQueue: s.Queue(host),
		StartToCloseTimeout: time.Minute, HeartbeatTimeout: 10 * time.Second,
		RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 1},
	}, s.Activity, in)
	if err != nil {
		return out, errors.Join(ctx.Err(), err)
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		_ = h.Cancel(late, client.CancelActivityOptions{Reason: "as the workflow would"}) // if it fails, the step goes on for too long
	})
	defer stop()
	var canceled *temporal.CanceledError
	switch err := h.Get(late, &out); {
	case err == nil:
		return out, nil
	case errors.As(err, &canceled):
		return out, errors.Join(ctx.Err(), err)
	default:
		return out, workflows.Failure(err)
	}
}

func (r remote) Check(ctx context.Context, spec step.Spec) (step.Spec, error) {
	return call[step.Spec](ctx, r, "Check", "", spec)
}

// moved copies an artifact of the suite's store to the store that Python reads.
func (r remote) moved(ctx context.Context, a step.Artifact) (_ step.Artifact, err error) {
	if in, err := r.store.Open(ctx, a); err == nil {
		return a, in.Close()
	}
	temp, err := os.MkdirTemp("", "remote")
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	path := filepath.Join(temp, "artifact")
	if err := r.site.Store.Fetch(ctx, a, path); err != nil {
		return a, err
	}
	f, err := os.Open(path)
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return r.store.Put(ctx, f)
}

func (r remote) Package(ctx context.Context, k step.Kernel) (img step.Image, err error) {
	if k.File, err = r.moved(ctx, k.File); err != nil {
		return img, err
	}
	return call[step.Image](ctx, r, "Package", "", k)
}

func (r remote) Register(ctx context.Context, img step.Image) (reg step.Registration, err error) {
	img.Files = slices.Clone(img.Files)
	for i := range img.Files {
		if img.Files[i].Artifact, err = r.moved(ctx, img.Files[i].Artifact); err != nil {
			return reg, err
		}
	}
	return call[step.Registration](ctx, r, "Register", r.site.Host, img)
}

func (r remote) Boot(ctx context.Context, reg step.Registration) (step.Machine, error) {
	return call[step.Machine](ctx, r, "Boot", r.site.Host, reg)
}

func (r remote) Console(ctx context.Context, from step.ConsoleFrom) (step.ConsoleText, error) {
	return call[step.ConsoleText](ctx, r, "Console", r.site.Host, from)
}

func (r remote) Destroy(ctx context.Context, what step.Removal) (step.Destroyed, error) {
	return call[step.Destroyed](ctx, r, "Destroy", r.site.Host, what)
}
