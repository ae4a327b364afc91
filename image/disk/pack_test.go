package disk

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/morgana-deploy/morgana/step"
)

// sparse makes an image of a size with bytes here and there.
func sparse(t testing.TB, size int64, parts map[int64]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	err = f.Truncate(size)
	for at, text := range parts {
		_, written := f.WriteAt([]byte(text), at)
		err = errors.Join(err, written)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func pack(t testing.TB, path string) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := Pack(t.Context(), &out, path); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

var images = map[string]struct {
	size  int64
	parts map[int64]string
}{
	"empty":          {mebi, nil},
	"one sector":     {512, map[int64]string{0: "x"}},
	"start and end":  {mebi, map[int64]string{0: "x", mebi - 1: "y"}},
	"odd end":        {4096*3 + 512, map[int64]string{4096*3 + 511: "y"}},
	"across a grain": {mebi, map[int64]string{4090: "0123456789ab", 300_000: strings.Repeat("z", 100_000)}},
	"written zeros":  {mebi, map[int64]string{0: strings.Repeat("\x00", 500_000), 500_000: "x"}},
	"large":          {16 << 20, map[int64]string{9 << 20: strings.Repeat("large", 500_000)}},
}

func TestPackUnpack(t *testing.T) {
	tools(t, "tar")
	for name, c := range images {
		t.Run(name, func(t *testing.T) {
			path := sparse(t, c.size, c.parts)
			want := digest(t, path)
			packed := pack(t, path)

			// The same bytes if nothing is a hole.
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			dense := filepath.Join(t.TempDir(), "dense")
			if err := os.WriteFile(dense, raw, 0o600); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(pack(t, dense), packed) {
				t.Error("the packed bytes depend on the file system")
			}

			dir := t.TempDir()
			archive := filepath.Join(dir, "disk.tar")
			if err := os.WriteFile(archive, packed, 0o600); err != nil {
				t.Fatal(err)
			}
			_ = sh(t, "tar", "-xS", "-f", archive, "-C", dir)
			if digest(t, filepath.Join(dir, "disk.raw")) != want {
				t.Error("GNU tar makes another image of it")
			}
			if out := sh(t, "tar", "-tv", "-f", archive); !strings.Contains(out, strconv.FormatInt(c.size, 10)) || !strings.HasSuffix(out, " disk.raw\n") {
				t.Error(out)
			}

			r := tar.NewReader(bytes.NewReader(packed))
			h, err := r.Next()
			if err != nil || h.Name != "disk.raw" || h.Size != c.size {
				t.Fatalf("archive/tar: %+v, %v", h, err)
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, raw) {
				t.Errorf("archive/tar reads another image: %v", err)
			}
			if _, err := r.Next(); !errors.Is(err, io.EOF) {
				t.Errorf("archive/tar: %v after the image", err)
			}

			out := filepath.Join(t.TempDir(), "out")
			if err := Unpack(t.Context(), iotest.HalfReader(bytes.NewReader(packed)), out); err != nil {
				t.Fatal(err)
			}
			if digest(t, out) != want {
				t.Error("Unpack makes another image of it")
			}
			if used(t, out) > int64(len(packed))+8192 {
				t.Errorf("%d bytes on the host's disk for %d packed", used(t, out), len(packed))
			}
		})
	}
}

// A store reads the packed disk twice, and its digest is that of Pack.
func TestStore(t *testing.T) {
	for name, c := range images {
		path := sparse(t, c.size, c.parts)
		s := &twice{t: t}
		if _, err := Store(t.Context(), s, path); err != nil || !bytes.Equal(s.got, pack(t, path)) {
			t.Errorf("%s: %d bytes, %v", name, len(s.got), err)
		}
		if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
			t.Errorf("%s: left %v, %v", name, entries, err)
		}
	}
	path := sparse(t, mebi, map[int64]string{0: "x", mebi - 1: "y"})
	if _, err := Store(t.Context(), &twice{t: t, between: func() error { return os.Truncate(path, 512) }}, path); !errors.Is(err, errShrunk) {
		t.Errorf("a disk that shrinks: %v", err)
	}
}

// twice is a store that keeps what it is given.
type twice struct {
	step.Store
	t       *testing.T
	between func() error
	got     []byte
}

func (s *twice) Put(_ context.Context, r io.ReadSeeker) (a step.Artifact, err error) {
	for i := range 2 {
		if i == 1 && s.between != nil {
			err = s.between()
		}
		_, sought := r.Seek(0, io.SeekStart)
		got, read := io.ReadAll(iotest.HalfReader(r))
		if err := errors.Join(err, sought, read); err != nil {
			return a, err
		}
		if i == 1 && !bytes.Equal(got, s.got) {
			s.t.Error("the second reading differs")
		}
		s.got = got
	}
	return a, nil
}

// A real disk goes through, and what is packed is as large as its content.
func TestPackDisk(t *testing.T) {
	makes(t, UEFI)
	const content = 10_000_000
	path := write(t, UEFI, Boot{Kernel: file(t, content), ABI: abiFor(UEFI)}, 1<<30)
	packed := pack(t, path)
	if len(packed) > content+2*mebi {
		t.Errorf("%d bytes packed", len(packed))
	}
	out := filepath.Join(t.TempDir(), "out")
	if err := Unpack(t.Context(), bytes.NewReader(packed), out); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(pack(t, out), packed) {
		t.Error("it came back as another one")
	}
	if info, err := os.Stat(out); err != nil || info.Size() != 1<<30 || used(t, out) > content+2*mebi {
		t.Errorf("%v, %v, %d bytes on the host's disk", info, err, used(t, out))
	}
}

// With more spans than the list may have the grain grows.
func TestPackOfManyPieces(t *testing.T) {
	const pieces, every = maxSpans + 1, 4 * grain
	path := sparse(t, pieces*every, nil)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	var places []int64
	for i := range int64(pieces) {
		at := i * every
		if i > pieces/2 {
			at += grain // off the larger grain
		}
		if _, err := f.WriteAt([]byte{1}, at); err != nil {
			t.Fatal(err)
		}
		places = append(places, at)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	packed := pack(t, path)
	out := filepath.Join(t.TempDir(), "out")
	if err := Unpack(t.Context(), bytes.NewReader(packed), out); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(pack(t, out), packed) {
		t.Error("it came back as another one")
	}
	r := tar.NewReader(bytes.NewReader(packed))
	if h, err := r.Next(); err != nil || h.Size != pieces*every {
		t.Fatalf("archive/tar: %v, %v", h, err)
	}
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range places {
		if got[at] != 1 {
			t.Fatalf("the piece at %d is gone", at)
		}
	}
	if n := bytes.Count(got, []byte{1}); n != pieces {
		t.Errorf("%d pieces", n)
	}
}

func TestSpanListIsTheSmallestGrain(t *testing.T) {
	list := spanList{grain: grain}
	for i := range int64(maxSpans) {
		list.add(i * 2 * grain)
	}
	if list.grain != grain || len(list.spans) != maxSpans {
		t.Errorf("%d spans of %d", len(list.spans), list.grain)
	}
	list.add(maxSpans * 2 * grain)
	if all := list.bytes(1 << 40); list.grain != 2*grain || len(all) != 1 || all[0] != (span{0, (maxSpans + 1) * 2 * grain}) {
		t.Errorf("%v of %d", all, list.grain)
	}
}

func TestPackRefuses(t *testing.T) {
	huge := sparse(t, 512, nil)
	if err := os.Truncate(huge, maxSize+512); err != nil {
		t.Skip(err) // some file systems have no files of this size
	}
	for path, kind := range map[string]step.Kind{
		filepath.Join(t.TempDir(), "gone"): step.NotFound,
		t.TempDir():                        step.InvalidSpec,
		sparse(t, 0, nil):                  step.InvalidSpec,
		sparse(t, 1000, nil):               step.InvalidSpec,
		huge:                               step.InvalidSpec,
	} {
		_ = wantError(t, Pack(t.Context(), io.Discard, path), kind, "")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Pack(ctx, io.Discard, sparse(t, mebi, map[int64]string{0: "x"})); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestUnpackRefuses(t *testing.T) {
	packed := pack(t, sparse(t, mebi, map[int64]string{8192: "x", 90_000: "y"}))
	change := func(old, now string) []byte {
		if !bytes.Contains(packed, []byte(old)) {
			t.Fatalf("no %q in it", old)
		}
		return bytes.Replace(packed, []byte(old), []byte(now), 1)
	}
	two := append(bytes.TrimRight(packed, "\x00"), make([]byte, 512)...)
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	err := w.WriteHeader(&tar.Header{Name: "disk.raw", Size: 512, Mode: 0o644})
	_, written := w.Write(make([]byte, 512))
	if err := errors.Join(err, written, w.Close()); err != nil {
		t.Fatal(err)
	}
	huge, err := tarHead(maxSize+512, 512)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"no tar":             bytes.Repeat([]byte("x"), 5000),
		"zeros":              make([]byte, 5000),
		"not sparse":         plain.Bytes(),
		"another version":    change("minor=0", "minor=1"),
		"another name":       change("name=disk.raw", "name=../x.raw"),
		"another owner":      change("0000000\x000000000\x00", "0000001\x000000000\x00"),
		"too large":          append(huge, make([]byte, 512)...),
		"size of no disk":    change("realsize=1048576", "realsize=1048577"),
		"piece beyond end":   change("\n1048576\n0\n", "\n1048577\n0\n"),
		"pieces in disorder": change("\n86016\n", "\n10240\n"),
		"pieces not blocks":  change("\n8192\n", "\n8193\n"),
		"pieces overlap":     change("3\n8192\n4096\n", "3\n8192\n8999\n"),
		"number malformed":   change("3\n8192\n", "3\n+192\n"),
		"number endless":     change("3\n8192\n4096\n86016\n", "311111111111111111\n"),
		"many pieces":        change("3\n8192\n", "9999999999999"),
		"padding":            append(bytes.Clone(packed[:len(packed)-1]), 1),
		"padding of a list":  change("\n0\n\x00", "\n0\nx"),
		"more members":       append(two, packed...),
		"something after it": append(bytes.Clone(packed), 0),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			err := Unpack(t.Context(), bytes.NewReader(data), filepath.Join(dir, "disk"))
			_ = wantError(t, err, step.Conflict, "")
			empty(t, dir)
		})
	}
	dir := t.TempDir()
	for n := range len(packed) {
		if n > 3000 && n%97 != 0 && n%tarBlock > 1 {
			continue
		}
		err := Unpack(t.Context(), bytes.NewReader(packed[:n]), filepath.Join(dir, "disk"))
		if e := wantError(t, err, "", ""); e.Error() != "unpack disk: the packed disk is cut off" {
			t.Errorf("cut at %d: %v", n, e)
		}
	}
	empty(t, dir)
}

func TestUnpackFails(t *testing.T) {
	packed := pack(t, sparse(t, mebi, map[int64]string{0: "x"}))
	broken := errors.New("the line is dead")
	dir := t.TempDir()
	path := filepath.Join(dir, "disk")
	if err := Unpack(t.Context(), io.MultiReader(bytes.NewReader(packed[:3000]), iotest.ErrReader(broken)), path); !errors.Is(err, broken) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Unpack(ctx, bytes.NewReader(packed), path); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	err := Unpack(t.Context(), bytes.NewReader(packed), filepath.Join(dir, "gone", "disk"))
	_ = wantError(t, err, step.NotFound, "")
	empty(t, dir)
}

// What an archive says does not become memory.
func TestUnpackMemory(t *testing.T) {
	packed := pack(t, sparse(t, 1<<40, map[int64]string{1 << 39: strings.Repeat("x", 20_000_000)}))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := Unpack(t.Context(), bytes.NewReader(packed), filepath.Join(t.TempDir(), "disk")); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 2*mebi {
		t.Errorf("%d bytes of memory", got)
	}
}

func FuzzUnpack(f *testing.F) {
	for _, c := range images {
		if c.size <= mebi {
			f.Add(pack(f, sparse(f, c.size, c.parts)))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		path := filepath.Join(dir, "disk")
		if err := Unpack(t.Context(), bytes.NewReader(data), path); err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q is not one line", err)
			}
			empty(t, dir)
			return
		}
		// What came out is a disk: it goes in again, and comes out the same.
		packed, again := pack(t, path), filepath.Join(dir, "again")
		if err := Unpack(t.Context(), bytes.NewReader(packed), again); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(pack(t, again), packed) {
			t.Error("it came back as another one")
		}
	})
}
