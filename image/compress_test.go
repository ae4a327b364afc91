package image

import (
	"bytes"
	"compress/gzip"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
)

// pack compresses by a program that is not ours.
func pack(t testing.TB, b []byte, command ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestIdentifyCompressed(t *testing.T) {
	need.Tools(t, "gzip", "xz", "bzip2", "file")
	for _, c := range []struct {
		compression string
		command     []string
	}{
		{"gzip", []string{"gzip", "-9c"}},
		{"bzip2", []string{"bzip2", "-c"}},
		{"xz", []string{"xz", "-c"}},
		{"xz", []string{"xz", "-9ec", "--check=crc32"}},
		{"xz", []string{"xz", "-c", "--check=sha256"}},
		{"xz", []string{"xz", "-c", "--check=none"}},
		{"xz", []string{"xz", "-0c", "--block-size=4096"}},
		{"xz", []string{"xz", "-c", "-T2", "--block-size=4096"}}, // sizes in the blocks' headers
		{"xz", []string{"xz", "-c", "--x86", "--lzma2"}},         // as Linux packs itself
	} {
		for _, k := range kernels {
			packed := pack(t, k.bytes, c.command...)
			info, err := identify(packed)
			want, _ := identify(k.bytes)
			want.Compression = c.compression
			if err != nil || !equal(info, want) {
				t.Errorf("%v %s: got %+v, %v, want %+v", c.command, k.name, info, err, want)
			}
			if out := pack(t, packed, "file", "-b", "-"); !strings.HasPrefix(strings.ToLower(string(out)), c.compression) {
				t.Errorf("%v: to file it is %s", c.command, out)
			}
			plain, compression, err := decompress(bytes.NewReader(packed), int64(len(packed)))
			if err != nil || compression != c.compression {
				t.Fatalf("%v: got %q, %v", c.command, compression, err)
			}
			if got, err := io.ReadAll(plain); err != nil || !bytes.Equal(got, k.bytes) {
				t.Errorf("%v %s: got %d bytes, %v, want %d", c.command, k.name, len(got), err, len(k.bytes))
			}
			if testing.Short() {
				break
			}
		}
	}
}

func equal(a, b Info) bool {
	return slices.Equal(a.ABIs, b.ABIs) && slices.Equal(a.Devices, b.Devices) &&
		a.Machine == b.Machine && a.Compression == b.Compression && a.EmptyLoad == b.EmptyLoad && a.NoMultiboot == b.NoMultiboot && a.End == b.End
}

func TestIdentifyCompressedHello(t *testing.T) {
	hello := buildHello(t)
	need.Tools(t, "gzip", "xz", "bzip2")
	raw, err := os.ReadFile(hello)
	if err != nil {
		t.Fatal(err)
	}
	// Too large to be kept whole, its headers at both ends.
	large := filepath.Join(t.TempDir(), "large")
	filler := filepath.Join(t.TempDir(), "filler")
	if err := os.WriteFile(filler, bytes.Repeat(raw, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	need.Tools(t, "objcopy")
	if out, err := exec.CommandContext(t.Context(), "objcopy", "--add-section", "filler="+filler, hello, large).CombinedOutput(); err != nil {
		t.Fatalf("objcopy: %v\n%s", err, out)
	}
	for _, path := range []string{hello, large} {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, program := range []string{"gzip", "xz", "bzip2"} {
			info, err := identify(pack(t, raw, program, "-c"))
			if want := []string{Multiboot2, PVH, XenPV, XenPVH}; err != nil || !slices.Equal(info.ABIs, want) || info.Compression != program {
				t.Errorf("%s, %d bytes by %s: got %+v, %v", filepath.Base(path), len(raw), program, info, err)
			}
		}
	}
}

func TestDecompressPlain(t *testing.T) {
	k := kernels[0].bytes
	plain, compression, err := decompress(bytes.NewReader(k), int64(len(k)))
	if err != nil || compression != "" {
		t.Fatalf("got %q, %v", compression, err)
	}
	if got, err := io.ReadAll(plain); err != nil || !bytes.Equal(got, k) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

// Wherever a compressed file is cut off or wherever a byte of it is wrong,
// there is one clear error, and never other contents.
func TestIdentifyCompressedDamaged(t *testing.T) {
	need.Tools(t, "gzip", "xz", "bzip2")
	// What cannot be packed is stored as it is: only checksums guard it.
	contents := make([]byte, 400)
	_, _ = rand.NewChaCha8([32]byte{}).Read(contents) // never an error
	for _, program := range []string{"gzip", "xz", "bzip2"} {
		packed := pack(t, contents, program, "-1c")
		for n := 4; n < len(packed); n++ {
			_, err := identify(packed[:n])
			want := "damaged or cut off: it ends inside its " + program + " data"
			if n < magicSize && program == "xz" {
				want = "no kind of kernel"
			}
			wantInvalid(t, program+" cut off", err, want)

			wrong := bytes.Clone(packed)
			wrong[n] ^= 0x55
			plain, compression, err := decompress(bytes.NewReader(wrong), int64(len(wrong)))
			if err != nil {
				t.Fatalf("%s, byte %d: %v", program, n, err)
			}
			got, err := io.ReadAll(plain)
			if err == nil && compression != "" && !bytes.Equal(got, contents) {
				t.Errorf("%s, byte %d: got other contents without an error", program, n)
			}
			if err != nil {
				wantInvalid(t, program+" wrong", err, "")
			}
		}
	}
}

func TestIdentifyCompressedOther(t *testing.T) {
	need.Tools(t, "gzip", "xz", "bzip2", "lz4", "zstd")
	hello := []byte("hello\n")
	tar := make([]byte, 1024)
	copy(tar[257:], "ustar")
	kernel := kernels[0].bytes
	for _, c := range []struct {
		name  string
		bytes []byte
		want  string
	}{
		{"text", pack(t, hello, "gzip", "-c"), "identify kernel: in the gzip file: this is text, not a kernel"},
		{"tar", pack(t, tar, "xz", "-c"), "in the xz file: this is a tar file, not a kernel"},
		{"nothing", pack(t, nil, "bzip2", "-c"), "in the bzip2 file: the file is empty"},
		{"twice", pack(t, pack(t, kernel, "xz", "-c"), "gzip", "-c"), "in the gzip file: this is packed once more, by xz"},
		{"half a kernel", pack(t, kernel[:100], "gzip", "-c"), "in the gzip file: the file is damaged or cut off: it ends inside its ELF headers"},
		{"zstd", pack(t, kernel, "zstd", "-c"), "this is a zstd file, not a kernel"},
		{"lz4", pack(t, kernel, "lz4", "-c"), "this is an lz4 file, not a kernel"},
		{"filter", pack(t, kernel, "xz", "-c", "--arm64", "--lzma2"), "it uses a filter or a checksum of xz that is not known here"},
		{"dictionary", pack(t, kernel, "xz", "-c", "--lzma2=dict=128MiB"), "it wants more memory for unpacking"},
		{"two streams", slices.Concat(pack(t, hello, "xz", "-c"), pack(t, hello, "xz", "-c")), "in the xz file: this is text"},
		{"more behind xz", append(pack(t, kernel, "xz", "-c"), "more"...), "cut off"},
		{"more behind it", append(pack(t, kernel, "gzip", "-c"), "more"...), "cut off"},
	} {
		_, err := identify(c.bytes)
		wantInvalid(t, c.name, err, c.want)
	}
}

// A few bytes must not take memory, whatever they unpack to or ask for.
func TestIdentifyBomb(t *testing.T) {
	allocated := func(f func()) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	var member bytes.Buffer
	w := gzip.NewWriter(&member)
	for range 64 {
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	bomb := bytes.Repeat(member.Bytes(), 17)
	if n := allocated(func() {
		_, err := identify(bomb)
		wantInvalid(t, "bomb", err, "it holds more than 1 GiB, too much for a kernel")
	}); n > 4<<20 {
		t.Errorf("%d bytes were allocated for a bomb", n)
	}

	need.Tools(t, "xz")
	greedy := pack(t, kernels[0].bytes, "xz", "-c")
	// The first block's header: size, flags, LZMA2, 1, dictionary, padding, CRC32.
	head := greedy[12:24]
	head[4] = 40 // 4 GiB
	copy(head[8:], words(crc32.ChecksumIEEE(head[:8])))
	if n := allocated(func() {
		_, err := identify(greedy)
		wantInvalid(t, "greedy", err, "it wants more memory for unpacking")
	}); n > 4<<20 {
		t.Errorf("%d bytes were allocated for a greedy xz file", n)
	}
	// Each of 65 blocks wants the largest dictionary.
	blocks := pack(t, make([]byte, 65*4096), "xz", "-9c", "--block-size=4096")
	if n := allocated(func() {
		_, err := identify(blocks)
		wantInvalid(t, "blocks", err, "no kind of kernel")
	}); n > 2*maxDictionary {
		t.Errorf("%d bytes were allocated for an xz file of many blocks", n)
	}
}

// Notes are found in the middle of a file that is too large to keep, in any order; but
// the file is not read for ever.
func TestIdentifyScattered(t *testing.T) {
	need.Tools(t, "gzip")
	scattered := func(n int) []byte {
		k := testELF{segments: []testPart{load(someCode)}}
		for range n {
			k.segments = append(k.segments, load(make([]byte, 2*tailSize)), note(solo5Note(1)))
		}
		k.segments = append(k.segments, load(make([]byte, 2*tailSize)))
		b := k.build()
		// The notes' segments in the reverse order.
		const phoff, phsize = 64, 56
		for i := range n / 2 {
			at, other := phoff+phsize*(2+2*i), phoff+phsize*(2*(n-i))
			swapped := bytes.Clone(b[at : at+phsize])
			copy(b[at:], b[other:other+phsize])
			copy(b[other:], swapped)
		}
		return pack(t, b, "gzip", "-1c")
	}
	if info, err := identify(scattered(maxReplays)); err != nil || !slices.Equal(info.ABIs, []string{Solo5HVT}) {
		t.Errorf("got %+v, %v", info, err)
	}
	_, err := identify(scattered(maxReplays + 2))
	wantInvalid(t, "scattered", err, "the ELF headers and notes in this compressed file are scattered all over it")
}

// An error of reading is not taken for a damaged file.
func TestDecompressReadFails(t *testing.T) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err := w.Write(kernels[0].bytes)
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("input/output error")
	size := int64(packed.Len())
	for _, good := range []int64{0, 20, size - 4} {
		r := failsAt{bytes.NewReader(packed.Bytes()), good, broken}
		if _, err := Identify(r, size); !errors.Is(err, broken) || step.KindOf(err) != "" {
			t.Errorf("after %d bytes: Identify gives %v of kind %q", good, err, step.KindOf(err))
		}
		plain, _, err := decompress(r, size)
		if err == nil {
			_, err = io.ReadAll(plain)
		}
		if !errors.Is(err, broken) || step.KindOf(err) != "" {
			t.Errorf("after %d bytes: decompress gives %v of kind %q", good, err, step.KindOf(err))
		}
	}
}

type failsAt struct {
	r    io.ReaderAt
	good int64
	err  error
}

func (f failsAt) ReadAt(p []byte, at int64) (int, error) {
	if at+int64(len(p)) <= f.good {
		return f.r.ReadAt(p, at)
	}
	n, _ := f.r.ReadAt(p[:max(0, f.good-at)], at)
	return n, f.err
}

// Its corpus is one small kernel by each program, xz in one block and in three.
func FuzzDecompress(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		plain, _, err := decompress(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatalf("decompress: %v", err)
		}
		// A bomb costs time, which a fuzzer would count as a hang.
		if _, err := io.Copy(io.Discard, io.LimitReader(plain, 16<<20)); err != nil {
			wantInvalid(t, "fuzz", err, "unpack kernel: ")
		}
	})
}
