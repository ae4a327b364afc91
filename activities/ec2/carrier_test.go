package ec2

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/carrier/carriertest"
	"github.com/morgana-deploy/morgana/ec2lab"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/step/steptest"
)

// A Solo5 spt kernel boots on an instance type of Nitro, from NVMe, with the instance's
// address.
func TestCarrier(t *testing.T) {
	need.Tools(t, "qemu-system-x86_64", "grub-mkimage")
	parts := carriertest.Make(t)
	lab := start(t, ec2lab.NewMachines(t.TempDir()))
	for _, e := range lab.Env() {
		name, value, _ := strings.Cut(e, "=")
		t.Setenv(name, value)
	}
	target := New(step.Site{Host: "testhost", State: t.TempDir(), Store: steptest.NewStore(t), Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	f, err := os.Open(parts.NetSPT)
	no(t, err)
	defer f.Close() //nolint:errcheck // only read
	kernel := step.Kernel{ABIs: []string{image.Solo5SPT}}
	if kernel.File, err = target.site.Store.Put(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	kernel.Spec = step.Spec{Kind: Kind, Tags: step.Tags{App: "carried", Target: "prod", Life: "0a1b2c3d", Generation: 1},
		Options: json.RawMessage(fmt.Sprintf(`{"carrier":"linux","linux":%q,"args":"--ipv4={address}","expect":"listening","timeout":"10m"}`, parts.Linux)),
		Origin:  step.Origin{ABIs: kernel.ABIs}}
	if kernel.Spec, err = target.Check(t.Context(), kernel.Spec); err != nil {
		t.Fatal(err)
	}
	var machine step.Machine
	if img, err := target.Package(t.Context(), kernel); err != nil {
		t.Fatal(err)
	} else if r, err := target.Register(t.Context(), img); err != nil {
		t.Fatal(err)
	} else if machine, err = target.Boot(t.Context(), r); err != nil {
		var e *step.Error
		errors.As(err, &e)
		t.Fatalf("%v\n%s", err, e.Hint)
	}
	text, err := target.Console(t.Context(), step.ConsoleFrom{Machine: machine})
	if want := `command line: "--ipv4=10.0.2.15/24"`; err != nil || !strings.Contains(text.Text, want) {
		t.Errorf("%v: no %q in\n%s", err, want, text.Text)
	}
}

// failing is the console of a carried kernel that met option expect and then failed.
const failing = "hello from a unikernel\nFatal error: exception Not_found\ncarrier: exit status 2\n"

// TestFailedKernel takes a kernel that says it failed neither for ready nor for a success,
// although its instance shut itself down.
func TestFailedKernel(t *testing.T) {
	environ(t)
	b := newBench(t)
	m := b.boot(1)
	b.g.set(failing, true)
	var h step.Health
	b.eventually("it has ended", func() bool {
		var err error
		if h, err = New(b.site).Observe(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		return h.State == step.Ended
	})
	if h.Success || h.How != "exit status 2" {
		t.Errorf("observed %+v", h)
	}
}

func TestFailedKernelAtBoot(t *testing.T) {
	environ(t)
	for name, expect := range map[string]string{"console": "hello", "state": ""} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.options(func(o *Options) { o.Expect = expect })
			b.g.set(failing, true)
			m, err := New(b.site).Boot(t.Context(), b.registration(1))
			refusedWith(t, m.Ready, err, step.Error{Kind: step.BootFailed}, "the kernel ended: exit status 2")
		})
	}
}
