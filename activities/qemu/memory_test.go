package qemu

import (
	"context"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

// silentKernel is multiboot 1, and its entry: 1: hlt; jmp 1b
const silentKernel = "\x02\xb0\xad\x1b\x00\x00\x01\x00\xfe\x4f\x51\xe4\x00\x00\x10\x00\x00\x00\x10\x00\x24\x00\x10\x00\x24\x00\x10\x00\x20\x00\x10\x00\xf4\xeb\xfd\x00"

// A machine that QEMU has stopped, as after an internal error of KVM, is not
// ready because a second has gone by, nor merely late.
func TestStoppedMachine(t *testing.T) {
	for _, options := range []string{`{}`, `{"expect":"x","timeout":"1s"}`} {
		b := newBench(t)
		var err error
		if b.kernel, err = b.site.Store.Put(t.Context(), strings.NewReader(silentKernel)); err != nil {
			t.Fatal(err)
		}
		r := b.register(b.spec("stopped", 1, "%s", options))
		q := New(b.site)
		m, err := q.machines.Of(r.Spec.Tags)
		if err != nil {
			t.Fatal(err)
		}
		ctx := step.WithReporter(t.Context(), func(step.Progress) {
			_, _ = guest{m}.monitor(context.WithoutCancel(t.Context()), "stop") // once it runs
		}, nil)
		_, err = q.Boot(ctx, r)
		if e := detail(err); e.Kind != step.BootFailed || !strings.Contains(e.Error(), "qemu does not run the machine: paused") || e.Hint == "" {
			t.Errorf("%s: %s %v, hint %q", options, e.Kind, err, e.Hint)
		}
	}
}
