package qemu

import (
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/step"
)

// silentKernel is multiboot 1, and its entry: 1: hlt; jmp 1b
const silentKernel = "\x02\xb0\xad\x1b\x00\x00\x01\x00\xfe\x4f\x51\xe4\x00\x00\x10\x00\x00\x00\x10\x00\x24\x00\x10\x00\x24\x00\x10\x00\x20\x00\x10\x00\xf4\xeb\xfd\x00"

// A machine that QEMU has stopped, as after an internal error of KVM, is not
// ready because a second has gone by, nor merely late.
func TestStoppedMachine(t *testing.T) {
	b := newBench(t)
	var err error
	if b.kernel, err = b.site.Store.Put(t.Context(), strings.NewReader(silentKernel)); err != nil {
		t.Fatal(err)
	}
	r := b.register(b.spec("stopped", 1, `{"expect":"x","timeout":"1s"}`))
	q := New(b.site)
	m, err := q.machines.Of(r.Spec.Tags)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = q.Boot(t.Context(), r) // it is late
	eventually(t, "QEMU stops it", func() bool { _, err := guest{m}.monitor(t.Context(), "stop"); return err == nil })
	_, late := q.Boot(t.Context(), r)
	_, silent := (&boot{t: q, m: guest{m}}).Ready(t.Context())
	for _, err := range []error{late, silent} {
		if e := detail(err); e.Kind != step.BootFailed || !strings.Contains(e.Error(), "qemu does not run the machine: paused") || e.Hint == "" {
			t.Errorf("%s %v, hint %q", e.Kind, err, e.Hint)
		}
	}
}
