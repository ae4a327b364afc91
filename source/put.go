package source

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"os"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

// Putter puts an artifact into a store, as [step.Store] does.
type Putter = func(ctx context.Context, r io.ReadSeeker) (step.Artifact, error)

// Put packs a folder as [Pack] does, and puts the archive into a store.
func Put(ctx context.Context, put Putter, folder, project string) (step.Artifact, Packed, error) {
	packed, err := Pack(ctx, folder, project)
	if err != nil {
		return step.Artifact{}, packed, err
	}
	defer func() { _ = packed.Close() }() // a temporary file
	a, err := put(ctx, reading(ctx, "the source", packed, packed.Size))
	return a, packed, err
}

// PutKernel puts an existing kernel into a store. It does not close the file.
func PutKernel(ctx context.Context, put Putter, kernel *os.File, size int64) (step.Artifact, error) {
	return put(ctx, reading(ctx, "the kernel", kernel, size))
}

// reader reports how much of it was read. The store reads a file once for its digest, and
// again if it does not have the file.
type reader struct {
	io.ReadSeeker
	ctx   context.Context
	what  string
	seeks int
	step.Progress
}

func reading(ctx context.Context, what string, r io.ReadSeeker, size int64) *reader {
	return &reader{ReadSeeker: r, ctx: ctx, what: what, Progress: step.Progress{Total: size, Unit: "bytes"}}
}

func (r *reader) Read(b []byte) (int, error) {
	n, err := r.ReadSeeker.Read(b)
	r.Done += int64(n)
	step.Report(r.ctx, r.Progress)
	return n, err
}

func (r *reader) Seek(offset int64, whence int) (int64, error) {
	if r.seeks++; r.seeks == 1 {
		r.Note = "reading " + r.what
	} else {
		r.Note = "storing " + r.what
	}
	at, err := r.ReadSeeker.Seek(offset, whence)
	r.Done = at
	return at, err
}

// Expect sets the ABIs of a kernel that is not built yet, as far as the toolchain's
// options and the kind of the target tell them. With them check can refuse a kernel that
// the target cannot boot.
func Expect(o *step.Origin, toolchain step.Recipe, kind string) {
	if m, ok := mirageOf(toolchain, kind); ok {
		o.ABIs = image.MirageABIs(m.Target)
	}
}

// ExpectDevices sets the devices of a kernel that is not built yet, as far as its source in
// folder tells them.
func ExpectDevices(o *step.Origin, toolchain step.Recipe, kind string, folder *os.Root) {
	m, ok := mirageOf(toolchain, kind)
	if !ok {
		return
	}
	var text []byte
	if f, _, err := files.OpenIn(folder, m.Config); err == nil { // else the toolchain reports it
		text, _ = files.ReadAll(f, 1<<20)
	}
	o.Networks, o.Blocks = image.MirageDevices(string(text), m.Target)
}

// mirageOptions are the options of toolchain mirage that decide the kernel's ABI.
type mirageOptions struct {
	Target string `json:"target"`
	Config string `json:"config"`
}

// mirageOf returns the options, with their defaults for a kind of target. ok is false for
// another toolchain, and for wrong options, which the toolchain reports.
func mirageOf(toolchain step.Recipe, kind string) (m mirageOptions, ok bool) {
	if toolchain.Kind != "mirage" || len(toolchain.Options) > 0 && json.Unmarshal(toolchain.Options, &m) != nil {
		return m, false
	}
	m.Target = cmp.Or(m.Target, image.MirageTarget(kind))
	m.Config = cmp.Or(m.Config, "config.ml")
	return m, true
}
