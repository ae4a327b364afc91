package files

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestRead(t *testing.T) {
	folder := t.TempDir()
	path := func(name string) string { return filepath.Join(folder, name) }
	for name, text := range map[string]string{"empty": "", "full": strings.Repeat("x", 1024), "more": strings.Repeat("x", 1025)} {
		if err := os.WriteFile(path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("full", path("link")), os.Mkdir(path("folder"), 0o700), syscall.Mkfifo(path("pipe"), 0o600),
		os.WriteFile(path("huge"), nil, 0o600), os.Truncate(path("huge"), 1<<40)); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close() //nolint:errcheck // only read
	for name, c := range map[string]struct {
		size int
		err  string
	}{
		"empty": {0, ""}, "full": {1024, ""}, "link": {1024, ""},
		"more":      {0, "read NAME: more than 1 KiB"},
		"huge":      {0, "read NAME: more than 1 KiB"},
		"folder":    {0, "open NAME: is a directory"},
		"pipe":      {0, "open NAME: not a regular file"},
		"none":      {0, "open NAME: no such file or directory"},
		"/dev/zero": {0, "open NAME: not a regular file"},
	} {
		at := name
		if !filepath.IsAbs(at) {
			at = path(name)
			f, _, err := OpenIn(root, name)
			if err == nil {
				_ = f.Close()
			}
			if fits := c.err == "" || strings.Contains(c.err, "more"); fits != (err == nil) {
				t.Errorf("%s in the folder: %v", name, err)
			}
		}
		// Read would hang with the reader of a pipe.
		done := make(chan struct{})
		go func() {
			defer close(done)
			data, err := Read(at, 1024)
			if got := strings.ReplaceAll(text(err), at, "NAME"); got != c.err || len(data) != c.size {
				t.Errorf("%s: %d bytes, %q, want %d, %q", name, len(data), got, c.size, c.err)
			}
		}()
		select {
		case <-done:
		case <-time.After(2 * time.Minute):
			t.Fatalf("%s: waits", name)
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
