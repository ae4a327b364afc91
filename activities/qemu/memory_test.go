package qemu

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

// silentKernel is multiboot 1, and its entry: 1: hlt; jmp 1b
const silentKernel = "\x02\xb0\xad\x1b\x00\x00\x01\x00\xfe\x4f\x51\xe4\x00\x00\x10\x00\x00\x00\x10\x00\x24\x00\x10\x00\x24\x00\x10\x00\x20\x00\x10\x00\xf4\xeb\xfd\x00"

func TestExtent(t *testing.T) {
	elf, err := os.ReadFile(hello(t))
	if err != nil {
		t.Fatal(err)
	}
	multiboot := []byte(silentKernel)
	binary.LittleEndian.PutUint32(multiboot[24:], 5<<20) // bss_end_addr
	linux := make([]byte, 0x264)
	copy(linux[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(linux[0x206:], 0x20f)
	binary.LittleEndian.PutUint64(linux[0x258:], 16<<20)
	binary.LittleEndian.PutUint32(linux[0x260:], 40<<20)
	old := bytes.Clone(linux)
	binary.LittleEndian.PutUint16(old[0x206:], 0x209)
	for _, test := range []struct {
		name, abi string
		kernel    []byte
		end       uint64
	}{
		{"elf", image.PVH, elf, 0x10f000},
		{"multiboot", image.Multiboot1, multiboot, 5 << 20},
		{"linux", image.LinuxBzImage, linux, 56 << 20},
		{"linux of protocol 2.9", image.LinuxBzImage, old, 0},
		{"linux that is cut off", image.LinuxBzImage, linux[:0x200], 0},
		{"text", image.Multiboot1, []byte("text"), 0},
		{"nothing", "", nil, 0},
	} {
		if end := extent(bytes.NewReader(test.kernel), test.abi); end != test.end {
			t.Errorf("%s: %#x, want %#x", test.name, end, test.end)
		}
	}
}

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
