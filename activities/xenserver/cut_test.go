package xenserver

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/xapilab"
)

// TestUploadCut cuts the upload's connection after numbers of bytes, in both formats. The next
// worker fills one VDI with the bytes of an upload that was not cut.
func TestUploadCut(t *testing.T) {
	t.Parallel()
	for _, format := range []string{formatVHD, formatRaw} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			b := newBench(t, xapilab.Config{Dir: dir})
			img := b.image("cut", usual+fmt.Sprintf(`,"format":%q`, format))
			// content returns what is in the pool's only VDI.
			content := func(r step.Registration) []byte {
				files, err := filepath.Glob(filepath.Join(dir, "*", r.ID))
				if err != nil || len(files) != 1 {
					t.Fatalf("the VDI's files are %q, %v", files, err)
				}
				bytes, err := os.ReadFile(files[0])
				if err != nil {
					t.Fatal(err)
				}
				return bytes
			}
			var size int64
			ctx := step.WithReporter(t.Context(), func(p step.Progress) { size = max(size, p.Total) }, nil)
			r, err := b.target().Register(ctx, img)
			if err != nil || size == 0 {
				t.Fatalf("register: %v, %d bytes", err, size)
			}
			want := content(r)
			b.destroy(img.Spec)
			for _, cut := range []int64{1, 511, 512, 513, 1536, 4095, 4096, size / 3, size / 2, size - 513, size - 512, size - 1} {
				puts := b.count("PUT /import_raw_vdi")
				b.lab.Fault(xapilab.Fault{Call: "PUT /import_raw_vdi", Cut: cut})
				if _, err := b.target().Register(t.Context(), img); err == nil || step.KindOf(err).Final() {
					t.Errorf("cut after %d of %d bytes: %v", cut, size, err)
				}
				r := b.register(img)
				if got := content(r); !bytes.Equal(got, want) {
					t.Errorf("cut after %d of %d bytes: the VDI has other bytes", cut, size)
				}
				if n := b.count("PUT /import_raw_vdi") - puts; n != 2 || r.Adopted {
					t.Errorf("cut after %d of %d bytes: %d uploads, %+v", cut, size, n, r)
				}
				b.destroy(img.Spec)
			}
		})
	}
}
