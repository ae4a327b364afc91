package source

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/morgana-deploy/morgana/step"
)

func TestUnpackTrustsNobody(t *testing.T) {
	reg := func(name string) *tar.Header { return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
	link := func(name, to string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	dir := func(name string) *tar.Header { return &tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755} }
	for name, c := range map[string]struct {
		headers []*tar.Header
		words   string
	}{
		"absolute":               {[]*tar.Header{reg("/etc/x")}, `"/etc/x" leads out`},
		"dot dot":                {[]*tar.Header{reg("../x")}, `"../x" leads out`},
		"dot dot within":         {[]*tar.Header{reg("a/../../x")}, "leads out"},
		"dot dot alone":          {[]*tar.Header{dir("..")}, "leads out"},
		"dot":                    {[]*tar.Header{dir("./")}, "leads out"},
		"empty":                  {[]*tar.Header{reg("")}, "leads out"},
		"not clean":              {[]*tar.Header{reg("a//b")}, "leads out"},
		"twice":                  {[]*tar.Header{reg("a"), reg("a")}, "a comes twice"},
		"file then folder":       {[]*tar.Header{reg("a"), reg("a/b")}, "a comes twice"},
		"folder then file":       {[]*tar.Header{reg("a/b"), reg("a")}, "a comes twice"},
		"folder then link":       {[]*tar.Header{reg("a/b"), link("a", "c")}, "a comes twice"},
		"through a link":         {[]*tar.Header{dir("d"), link("a", "d"), reg("a/b")}, "a comes twice"},
		"onto a link":            {[]*tar.Header{link("a", "b"), reg("a")}, "a comes twice"},
		"link twice":             {[]*tar.Header{link("a", "b"), link("a", "c")}, "a comes twice"},
		"link out":               {[]*tar.Header{link("a", "../x")}, "link a leads out"},
		"absolute link":          {[]*tar.Header{link("d/a", "/etc/passwd")}, "link d/a leads out"},
		"link out by another":    {[]*tar.Header{link("d/e/up", "../.."), link("d/e/a", "up/../x")}, "link d/e/a leads out"},
		"link to nothing":        {[]*tar.Header{link("a", "")}, "link a leads out"},
		"hard link":              {[]*tar.Header{reg("a"), {Typeflag: tar.TypeLink, Name: "b", Linkname: "a"}}, "b is neither"},
		"device":                 {[]*tar.Header{{Typeflag: tar.TypeBlock, Name: "b"}}, "b is neither"},
		"pipe":                   {[]*tar.Header{{Typeflag: tar.TypeFifo, Name: "b"}}, "b is neither"},
		"a name without end":     {[]*tar.Header{reg(strings.Repeat("a/", 3000) + "b")}, "a name of 6001 bytes"},
		"a link without end":     {[]*tar.Header{link("a", strings.Repeat("a/", 3000))}, "a name of 6000 bytes"},
		"sparse, as it could be": {[]*tar.Header{{Typeflag: tar.TypeGNUSparse, Name: "b"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for _, h := range c.headers {
				if h.Typeflag == tar.TypeGNUSparse { // the writer has none
					sparse := reg(h.Name)
					if err := w.WriteHeader(sparse); err != nil {
						t.Fatal(err)
					}
					raw := b.Bytes()
					raw[156] = tar.TypeGNUSparse
					sum(raw)
					continue
				}
				if err := w.WriteHeader(h); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			outer := t.TempDir()
			folder := filepath.Join(outer, "1", "2")
			if err := os.MkdirAll(folder, 0o755); err != nil {
				t.Fatal(err)
			}
			wantError(t, Unpack(&b, folder), step.InvalidSpec, c.words)
			var outside []string
			_ = filepath.WalkDir(outer, func(path string, d fs.DirEntry, err error) error {
				if path == folder {
					return fs.SkipDir
				}
				outside = append(outside, path)
				return err
			})
			if !slices.Equal(outside, []string{outer, filepath.Join(outer, "1")}) {
				t.Errorf("outside: %q", outside)
			}
		})
	}
}

// sum sets the checksum of a raw header anew.
func sum(header []byte) {
	copy(header[148:156], "        ")
	n := 0
	for _, c := range header[:512] {
		n += int(c)
	}
	for i := 5; i >= 0; i-- {
		header[148+i] = byte('0' + n&7)
		n >>= 3
	}
	header[154] = 0
}

// withRecords is an archive of a file "b" with PAX records that archive/tar
// would not write.
func withRecords(t *testing.T, records string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range []struct{ name, body string }{{"records", records}, {"b", "0\n" + strings.Repeat("\x00", 510)}} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Size: int64(len(f.body)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b.Bytes()[156] = tar.TypeXHeader
	sum(b.Bytes())
	return &b
}

func TestUnpackRefusesHugeThings(t *testing.T) {
	// A file of 1 GB in a few bytes.
	sparse := "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n21 GNU.sparse.name=b\n34 GNU.sparse.realsize=1000000000\n"
	wantError(t, Unpack(withRecords(t, sparse), t.TempDir()), step.InvalidSpec, "b is a sparse file")
	wantError(t, Unpack(withRecords(t, strings.Repeat("x", 2<<20)), t.TempDir()), step.InvalidSpec, "not a source archive")
}

func TestUnpackReadsToTheEnd(t *testing.T) {
	b := archive(t, tree(t, project))
	late := errors.New("the digest is another one")
	err := Unpack(io.MultiReader(bytes.NewReader(b), iotest.ErrReader(late)), t.TempDir())
	if !errors.Is(err, late) {
		t.Errorf("got %v", err)
	}
	err = Unpack(bytes.NewReader(b[:len(b)/2]), t.TempDir())
	wantError(t, err, "", "unexpected EOF")
	wantError(t, Unpack(strings.NewReader(strings.Repeat("no tar ", 200)), t.TempDir()), step.InvalidSpec, "not a source archive")
}
