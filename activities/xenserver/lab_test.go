package xenserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
	"github.com/morgana-deploy/morgana/xapilab"
)

// hello returns examples/hello's kernel, built in a copy.
var hello = sync.OnceValues(func() ([]byte, error) {
	folder, err := os.MkdirTemp("", "hello-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(folder) }() // a temporary folder
	if err := os.CopyFS(filepath.Join(folder, "hello"), os.DirFS("../../examples/hello")); err != nil {
		return nil, err
	}
	if out, err := exec.Command("make", "-s", "-B", "-C", filepath.Join(folder, "hello"), "hello").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("make hello: %w\n%s", err, out)
	}
	return os.ReadFile(filepath.Join(folder, "hello", "hello"))
})

// stays reports whether a guest has been told to stay. The command line of an hvm guest is on
// its disk.
func stays(g xapilab.Guest) bool { return g.Type == typeHVM || strings.Contains(g.Args, "stay") }

// guests is a hypervisor whose guests print what hello prints. They end a while after somebody
// has read that, unless they stay.
type guests struct {
	more   string // what the first guest prints, too
	starts atomic.Int32
}

// Start implements [xapilab.Hypervisor].
func (g *guests) Start(ctx context.Context, of xapilab.Guest) (xapilab.Running, error) {
	said := "hello from a unikernel\r\n"
	if stays(of) {
		said += "staying\r\n"
	}
	if g.starts.Add(1) == 1 {
		said += g.more
	}
	r, err := xapilab.StandIn{
		Text: func(xapilab.Guest) string { return said },
		Ends: func(xapilab.Guest) bool { return !stays(of) },
	}.Start(ctx, of)
	return &guest{Running: r}, err
}

// guest is a guest whose text a slow worker does not miss.
type guest struct {
	xapilab.Running
	mu   sync.Mutex
	read time.Time // when its text was read first
}

func (g *guest) Console() ([]byte, error) {
	text, err := g.Running.Console()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.read.IsZero() && len(text) > 0 {
		g.read = time.Now()
	}
	return text, err
}

func (g *guest) Ended() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.Running.Ended() && !g.read.IsZero() && time.Since(g.read) > time.Second/2
}

// newLab starts a lab whose calls and answers are judged in the end.
func newLab(t testing.TB, c xapilab.Config) *xapilab.Lab {
	t.Helper()
	if folder := need.FindXenAPI(t); folder != "" {
		var err error
		if c.Judge, err = xapilab.NewJudge(folder); err != nil {
			t.Fatal(err)
		}
	}
	if c.Hypervisor == nil {
		c.Hypervisor = &guests{}
	}
	lab, err := xapilab.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, wrong := range lab.Judged() {
			t.Error(wrong)
		}
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	return lab
}

// bench is a lab with rollouts.
type bench struct {
	testing.TB
	lab    *xapilab.Lab
	site   step.Site
	kernel step.Artifact
	before []string
	// patience is that of its targets: long, because a call at the same time may be slow.
	patience time.Duration
}

var profiles sync.Mutex

// profile makes the profile of a host, and returns its name. Tests that run at the same time
// have one environment, and all labs have the same user and password.
func profile(host string) string {
	profiles.Lock()
	defer profiles.Unlock()
	name := strings.NewReplacer("https://", "", ":", "-").Replace(host)
	path := filepath.Join(os.Getenv("HOME"), ".xe.d", name)
	if _, err := os.Stat(path); err == nil {
		return name
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("server="+host+"\nusername=root\npassword=secret\n"), 0o600)); err != nil {
		panic(err)
	}
	return name
}

func newBench(t testing.TB, c xapilab.Config) *bench {
	t.Helper()
	need.Tools(t, "make", "gcc", "mke2fs")
	b := &bench{TB: t, lab: newLab(t, c), site: step.Site{Host: "testhost", State: t.TempDir(), Store: steptest.NewStore(t),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil))}, patience: 5 * time.Minute}
	kernel, err := hello()
	if err == nil {
		b.kernel, err = b.site.Store.Put(t.Context(), bytes.NewReader(kernel))
	}
	if err != nil {
		t.Fatal(err)
	}
	b.before = b.lab.Resources()
	return b
}

// target is that of another worker.
func (b *bench) target() *Target {
	t := New(b.site)
	t.patience = b.patience
	b.Cleanup(func() { _ = t.Close() }) // the lab may be closed
	return t
}

func (b *bench) options(more string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"host":%q,"profile":%q,"fingerprint":%q,"timeout":"5m"%s}`, b.lab.URL, profile(b.lab.URL), b.lab.Fingerprint+" "+b.lab.MemberFingerprint, more))
}

// usual are options of a VM that gets ready and stays.
const usual = `,"args":"stay","expect":"staying"`

// image checks and packages a rollout.
func (b *bench) image(app, more string) step.Image {
	b.Helper()
	spec := step.Spec{Tags: step.Tags{App: app, Target: "lab", Life: "0a1b2c3d", Generation: 1}, Kind: Kind, Options: b.options(more)}
	spec, err := b.target().Check(b.Context(), spec)
	if err != nil {
		b.Fatal(err)
	}
	img, err := b.target().Package(b.Context(), step.Kernel{Spec: spec, File: b.kernel, ABIs: []string{image.Multiboot2, image.PVH, image.XenPV, image.XenPVH}})
	if err != nil {
		b.Fatal(err)
	}
	return img
}

func (b *bench) register(img step.Image) step.Registration {
	b.Helper()
	r, err := b.target().Register(b.Context(), img)
	if err != nil {
		b.Fatal(err)
	}
	return r
}

func (b *bench) boot(r step.Registration) step.Machine {
	b.Helper()
	m, err := b.target().Boot(b.Context(), r)
	if err != nil {
		b.Fatal(err)
	}
	return m
}

func (b *bench) booted(app, more string) step.Machine {
	b.Helper()
	return b.boot(b.register(b.image(app, more)))
}

// destroy destroys all of an app, after which the pool must be as before.
func (b *bench) destroy(spec step.Spec) {
	b.Helper()
	spec.Life, spec.Generation = "", 0
	if _, err := b.target().Destroy(b.Context(), step.Removal{Spec: spec}); err != nil {
		b.Fatal(err)
	}
	b.asBefore()
}

func (b *bench) asBefore() {
	b.Helper()
	if now := b.lab.Resources(); !slices.Equal(now, b.before) {
		b.Errorf("in the pool:\n%s\nbefore:\n%s", strings.Join(now, "\n"), strings.Join(b.before, "\n"))
	}
}

// count returns how many calls of a method came.
func (b *bench) count(method string) (n int) {
	for _, c := range b.lab.Calls() {
		if c.Method == method {
			n++
		}
	}
	return n
}
