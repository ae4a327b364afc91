package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"maps"
	"os"
	"path/filepath"
	"testing"
)

// TestVHD compares the raw disk with what qemu-img reads from the VHD.
func TestVHD(t *testing.T) {
	tools(t, "qemu-img")
	for name, test := range map[string]struct {
		path   string
		blocks int64
	}{
		"empty":            {sparse(t, 5<<20, map[int64]string{}), 0},
		"less than one":    {sparse(t, 1<<20, map[int64]string{0: "a\x00b", 1<<20 - 3: "a\x00b"}), 1},
		"part of the last": {sparse(t, 9<<20, map[int64]string{100: "a\x00b", 3 << 20: "a\x00b", 9<<20 - 3: "a\x00b"}), 3},
		"an odd sector":    {sparse(t, 4<<20+512, map[int64]string{4 << 20: "a\x00b"}), 1},
		"64 GiB":           {sparse(t, 64<<30, map[int64]string{0: "a\x00b", 33<<30 + 5: "a\x00b", 64<<30 - 3: "a\x00b"}), 3},
		"a boot disk":      {write(t, Whole, Boot{Kernel: file(t, 3<<20), ABI: abiFor(Whole)}, 64<<20), 2},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := OpenVHD(t.Context(), test.path)
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close() //nolint:errcheck // only read
			info, err := os.Stat(test.path)
			if err != nil {
				t.Fatal(err)
			}
			table := roundUp(4*ceil(info.Size(), vhdBlock), sectorSize)
			if want := 2*vhdFooter + vhdHeader + table + test.blocks*(vhdBitmap+vhdBlock); v.Size != want {
				t.Errorf("%d bytes, want %d", v.Size, want)
			}
			path := filepath.Join(t.TempDir(), "disk.vhd")
			out, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(out, v.Reader()); err != nil || n != v.Size || out.Close() != nil {
				t.Fatalf("read %d of %d bytes: %v", n, v.Size, err)
			}
			_ = sh(t, "qemu-img", "compare", "-f", "raw", "-F", "vpc", test.path, path)
		})
	}
}

// A block behind the disk's end is not in the bitmap: a server that writes what the stream
// has would write behind the VDI's end.
func TestVHDEndsWithTheDisk(t *testing.T) {
	v, err := OpenVHD(t.Context(), sparse(t, 3<<20, map[int64]string{0: "a\x00b", 2 << 20: "a\x00b"}))
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close() //nolint:errcheck // only read
	all, err := io.ReadAll(v.Reader())
	if err != nil {
		t.Fatal(err)
	}
	second := int64(binary.BigEndian.Uint32(all[vhdFooter+vhdHeader+4:])) * sectorSize
	want := append(bytes.Repeat([]byte{0xff}, vhdBitmap/2), make([]byte, vhdBitmap/2)...)
	if got := all[second:][:vhdBitmap]; !bytes.Equal(got, want) {
		t.Errorf("bitmap of the second block: % x", got)
	}
	if !bytes.Equal(all[:vhdFooter], all[len(all)-vhdFooter:]) {
		t.Error("the footers differ")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := OpenVHD(ctx, sparse(t, 3<<20, map[int64]string{0: "a\x00b"})); err == nil {
		t.Error("cancelled: no error")
	}
	if _, err := OpenVHD(t.Context(), sparse(t, 100, map[int64]string{})); err == nil {
		t.Error("100 bytes: no error")
	}
}

// TestBlocks reads blocks with data at their start, at their end, over two of them and in a
// short last one, and a block of zeros that is no hole.
func TestBlocks(t *testing.T) {
	const block = 512 << 10
	const size = 20*block + 4096
	path := sparse(t, size, map[int64]string{0: "start", 3*block - 1: "xy", 9*block + 4096: "\x00", 20*block + 100: "end"})
	got := map[int64]int{}
	n, err := Blocks(t.Context(), path, block, func(index int64, data []byte) error {
		got[index] = len(data)
		return nil
	})
	want := map[int64]int{0: block, 2: block, 3: block, 20: 4096}
	if err != nil || n != size || !maps.Equal(got, want) {
		t.Errorf("Blocks: %v, size %d, error %v; want %v, size %d", got, n, err, want, size)
	}
}
