package tree

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A build is another one if a program that it uses is another, whatever else changes in
// PATH.
func TestCacheFollowsPrograms(t *testing.T) {
	for name, c := range map[string]struct {
		change func(dir string) error
		built  bool
	}{
		"another order": {func(string) error {
			dirs := filepath.SplitList(os.Getenv("PATH"))
			return os.Setenv("PATH", strings.Join(append(dirs[1:], dirs[0]), ":"))
		}, false},
		"a further folder": {func(dir string) error {
			return errors.Join(script(dir, "dune", "echo no use"), os.Setenv("PATH", dir+"/no-such-folder:"+dir+":"+os.Getenv("PATH")))
		}, false},
		"the same through a link": {func(dir string) error { return link(dir, "my-cc") }, false},
		"another compiler":        {func(dir string) error { return script(dir, "gcc", "exit 1") }, true},
		"another make":            {func(dir string) error { return script(dir, "make", "exec /usr/bin/make") }, true},
		"what the Makefile names": {func(dir string) error { return script(dir, "my-cc", `exec gcc "$@" # 2`) }, true},
		"what only the log names": {func(dir string) error { return script(dir, "my-strip", "exit 0 # 2") }, true},
		"what an argument names":  {func(dir string) error { return script(dir, "my-sign", "exit 0 # 2") }, true},
		"an upgrade":              {func(string) error { return touch("my-cc") }, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			base, before := t.TempDir(), t.TempDir()
			for program, text := range map[string]string{"my-cc": `exec gcc "$@"`, "my-strip": "exit 0", "my-sign": "exit 0"} {
				if err := script(base, program, text); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", before+":"+base+":"+os.Getenv("PATH"))
			o := makeIt()
			o.Build = append(o.Build, []string{"sh", "-c", "my-sign"})
			spec := b.Spec(o, with(project, "Makefile", strings.Replace(makefile("@sh deep/run"), "gcc ", "my-cc ", 1), "deep/run", "my-strip && echo ran my-strip"))
			if k, err := b.deploy(t.Context(), spec); err != nil || k.Cached {
				t.Fatal(k, err)
			}
			if k, err := b.deploy(t.Context(), spec); err != nil || !k.Cached {
				t.Fatal(k, err)
			}
			if err := c.change(before); err != nil {
				t.Fatal(err)
			}
			src, err := b.toolchain().Configure(t.Context(), spec)
			if err != nil || (src.Tree != "") != c.built {
				t.Errorf("built %t, want %t (%v)", src.Tree != "", c.built, err)
			}
		})
	}
}

func script(dir, name, text string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o700)
}

func link(dir, name string) error {
	path, err := EnvironOf(nil).LookPath(name)
	if err != nil {
		return err
	}
	return os.Symlink(path, filepath.Join(dir, name))
}

func touch(name string) error {
	path, err := EnvironOf(nil).LookPath(name)
	if err != nil {
		return err
	}
	later := time.Now().Add(time.Hour)
	return os.Chtimes(path, later, later)
}
