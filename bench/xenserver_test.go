package bench

import (
	"bytes"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/activities/xenserver"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/store"
	"github.com/morgana-deploy/morgana/xapilab"
)

//go:embed testdata/xenserver.py
var byXenAPI string

// BenchmarkXenServer compares a deploy by the xenserver target, without its stage package,
// with the same calls by the official Python client. The pool is the lab's, whose guests
// print their text at once.
func BenchmarkXenServer(b *testing.B) {
	need.Tools(b, "mke2fs")
	requirements, err := os.ReadFile("../xapilab/testdata/requirements.txt")
	if err != nil {
		b.Fatal(err)
	}
	x := &xenserverBench{B: b, python: need.Python(b, string(requirements)), folder: b.TempDir()}
	if x.lab, err = xapilab.Start(b.Context(), xapilab.Config{Hypervisor: xapilab.StandIn{Text: func(xapilab.Guest) string { return greeting + "\r\n" }}}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = x.lab.Close() }) // its folder goes now
	b.Setenv("XENSERVER_HOST", x.lab.URL)
	b.Setenv("XENSERVER_USERNAME", x.lab.User)
	b.Setenv("XENSERVER_PASSWORD", x.lab.Password)
	if x.store, err = store.Open(b.Context(), filepath.Join(x.folder, "store")); err != nil {
		b.Fatal(err)
	}
	x.target = xenserver.New(step.Site{Host: host, State: filepath.Join(x.folder, "state"), Store: x.store, Log: slog.New(slog.DiscardHandler)})
	b.Cleanup(func() { _ = x.target.Close() }) // the pool ends
	if x.kernel, err = os.ReadFile(hello(b)); err != nil {
		b.Fatal(err)
	}
	measure(b, func(f *figures) {
		ours, peer := x.round()
		f.add("deploy/python", ours, peer)
	})
}

type xenserverBench struct {
	*testing.B
	lab    *xapilab.Lab
	target *xenserver.Target
	store  step.Store
	folder string
	python string
	kernel []byte
}

// round deploys a new kernel and destroys it, and does so by Python. It returns the seconds
// of the deploys.
func (x *xenserverBench) round() (ours, peer float64) {
	ctx := x.Context()
	spec := step.Spec{Kind: xenserver.Kind, Tags: step.Tags{App: "bench", Target: "lab", Life: "00000000", Generation: 1},
		Options: json.RawMessage(fmt.Sprintf(`{"host":%q,"fingerprint":%q,"format":"raw","expect":%q}`, x.lab.URL, x.lab.Fingerprint, greeting))}
	// Bytes at its end are not loaded.
	stored, err := x.store.Put(ctx, bytes.NewReader(append(slices.Clip(x.kernel), rand.Text()...)))
	if err != nil {
		x.Fatal(err)
	}
	var img step.Image
	var registration step.Registration
	ours = timed(x.B, func() (err error) { spec, err = x.target.Check(ctx, spec); return err })
	timed(x.B, func() (err error) {
		img, err = x.target.Package(ctx, step.Kernel{Spec: spec, File: stored, ABIs: []string{image.PVH, image.XenPV}})
		return err
	})
	ours += timed(x.B, func() (err error) { registration, err = x.target.Register(ctx, img); return err })
	ours += timed(x.B, func() error { _, err := x.target.Boot(ctx, registration); return err })
	raw, size := x.unpack(img)
	timed(x.B, func() error { _, err := x.target.Destroy(ctx, step.Removal{Spec: spec}); return err })
	return ours, x.byPython(raw, size)
}

// unpack writes the image's disk to a file.
func (x *xenserverBench) unpack(img step.Image) (path string, size int64) {
	path = filepath.Join(x.folder, "disk")
	packed, _ := step.FileNamed(img.Files, "disk.tar")
	r, err := x.store.Open(x.Context(), packed)
	if err == nil {
		err = errors.Join(os.RemoveAll(path), disk.Unpack(x.Context(), r, path), r.Close())
	}
	if err != nil {
		x.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		x.Fatal(err)
	}
	return path, info.Size()
}

// byPython runs the script and returns the seconds that it prints.
func (x *xenserverBench) byPython(path string, size int64) float64 {
	cmd := exec.CommandContext(x.Context(), x.python, "-c", byXenAPI, x.lab.URL, x.lab.User, x.lab.Password, x.lab.CA, path, strconv.FormatInt(size, 10), greeting)
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+x.lab.CA) // the client has no option for it
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		x.Fatal(err)
	}
	took, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	if err != nil {
		x.Fatal(err)
	}
	return took
}
