package command

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

func TestFromSourceToKernel(t *testing.T) {
	b := newBench(t)
	o := makeIt()
	o.Configure = [][]string{{"./setup", "a b"}, {"sh", "-c", "echo second"}}
	o.Files = []string{"conf/hello.xl.in"}
	spec := b.spec(o, with(project, "setup!", "#!/bin/sh\necho setting up \"$1\" > made\ncat made\n", "conf/hello.xl.in", "memory=@MEMORY@\n"))
	tc := New(b.site)
	src, err := tc.Configure(b.context(t.Context()), spec)
	if err != nil {
		t.Fatal(err)
	}
	if src.Host != "here" || src.Tree == "" {
		t.Errorf("source is %+v", src)
	}
	log := b.text(src.Log)
	for _, want := range []string{`./setup "a b"`, "setting up a b\n", "second\n", "exit status 0"} {
		if !strings.Contains(log, want) {
			t.Errorf("configure's log lacks %q:\n%s", want, log)
		}
	}
	k, err := tc.Build(b.context(t.Context()), src)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(k.ABIs, "pvh") || k.Cached {
		t.Errorf("kernel is %+v", k)
	}
	if !strings.HasPrefix(b.text(&k.File), "\x7fELF") {
		t.Error("the kernel is not the ELF file that was built")
	}
	if a, ok := step.FileNamed(k.Files, "hello.xl.in"); !ok || b.text(&a) != "memory=@MEMORY@\n" {
		t.Errorf("files are %+v", k.Files)
	}
	if log := b.text(k.Log); !strings.Contains(log, "compiling hello\n") {
		t.Errorf("build's log lacks the output:\n%s", log)
	}
	gone, err := tc.Clean(t.Context(), step.Spec{Tags: step.Tags{App: "hello", Target: "dev"}})
	if err != nil || len(gone.Removed) != 1 {
		t.Fatalf("clean: %+v, %v", gone, err)
	}
	b.wantNothing()
	if gone, err := tc.Clean(t.Context(), spec); err != nil || len(gone.Removed) != 0 {
		t.Errorf("second clean: %+v, %v", gone, err)
	}
}

func TestOptionsRefused(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		options, field string
		kind           step.Kind
		text           string
	}{
		{`{"build":[["make"]],"kernel":"k","kernal":"x"}`, "kernal", step.InvalidSpec, `did you mean "kernel"?`},
		{`{"kernel":"k"}`, "build", step.InvalidSpec, "[[make]]"},
		{`{"build":[[]],"kernel":"k"}`, "build[0]", step.InvalidSpec, "names no program"},
		{`{"build":[["make"],[""]],"kernel":"k"}`, "build[1]", step.InvalidSpec, "names no program"},
		{`{"build":[["make","a\u0000b"]],"kernel":"k"}`, "build[0][1]", step.InvalidSpec, "NUL"},
		{`{"build":[["make"]],"configure":[["x\u0000"]],"kernel":"k"}`, "configure[0][0]", step.InvalidSpec, "NUL"},
		{`{"build":"make","kernel":"k"}`, "build", step.InvalidSpec, "a list"},
		{`{"build":[["make"]]}`, "kernel", step.InvalidSpec, "is missing"},
		{`{"build":[["make"]],"kernel":"../k"}`, "kernel", step.InvalidSpec, "not inside"},
		{`{"build":[["make"]],"kernel":"/k"}`, "kernel", step.InvalidSpec, "not inside"},
		{`{"build":[["make"]],"kernel":"."}`, "kernel", step.InvalidSpec, "not inside"},
		{`{"build":[["make"]],"kernel":"k\u0000"}`, "kernel", step.InvalidSpec, "NUL"},
		{`{"build":[["make"]],"kernel":"k","files":["a/x","b/x"]}`, "files[1]", step.InvalidSpec, `"x"`},
		{`{"build":[["make"]],"kernel":"k","env":{"A B":"x"}}`, "env", step.InvalidSpec, "A B"},
		{`{"build":[["make"]],"kernel":"k","env":{"A":"\u0000"}}`, "env.A", step.InvalidSpec, "NUL"},
		{`{"build":[["make"]],"kernel":"k","timeout":"soon"}`, "timeout", step.InvalidSpec, "soon"},
		{`{"build":[["make"]],"kernel":"k","timeout":"-1h"}`, "timeout", step.InvalidSpec, "-1h"},
		{`{"build":[["./configure"]],"kernel":"k"}`, "build[0]", step.InvalidSpec, "the source has no ./configure"},
		{`{"build":[["./main.c"]],"kernel":"k"}`, "build[0]", step.InvalidSpec, "chmod +x"},
		{`{"build":[["no-such-tool"]],"kernel":"k"}`, "", step.Unsupported, "no-such-tool is not installed"},
		{`{"build":[["/no/such/tool"]],"kernel":"k"}`, "", step.Unsupported, "/no/such/tool is not installed"},
		{`{"build":[["opam"]],"kernel":"k","env":{"PATH":"/nowhere"}}`, "", step.Unsupported, "apt-get install opam"},
	} {
		spec := b.spec(Options{}, project)
		spec.Toolchain.Options = json.RawMessage(c.options)
		_, err := b.deploy(t.Context(), spec)
		if e := wantError(t, err, c.kind, c.text); e.Field != c.field {
			t.Errorf("%s: field is %q, want %q", c.options, e.Field, c.field)
		}
	}
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
		spec := b.spec(makeIt(), project)
		change(&spec)
		if _, err := b.deploy(t.Context(), spec); wantError(t, err, step.InvalidSpec).Field != field {
			t.Errorf("field of %v is not %q", err, field)
		}
	}
	b.wantNothing()
	spec := b.spec(makeIt(), project)
	spec.Origin.Archive.SHA256 = strings.Repeat("0", 64)
	spec.Origin.Archive.URI = strings.Replace(spec.Origin.Archive.URI, filepath.Base(spec.Origin.Archive.URI), spec.Origin.Archive.SHA256, 1)
	_, err := b.deploy(t.Context(), spec)
	_ = wantError(t, err, step.NotFound, "unpack source")
}

func TestBuildFails(t *testing.T) {
	b := newBench(t)
	const mkdir = "mkdir -p dist; "
	for name, c := range map[string]struct {
		options Options
		files   map[string]string
		texts   []string
	}{
		"exit status":     {makeIt(), with(project, "main.c", "int x = oops;"), []string{"build: make: exit status 2", "oops", "whole log: "}},
		"signal":          {sh("kill -9 $$"), project, []string{"signal: killed", "memory"}},
		"timeout":         {Options{Build: [][]string{{"sh", "-c", "echo so far; sleep 60"}}, Kernel: "k", Timeout: "300ms"}, project, []string{"not done after 300ms", "so far"}},
		"made on the way": {Options{Build: [][]string{{"true"}, {"./later"}}, Kernel: "k"}, project, []string{"./later: cannot be run", "no such file"}},
		"nothing":         {sh("echo ready"), project, []string{"made no dist/hello", "no files at all", "whole log: "}},
		"other place":     {sh(mkdir + "echo a > aaa; echo k > hello"), project, []string{"made no dist/hello", "they made:\n  hello\n  aaa"}},
		"other name":      {sh(mkdir + "echo a > aaa; echo k > dist/helo"), project, []string{"they made:\n  dist/helo\n  aaa"}},
		"a kernel":        {Options{Build: [][]string{{"make"}, {"touch", "aaa"}, {"mv", "dist/hello", "zzzzzzzz"}}, Kernel: "k"}, project, []string{"they made:\n  zzzzzzzz (a kernel)\n  aaa"}},
		"untouched":       {sh(":"), with(project, "dist/hello", "old kernel"), []string{"left dist/hello untouched", ".gitignore"}},
		"folder":          {sh("mkdir -p dist/hello"), project, []string{"take dist/hello: is not a regular file"}},
		"pipe":            {sh(mkdir + "mkfifo dist/hello"), project, []string{"take dist/hello: is not a regular file"}},
		"escape":          {sh(mkdir + "ln -s /bin/true dist/hello"), project, []string{"take dist/hello: ", "inside the source folder"}},
		"no kernel":       {sh(mkdir + "echo text > dist/hello"), project, []string{"build: dist/hello: this is text, not a kernel", "ELF", "they made:\n  dist/hello"}},
		"no file":         {Options{Build: [][]string{{"make"}}, Kernel: "dist/hello", Files: []string{"hello.xl"}}, project, []string{"take hello.xl: no such file"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.deploy(t.Context(), b.spec(c.options, c.files))
			_ = wantError(t, err, step.BuildFailed, c.texts...)
		})
	}
	o := makeIt()
	o.Configure = [][]string{{"sh", "-c", "for i in $(seq 50); do echo line $i; done; exit 3"}}
	_, err := b.deploy(t.Context(), b.spec(o, project))
	e := wantError(t, err, step.BuildFailed, "configure: sh", "exit status 3", "line 31\n", "line 50\n")
	if strings.Contains(e.Hint, "line 30\n") {
		t.Errorf("more than 20 lines:\n%s", e.Hint)
	}
}

// A kernel that came with the source may be built again, and one may be made
// by configure.
func TestKernelIsNew(t *testing.T) {
	b := newBench(t)
	if _, err := b.deploy(t.Context(), b.spec(makeIt(), with(project, "dist/hello", "old kernel"))); err != nil {
		t.Error("built over the source's:", err)
	}
	o := makeIt()
	o.Configure, o.Build = o.Build, [][]string{{"true"}}
	if _, err := b.deploy(t.Context(), b.spec(o, project)); err != nil {
		t.Error("made by configure:", err)
	}
	o = makeIt()
	o.Build = append(o.Build, []string{"sh", "-c", "mv dist/hello real; ln -s ../real dist/hello"})
	if _, err := b.deploy(t.Context(), b.spec(o, project)); err != nil {
		t.Error("a link inside the tree:", err)
	}
}

func TestTreeGone(t *testing.T) {
	b := newBench(t)
	tc := New(b.site)
	src, err := tc.Configure(t.Context(), b.spec(makeIt(), project))
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
	if e := wantError(t, err, step.TreeGone, src.Tree); e == nil {
		t.Errorf("after Clean: %v", err)
	}
	b.wantNothing()
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
	src, err := New(b.site).Configure(t.Context(), b.spec(o, project))
	if err != nil {
		t.Fatal(err)
	}
	log := b.text(src.Log)
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
	spec := b.spec(makeIt(), with(project, "Makefile", makefile("@printf '\\033[32mgreen\\033[0m\\n'; sleep 0.7; printf 'half '; sleep 0.7")))
	begun := time.Now()
	if _, err := b.deploy(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	notes := b.notes()
	for _, want := range []string{"make", "green", "half"} {
		if !slices.Contains(notes, want) {
			t.Errorf("%q was not reported, only %q", want, notes)
		}
	}
	if most := 4 + int(time.Since(begun)/tickTime); len(notes) > most {
		t.Errorf("%d reports in %s", len(notes), time.Since(begun))
	}
}
