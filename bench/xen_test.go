package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/activities/xen"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/store"
	"github.com/morgana-deploy/morgana/xenlab"
)

// xenStages are the xen target's stages of a deploy and its destroy.
var xenStages = []string{"check", "package", "register", "boot", "destroy"}

// BenchmarkXen compares deploys of examples/hello to the Xen of a lab, until the kernel's
// greeting, with xl by hand over one ssh connection. It deploys by the steps of the xen
// target and by the commands morgana deploy and destroy, each with a kernel that is new
// to the host and with one that is there. The lab emulates: only the ratios are of use.
func BenchmarkXen(b *testing.B) {
	need.Lab(b, xenlab.Missing(b.Context()))
	folder := b.TempDir()
	lab, err := xenlab.Start(b.Context(), filepath.Join(folder, "lab"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = lab.Close() }) // its folder goes now
	calls := filepath.Join(folder, "calls")
	b.Setenv("MORGANA_SSH_CONFIG", lab.Config) // read by package remote
	b.Setenv("PATH", countSSH(b, calls)+":"+os.Getenv("PATH"))

	content, err := os.ReadFile(hello(b))
	if err != nil {
		b.Fatal(err)
	}
	x := &xenBench{B: b, host: newByHand(b, lab), calls: calls, kernel: content}
	x.newTarget(folder, lab.Host)
	x.newProduct(lab)

	// A registered domain that is not started keeps the kernel's image on the host.
	there := x.fresh()
	if err := x.steps(there, xenStages[:3], func(_ string, do func() error) error { return do() }); err != nil {
		b.Fatal(err)
	}
	var warm figures
	x.round(&warm, "kernel-there", there)
	measure(b, func(f *figures) {
		x.round(f, "kernel-new", x.fresh())
		x.round(f, "kernel-there", there)
	})
}

type xenBench struct {
	*testing.B
	host    *byHand
	calls   string // file with a byte for each call of ssh
	kernel  []byte
	n       int // number of names and kernels used
	target  *xen.Target
	store   step.Store
	options json.RawMessage
	project string
	env     []string
}

// fresh returns the kernel with a new digest: with bytes at its end that are not loaded.
func (x *xenBench) fresh() []byte {
	x.n++
	return fmt.Appendf(slices.Clone(x.kernel), "%016d", x.n)
}

// round deploys a kernel and destroys it: by the target's steps, by hand, and by morgana.
func (x *xenBench) round(f *figures, is string, kernel []byte) {
	isNew := is == "kernel-new"
	took, nothing := map[string]float64{}, timed(x.B, func() error { return x.host.run("true") })
	stages := 0.0
	ours := x.counted(func() error {
		return x.steps(kernel, xenStages, func(stage string, do func() error) error {
			if took[stage] = timed(x.B, do); stage != "destroy" {
				stages += took[stage]
			}
			return nil
		})
	})
	if !isNew { // its copy is not timed
		if err := x.host.write(handKernel, kernel); err != nil {
			x.Fatal(err)
		}
	}
	var hand, handGone float64
	peer := x.counted(func() error {
		hand = timed(x.B, func() error { return x.host.deploy(kernel, isNew) })
		handGone = timed(x.B, func() error { return x.host.run("xl", "destroy", handName) })
		return nil
	})
	if isNew {
		kernel = x.fresh() // the host has the other one now
	}
	x.n++
	app := fmt.Sprintf("whole%d", x.n)
	if err := os.WriteFile(filepath.Join(x.project, "kernel"), kernel, 0o600); err != nil {
		x.Fatal(err)
	}
	whole := timed(x.B, func() error { return x.morgana("deploy", "--app", app) })
	gone := timed(x.B, func() error { return x.morgana("destroy", app+"/bench") })

	f.add(is+"/target/xl", stages, hand)
	f.add(is+"/morgana/xl", whole, hand)
	f.add(is+"/target-destroy/xl", took["destroy"], handGone)
	f.add(is+"/morgana-destroy/xl", gone, handGone)
	for _, stage := range xenStages {
		f.add(is+"/"+stage+"/ssh-true", took[stage], nothing)
	}
	f.add(is+"/round-trips/xl", ours.trips, peer.trips, "trips")
	f.add(is+"/processes/xl", ours.processes, peer.processes, "processes")
}

// newTarget makes the xen target, with its own store and state folder.
func (x *xenBench) newTarget(folder, address string) {
	artifacts, err := store.Open(x.Context(), filepath.Join(folder, "store"))
	if err != nil {
		x.Fatal(err)
	}
	x.store = artifacts
	x.target = xen.New(step.Site{Host: host, State: filepath.Join(folder, "state"), Store: artifacts, Log: slog.New(slog.DiscardHandler)})
	x.options = json.RawMessage(fmt.Sprintf(`{"host":%q,"memory":%d,"args":"stay","expect":%q}`, address, xenMemory, greeting))
}

// steps runs the stages for a new domain, each inside a call of around. The domain's
// image stays on the host if the last stage is not destroy.
func (x *xenBench) steps(kernel []byte, stages []string, around func(stage string, do func() error) error) error {
	ctx := x.Context()
	stored, err := x.store.Put(ctx, bytes.NewReader(kernel))
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
			img, err = x.target.Package(ctx, step.Kernel{Spec: spec, File: stored, ABIs: []string{image.PVH, image.XenPV}})
			return err
		},
		"register": func() (err error) { registration, err = x.target.Register(ctx, img); return err },
		"boot":     func() (err error) { _, err = x.target.Boot(ctx, registration); return err },
		"destroy":  func() (err error) { _, err = x.target.Destroy(ctx, step.Removal{Spec: spec}); return err },
	}
	for _, stage := range stages {
		if err := around(stage, do[stage]); err != nil {
			return err
		}
	}
	return nil
}

// newProduct starts a server and a worker for morgana, and writes a project.
func (x *xenBench) newProduct(lab *xenlab.Lab) {
	x.project = x.TempDir()
	x.env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "TEMPORAL_") || strings.HasPrefix(v, "MORGANA_") })
	address, _ := server(x.B)
	x.env = append(x.env, "TEMPORAL_ADDRESS="+address, "MORGANA_SSH_CONFIG="+lab.Config,
		"XDG_STATE_HOME="+filepath.Join(x.project, "state"), "XDG_CONFIG_HOME="+filepath.Join(x.project, "config"))
	if err := os.WriteFile(filepath.Join(x.project, "morgana.yaml"), fmt.Appendf(nil,
		"app: hello\ntoolchain: {kind: prebuilt, kernel: kernel}\ntargets:\n  bench: {kind: xen, host: %q, memory: %d, args: stay, expect: %q}\n",
		lab.Host, xenMemory, greeting), 0o600); err != nil {
		x.Fatal(err)
	}
	daemon(x.B, x.env, "morgana-worker", "--listen", "127.0.0.1:0", "--kinds", "prebuilt,xen", "--host", host)
}

func (x *xenBench) morgana(args ...string) error {
	cmd := exec.CommandContext(x.Context(), binary("morgana"), args...)
	cmd.Dir, cmd.Env = x.project, x.env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("morgana %s: %w\n%s", args[0], err, out)
	}
	return nil
}

// work is the cost of an operation on a Xen host: calls of ssh, and processes started on
// the host, including those of sshd.
type work struct{ trips, processes float64 }

// counted returns the work of do, without that of the counting itself.
func (x *xenBench) counted(do func() error) work {
	now := func() (w work) {
		stat, err := x.host.said("cat", "/proc/stat")
		if err == nil {
			_, rest, _ := strings.Cut(stat, "\nprocesses ")
			_, err = fmt.Sscan(rest, &w.processes)
		}
		calls, err2 := os.ReadFile(x.calls)
		if err != nil || err2 != nil {
			x.Fatal(err, err2)
		}
		w.trips = float64(len(calls))
		return w
	}
	idle, before := now(), now()
	if err := do(); err != nil {
		x.Fatal(err)
	}
	after := now()
	return work{after.trips - 2*before.trips + idle.trips, after.processes - 2*before.processes + idle.processes}
}

// countSSH returns a folder with an ssh that writes a byte to calls for each call.
func countSSH(b *testing.B, calls string) (folder string) {
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		b.Fatal(err)
	}
	folder = b.TempDir()
	script := "#!/bin/sh\nprintf . >>" + calls + "\nexec " + ssh + " \"$@\"\n"
	if err := os.WriteFile(filepath.Join(folder, "ssh"), []byte(script), 0o700); err != nil {
		b.Fatal(err)
	}
	return folder
}

const (
	xenMemory  = 32 // MiB, of a domain
	handName   = "byhand"
	handKernel = "/root/hello"
)

// byHand runs commands on a Xen host over one ssh connection that they share
// (ControlMaster).
type byHand struct {
	ctx    context.Context
	lab    *xenlab.Lab
	socket string
}

func newByHand(b *testing.B, lab *xenlab.Lab) *byHand {
	h := &byHand{b.Context(), lab, filepath.Join(b.TempDir(), "s")}
	master := h.command()
	master.Args = slices.Insert(master.Args, 1, "-M", "-N", "-f", "-o", "ControlPersist=yes") // it ends with the lab
	if err := master.Run(); err != nil {
		b.Fatalf("connect to the lab: %v", err)
	}
	return h
}

func (h *byHand) command(argv ...string) *exec.Cmd {
	cmd := h.lab.Command(h.ctx, argv...)
	cmd.Args = slices.Insert(cmd.Args, 1, "-S", h.socket)
	return cmd
}

func (h *byHand) said(argv ...string) (string, error) {
	cmd := h.command(argv...)
	var told bytes.Buffer
	cmd.Stderr = &told
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, told.String())
	}
	return string(out), nil
}

func (h *byHand) run(argv ...string) error {
	_, err := h.said(argv...)
	return err
}

func (h *byHand) write(path string, content []byte) error {
	cmd := h.command("dd", "of="+path, "status=none")
	cmd.Stdin = bytes.NewReader(content)
	return cmd.Run()
}

// deploy creates a domain and waits for its greeting. It copies a configuration to the
// host, and the kernel if that is new.
func (h *byHand) deploy(kernel []byte, isNew bool) error {
	if isNew {
		if err := h.write(handKernel, kernel); err != nil {
			return err
		}
	}
	const config = "/root/hello.cfg"
	if err := h.write(config, fmt.Appendf(nil, "name=%q\ntype=\"pvh\"\nkernel=%q\nextra=\"stay\"\nmemory=%d\n", handName, handKernel, xenMemory)); err != nil {
		return err
	}
	if err := h.run("xl", "create", "-p", config); err != nil {
		return err
	}
	console := h.command("xl", "console", handName)
	in, err := console.StdinPipe() // at its end xl console would end
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := console.StdoutPipe()
	if err != nil {
		return err
	}
	if err := console.Start(); err != nil {
		return err
	}
	defer func() { _, _ = console.Process.Kill(), console.Wait() }() // xl console itself ends with the domain
	if err := h.run("xl", "unpause", handName); err != nil {
		return err
	}
	return greets(out)
}
