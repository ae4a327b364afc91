package bench

import (
	"testing"

	"github.com/morgana-deploy/morgana/carrier/carriertest"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/need"
)

// BenchmarkCarrier compares a Linux program in a carrier with examples/hello, which boots by
// itself: from the start of QEMU to the kernel's line, and the bytes of the image.
func BenchmarkCarrier(b *testing.B) {
	need.Tools(b, qemuProgram, "grub-mkimage")
	parts := carriertest.Make(b)
	q, bare := newQEMU(b), hello(b)
	measure(b, func(f *figures) {
		for _, via := range []string{"kernel", "bios"} {
			carried := q.image(parts.Web, []string{image.LinuxExecutable}, `"carrier":"linux","linux":"`+parts.Linux+`","expect":"listening","memory":128,"via":"`+via+`"`)
			alone := q.image(bare, []string{image.PVH, image.Multiboot2}, `"args":"stay","expect":"`+greeting+`","memory":128,"via":"`+via+`"`)
			f.add(via+"/bare", q.boot(carried), q.boot(alone))
			f.add(via+"-image/bare", megabytes(carried), megabytes(alone), "MB")
		}
	})
}
