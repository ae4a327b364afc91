package command

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/tree/treetest"
)

// project makes about the smallest kernel: an ELF with a PVH note.
var project = map[string]string{
	"Makefile": "all:\n\t@mkdir -p dist; echo compiling hello\n" +
		"\tgcc -nostdlib -static -no-pie -ffreestanding -fcf-protection=none -Wl,--build-id=none -o dist/hello main.c\n",
	"main.c": `
__attribute__((section(".note.Xen"), used, aligned(4)))
static const struct { unsigned name, size, type; char xen[4]; unsigned long entry; }
note = { 4, 8, 18, "Xen", 0x400000 };
void _start(void) { for (;;) ; }
`}

func newBench(t *testing.T) *treetest.Bench {
	need.Tools(t, "make", "gcc", "sh")
	return treetest.New(t, Kind)
}

func makeIt() Options {
	return Options{Build: [][]string{{"make"}}, Kernel: "dist/hello"}
}

func TestFromSourceToKernel(t *testing.T) {
	b := newBench(t)
	o := makeIt()
	o.Configure = [][]string{{"./setup", "a b"}, {"sh", "-c", "echo second"}}
	o.Files = []string{"conf/hello.xl.in"}
	spec := b.Spec(o, treetest.With(project, "setup!", "#!/bin/sh\necho setting up \"$1\" > made\ncat made\n", "conf/hello.xl.in", "memory=@MEMORY@\n"))
	tc := New(b.Site)
	src, err := tc.Configure(b.Reporting(t.Context()), spec)
	if err != nil {
		t.Fatal(err)
	}
	if src.Host != "here" || src.Tree == "" {
		t.Errorf("source is %+v", src)
	}
	log := b.Text(src.Log)
	for _, want := range []string{`./setup "a b"`, "setting up a b\n", "second\n", "exit status 0"} {
		if !strings.Contains(log, want) {
			t.Errorf("configure's log lacks %q:\n%s", want, log)
		}
	}
	k, err := tc.Build(b.Reporting(t.Context()), src)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(k.ABIs, "pvh") || k.Cached {
		t.Errorf("kernel is %+v", k)
	}
	if !strings.HasPrefix(b.Text(&k.File), "\x7fELF") {
		t.Error("the kernel is not the ELF file that was built")
	}
	if a, ok := step.FileNamed(k.Files, "hello.xl.in"); !ok || b.Text(&a) != "memory=@MEMORY@\n" {
		t.Errorf("files are %+v", k.Files)
	}
	if log := b.Text(k.Log); !strings.Contains(log, "compiling hello\n") {
		t.Errorf("build's log lacks the output:\n%s", log)
	}
	gone, err := tc.Clean(t.Context(), step.Spec{Tags: step.Tags{App: "hello", Target: "dev"}})
	if err != nil || len(gone.Removed) != 1 {
		t.Fatalf("clean: %+v, %v", gone, err)
	}
	b.WantNothing()
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
		spec := b.Spec(Options{}, project)
		spec.Toolchain.Options = json.RawMessage(c.options)
		_, err := b.Deploy(t.Context(), New(b.Site), spec)
		if e := treetest.WantError(t, err, c.kind, c.text); e.Field != c.field {
			t.Errorf("%s: field is %q, want %q", c.options, e.Field, c.field)
		}
	}
}
