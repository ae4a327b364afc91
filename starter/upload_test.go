package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/step"
)

// A warning names the size of a large source and its largest file.
func TestLargeSource(t *testing.T) {
	inFolder(t, map[string]string{"main.c": "int x;", "data/disk.img": "", config.Filename: "app: a\ntoolchain: {kind: command, build: [[make]]}\ntargets: {dev: {kind: qemu}}\n"})
	t.Setenv("MORGANA_STATE", t.TempDir())
	settings, err := config.LoadSettings(nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := config.Load("", nil)
	if err != nil {
		t.Fatal(err)
	}
	for size, want := range map[int64]string{
		largeSource / 2: "",
		largeSource:     "warning: the source has 100 MiB, its largest file, data/disk.img, has 100 MiB; name in .gitignore what the build does not need\n",
	} {
		if err := os.Truncate(filepath.Join("data", "disk.img"), size); err != nil {
			t.Fatal(err)
		}
		var e bytes.Buffer
		origin, err := (&cli{err: &e}).upload(t.Context(), settings, p, nil, putInto)
		said := regexp.MustCompile("(?m)^.* (packing|reading|storing) the source\n").ReplaceAllString(e.String(), "") // on a slow host
		if err != nil || origin.Archive.Size < size || said != want {
			t.Errorf("%d bytes: %+v, %v, said %q", size, origin, err, said)
		}
	}
}

// A comment in the project file does not change the source.
func TestProjectFileIsNoSource(t *testing.T) {
	const text = "app: a\ntoolchain: {kind: command, build: [[make]]}\ntargets: {dev: {kind: qemu}}\n"
	inFolder(t, map[string]string{"main.c": "int x;", config.Filename: text, "prod.yaml": text})
	t.Setenv("MORGANA_STATE", t.TempDir())
	settings, err := config.LoadSettings(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", "prod.yaml"} {
		p, err := config.Load(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		var digests []string
		for _, more := range []string{"", "# a comment\n"} {
			if err := os.WriteFile(p.File, []byte(text+more), 0o600); err != nil {
				t.Fatal(err)
			}
			origin, err := (&cli{err: io.Discard}).upload(t.Context(), settings, p, nil, putInto)
			if err != nil {
				t.Fatal(err)
			}
			digests = append(digests, origin.Archive.SHA256)
		}
		if digests[0] != digests[1] {
			t.Errorf("-f %q: digests %s", path, digests)
		}
	}
}

func TestProgressIsShown(t *testing.T) {
	work := func(c *cli, after time.Duration) {
		ctx, end := c.showProgress(t.Context(), after, 0)
		defer end()
		for _, note := range []string{"reading it", "storing it"} {
			for _, done := range []int64{2 << 10, 4 << 10} {
				step.Report(ctx, step.Progress{Done: done, Total: 4 << 10, Unit: "bytes", Note: note})
			}
		}
		step.Report(ctx, step.Progress{Done: 3 << 20, Unit: "bytes", Note: "packing"})
	}
	var e bytes.Buffer
	work(&cli{err: &e}, time.Hour)
	if e.Len() > 0 {
		t.Errorf("after a moment: %q", e.String())
	}
	work(&cli{err: &e}, 0)
	if want := "50% of 4 KiB reading it\n100% of 4 KiB reading it\n50% of 4 KiB storing it\n100% of 4 KiB storing it\n3 MiB packing\n"; e.String() != want {
		t.Errorf("got %q, want %q", e.String(), want)
	}
	ours, theirs := pseudoterminal(t)
	work(&cli{err: &output{w: theirs}}, 0)
	_ = theirs.Close()
	b, _ := io.ReadAll(ours) // ends with EIO
	if got := string(b); !strings.HasPrefix(got, "\r50% of 4 KiB reading it\x1b[K\r100%") || !strings.HasSuffix(got, "\r3 MiB packing\x1b[K\r\x1b[K") {
		t.Errorf("on a terminal: %q", got)
	}
}
