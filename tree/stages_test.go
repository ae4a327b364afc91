package tree

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

func TestBuildFails(t *testing.T) {
	b := newBench(t)
	const mkdir = "mkdir -p dist; "
	for name, c := range map[string]struct {
		options options
		files   map[string]string
		texts   []string
	}{
		"exit status":     {makeIt(), with(project, "main.c", "int x = oops;"), []string{"build: make: exit status 2", "oops", "whole log: "}},
		"signal":          {sh("kill -9 $$"), project, []string{"signal: killed", "memory"}},
		"timeout":         {options{Build: [][]string{{"sh", "-c", "echo so far; sleep 600"}}, Kernel: "k", Timeout: 2 * time.Second}, project, []string{"not done after 2s", "so far"}},
		"made on the way": {options{Build: [][]string{{"true"}, {"./later"}}, Kernel: "k"}, project, []string{"./later: cannot be run", "no such file"}},
		"nothing":         {sh("echo ready"), project, []string{"made no dist/hello", "no files at all", "whole log: "}},
		"other place":     {sh(mkdir + "echo a > aaa; echo k > hello"), project, []string{"made no dist/hello", "they made:\n  hello\n  aaa"}},
		"other name":      {sh(mkdir + "echo a > aaa; echo k > dist/helo"), project, []string{"they made:\n  dist/helo\n  aaa"}},
		"a kernel":        {options{Build: [][]string{{"make"}, {"touch", "aaa"}, {"mv", "dist/hello", "zzzzzzzz"}}, Kernel: "k"}, project, []string{"they made:\n  zzzzzzzz (a kernel)\n  aaa"}},
		"untouched":       {sh(":"), with(project, "dist/hello", "old kernel"), []string{"left dist/hello untouched", ".gitignore"}},
		"folder":          {sh("mkdir -p dist/hello"), project, []string{"take dist/hello: is a directory"}},
		"pipe":            {sh(mkdir + "mkfifo dist/hello"), project, []string{"take dist/hello: not a regular file"}},
		"escape":          {sh(mkdir + "ln -s /bin/true dist/hello"), project, []string{"take dist/hello: leads out of the source folder", "inside the source folder"}},
		"no kernel":       {sh(mkdir + "echo text > dist/hello"), project, []string{"build: dist/hello: this is text, not a kernel", "ELF", "they made:\n  dist/hello"}},
		"no file":         {options{Build: [][]string{{"make"}}, Kernel: "dist/hello", Files: []File{{Path: "hello.xl", Name: "hello.xl"}}}, project, []string{"take hello.xl: no such file"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.deploy(t.Context(), b.Spec(c.options, c.files))
			_ = wantError(t, err, step.BuildFailed, c.texts...)
		})
	}
	o := makeIt()
	o.Configure = [][]string{{"sh", "-c", "for i in $(seq 50); do echo line $i; done; exit 3"}}
	_, err := b.deploy(t.Context(), b.Spec(o, project))
	e := wantError(t, err, step.BuildFailed, "configure: sh", "exit status 3", "line 31\n", "line 50\n")
	if strings.Contains(e.Hint, "line 30\n") {
		t.Errorf("more than 20 lines:\n%s", e.Hint)
	}
}

// A kernel that came with the source may be built again, and one may be made
// by configure.
func TestKernelIsNew(t *testing.T) {
	b := newBench(t)
	if _, err := b.deploy(t.Context(), b.Spec(makeIt(), with(project, "dist/hello", "old kernel"))); err != nil {
		t.Error("built over the source's:", err)
	}
	o := makeIt()
	o.Configure, o.Build = o.Build, [][]string{{"true"}}
	if _, err := b.deploy(t.Context(), b.Spec(o, project)); err != nil {
		t.Error("made by configure:", err)
	}
	o = makeIt()
	o.Build = append(o.Build, []string{"sh", "-c", "mv dist/hello real; ln -s ../real dist/hello"})
	if _, err := b.deploy(t.Context(), b.Spec(o, project)); err != nil {
		t.Error("a link inside the tree:", err)
	}
}

func TestTreeGone(t *testing.T) {
	b := newBench(t)
	tc := b.toolchain()
	src, err := tc.Configure(t.Context(), b.Spec(makeIt(), project))
	if err != nil {
		t.Fatal(err)
	}
	other := src
	other.Tree = t.TempDir()
	_, err = tc.Build(t.Context(), other)
	if e := wantError(t, err, step.TreeGone); e == nil {
		t.Errorf("a foreign folder: %v", err)
	}
	if _, err := tc.Clean(t.Context(), src.Spec); err != nil {
		t.Fatal(err)
	}
	_, err = tc.Build(t.Context(), src)
	if e := wantError(t, err, step.TreeGone, "find the configured tree: "+src.Tree+" is not there"); e == nil {
		t.Errorf("after Clean: %v", err)
	}
	b.WantNothing()
}

func TestSpecRefused(t *testing.T) {
	b := newBench(t)
	for field, change := range map[string]func(*step.Spec){
		"app":        func(s *step.Spec) { s.App = "../x" },
		"target":     func(s *step.Spec) { s.Target = "" },
		"life":       func(s *step.Spec) { s.Life = "../.." },
		"generation": func(s *step.Spec) { s.Generation = 0 },
		"toolchain":  func(s *step.Spec) { s.Origin.Archive = nil },
	} {
		spec := b.Spec(makeIt(), project)
		change(&spec)
		if _, err := b.deploy(t.Context(), spec); wantError(t, err, step.InvalidSpec).Field != field {
			t.Errorf("field of %v is not %q", err, field)
		}
	}
	b.WantNothing()
	spec := b.Spec(makeIt(), project)
	spec.Origin.Archive.SHA256 = strings.Repeat("0", 64)
	spec.Origin.Archive.URI = strings.Replace(spec.Origin.Archive.URI, filepath.Base(spec.Origin.Archive.URI), spec.Origin.Archive.SHA256, 1)
	_, err := b.deploy(t.Context(), spec)
	_ = wantError(t, err, step.NotFound, "unpack source")
}

func TestEnvironment(t *testing.T) {
	b := newBench(t)
	for name, value := range map[string]string{
		"AWS_SECRET_ACCESS_KEY": "s3cret", "MORGANA_TOKEN": "s3cret", "MAKEFLAGS": "-n",
		"https_proxy": "http://ann:s3cret@proxy:3128", "HTTP_PROXY": "http://proxy:3128",
		"OPAMSWITCH": "from-worker", "LC_TIME": "C", "CC": "from-worker",
	} {
		t.Setenv(name, value)
	}
	o := makeIt()
	o.Configure = [][]string{{"env"}, {"sh", "-c", "cat; echo stdin is empty"}}
	o.Env = map[string]string{"CC": "gcc", "OWN": "yes"}
	src, err := b.toolchain().Configure(t.Context(), b.Spec(o, project))
	if err != nil {
		t.Fatal(err)
	}
	log := b.Text(src.Log)
	for _, want := range []string{"\nHTTP_PROXY=http://proxy:3128\n", "\nOPAMSWITCH=from-worker\n", "\nLC_TIME=C\n", "\nCC=gcc\n",
		"\nOWN=yes\n", "\nSOURCE_DATE_EPOCH=0\n", "\nHOME=", "\nPATH=", "\nstdin is empty\n"} {
		if !strings.Contains(log, want) {
			t.Errorf("environment lacks %q", want)
		}
	}
	for _, never := range []string{"s3cret", "MAKEFLAGS", "CC=from-worker"} {
		if strings.Contains(log, never) {
			t.Errorf("environment has %q:\n%s", never, log)
		}
	}
}

func TestProgress(t *testing.T) {
	b := newBench(t)
	gate := filepath.Join(t.TempDir(), "gate-")
	wait := func(name string) string { return "while [ ! -e " + gate + name + " ]; do sleep 0.05; done" }
	spec := b.Spec(makeIt(), with(project, "Makefile",
		makefile(`@printf '\033[32mgreen\033[0m\n'; `+wait("green")+"; printf 'half '; "+wait("half"))))
	begun := time.Now()
	done := make(chan error, 1)
	go func() {
		_, err := b.deploy(t.Context(), spec)
		done <- err
	}()
	for _, want := range []string{"make", "green", "half"} {
		await(t, want, func() bool { return slices.Contains(b.Notes(), want) })
		if err := os.WriteFile(gate+want, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	notes := b.Notes()
	if most := 4 + int(time.Since(begun)/tickTime); len(notes) > most {
		t.Errorf("%d reports in %s", len(notes), time.Since(begun))
	}
}
