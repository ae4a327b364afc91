package mirage

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/tree/treetest"
)

// configured is a project configured for -t target, and New's toolchain.
func (b *bench) configured(spec step.Spec) (*Toolchain, step.Source) {
	b.Helper()
	tc := New(b.Site)
	src, err := tc.Configure(b.Reporting(b.Context()), spec)
	if err != nil {
		b.Fatal(err)
	}
	return tc, src
}

// After mirage describe or query, make build says "ready", exits 0 and builds
// nothing.
func TestReadyAndNothingBuilt(t *testing.T) {
	for _, command := range []string{"describe", "query"} {
		b := newBench(t)
		tc, src := b.configured(b.spec("qemu", "{}", project))
		cmd := treetest.Command(t, src.Tree, "opam", "exec", "--", "mirage", command)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		_, err := tc.Build(t.Context(), src)
		_ = treetest.WantError(t, err, step.BuildFailed, "make build succeeded and made no dist/*.virtio", "whole log: ")
	}
}

// -o renames the kernel, and neither xl.in nor anything else.
func TestOtherName(t *testing.T) {
	b := newBench(t)
	tc, src := b.configured(b.spec("xen", "{}", project))
	cmd := treetest.Command(t, src.Tree, "opam", "exec", "--", "mirage", "configure", "-t", "xen", "-o", "other")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	k, err := tc.Build(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := step.FileNamed(k.Files, XLIn); !ok {
		t.Errorf("files are %+v", k.Files)
	}
}

// What a build left in the source, for this target or another, is not taken for
// what is to be built.
func TestStaleFiles(t *testing.T) {
	b := newBench(t)
	stale := treetest.With(project)
	for _, target := range []string{"hvt", "xen", "virtio"} {
		_, src := b.configured(b.spec("somewhere", `{"target":"`+target+`"}`, stale))
		if out, err := treetest.Command(t, src.Tree, "opam", "exec", "--", "make", "build").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		err := filepath.WalkDir(src.Tree, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, err := filepath.Rel(src.Tree, path)
			text, readErr := os.ReadFile(path)
			stale[rel] = string(text)
			return errors.Join(err, readErr)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	stale["dist/hello.virtio"], stale["mirage/old.xl.in"] = "an old kernel", "an old template"
	stale["dist/other.virtio!"] = "another"
	if _, ok := stale["dune.build"]; !ok {
		t.Fatal("no stale files: this test proves nothing")
	}
	built := b.builds("default")
	k, err := b.deploy(b.spec("qemu", "{}", stale))
	if err != nil {
		t.Fatal(err)
	}
	if b.builds("default") != built+1 || len(k.Files) != 1 || k.Files[0].Name != Manifest {
		t.Errorf("%d builds more, files %+v", b.builds("default")-built, k.Files)
	}
}

func TestBuildFails(t *testing.T) {
	b := newBench(t)
	for name, c := range map[string]struct {
		options string
		files   map[string]string
		texts   []string
	}{
		"config.ml": {"{}", treetest.With(project, "config.ml", "oops"), []string{"exit status 1", "Syntax error"}},
		"unikernel.ml": {"{}", treetest.With(project, "unikernel.ml", "oops"),
			[]string{"build: opam exec -- make build: exit status 2", "Unbound value oops"}},
		"hand-written Makefile": {"{}", treetest.With(project, "Makefile", "all:\n"), []string{"make depends: exit status 2", "depends"}},
		"another ABI": {"{}", treetest.With(project, "linked-for", "hvt"),
			[]string{"build: dist/hello.virtio is no kernel of target virtio: it is solo5-hvt, not multiboot1, solo5-virtio"}},
		"a program": {"{}", treetest.With(project, "linked-for", "unix"), []string{"it is linux-executable"}},
	} {
		_, err := b.deploy(b.spec("qemu", c.options, c.files))
		t.Log(name, err)
		_ = treetest.WantError(t, err, step.BuildFailed, c.texts...)
	}
}

// The key that mirage refuses is named, in mirage's words.
func TestKeyRefused(t *testing.T) {
	for keys, c := range map[string]struct{ field, cause, hint string }{
		`{"net":"host","dhcp":true}`:   {"keys.dhcp", "unknown option '--dhcp'", "no-dhcp: null"},
		`{"ipv4":"10.0.0.2/24"}`:       {"keys.ipv4", "unknown option '--ipv4'", "args of the target"},
		`{"no-dhcp":true}`:             {"keys.no-dhcp", "option '--no-dhcp' is a flag, it cannot take the argument 'true'", "null for a flag"},
		`{"hello":null}`:               {"keys.hello", "option '--hello' needs an argument", "null for a flag"},
		`{"net":"wifi","hello":"a b"}`: {"keys.net", "option '--net': invalid value 'wifi', expected one of 'host', 'socket', 'direct' or 'ocaml'", ""},
	} {
		for _, term := range []string{"dumb", "xterm"} {
			b := newBench(t)
			t.Setenv("TERM", term)
			_, err := b.deploy(b.spec("qemu", `{"keys":`+keys+`}`, project))
			cause := c.cause
			if term != "dumb" {
				cause = strings.ReplaceAll(cause, "'", "")
			}
			e := treetest.WantError(t, err, step.InvalidSpec, "mirage configure says: "+cause, c.hint, "whole log: ")
			if e.Field != c.field || e.Err.Error() != "mirage configure says: "+cause {
				t.Errorf("%s: field is %q of %v", keys, e.Field, e)
			}
		}
	}
	b := newBench(t)
	_, err := b.deploy(b.spec("qemu", `{"keys":{"hello":"x"}}`, treetest.With(project, "config.ml", "oops")))
	_ = treetest.WantError(t, err, step.BuildFailed, "Syntax error")
}

// Nothing is configured or built for what was built before; what shapes a
// kernel builds another.
func TestCached(t *testing.T) {
	b := newBench(t)
	b.newSwitch("five")
	total := func() int { return b.builds("default") + b.builds("five") }
	deploy := func(what, kind, options string, files map[string]string, built bool) {
		t.Helper()
		before := total()
		k, err := b.deploy(b.spec(kind, options, files))
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if k.Cached == built || (total() > before) != built {
			t.Errorf("%s: cached %t, %d builds", what, k.Cached, total()-before)
		}
	}
	deploy("the first", "qemu", "{}", project, true)
	deploy("the same", "qemu", "{}", project, false)
	deploy("its default said", "openstack", `{"target":"virtio","config":"config.ml","timeout":"2h"}`, project, false)
	src, err := New(b.Site).Configure(t.Context(), b.spec("qemu", "{}", project))
	if err != nil || src.Tree != "" {
		t.Errorf("configured again: %+v, %v", src, err)
	}
	deploy("another target", "xen", "{}", project, true)
	deploy("a key", "qemu", `{"keys":{"net":"host"}}`, project, true)
	deploy("the key's other value", "qemu", `{"keys":{"net":"direct"}}`, project, true)
	deploy("another source", "qemu", "{}", treetest.With(project, "unikernel.ml", "let start () = 1\n"), true)
	deploy("another switch", "qemu", `{"switch":"five"}`, project, true)
	b.write(filepath.Join(b.root, "default/mirage-version"), "4.12.0\n")
	deploy("another mirage", "qemu", "{}", project, true)
}

// A worker that was started in the environment of the switch builds nothing again: the
// commands run in it anyway. Another compiler of the host is another build.
func TestCachedWhateverThePath(t *testing.T) {
	b := newBench(t)
	deploy := func(what string, built bool) {
		t.Helper()
		if k, err := b.deploy(b.spec("qemu", "{}", project)); err != nil || k.Cached == built {
			t.Errorf("%s: want a build %t: %+v, %v", what, built, k, err)
		}
	}
	deploy("the first", true)
	prefix := filepath.Join(b.root, "default")
	for name, value := range map[string]string{
		"PATH": filepath.Join(prefix, "bin") + ":" + os.Getenv("PATH"), "OPAM_SWITCH_PREFIX": prefix,
		"CAML_LD_LIBRARY_PATH": filepath.Join(prefix, "lib/stublibs"), "OCAML_TOPLEVEL_PATH": filepath.Join(prefix, "lib/toplevel"),
	} {
		t.Setenv(name, value)
	}
	deploy("in the switch", false)
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Fatal(err)
	}
	own := t.TempDir()
	b.write(filepath.Join(own, "gcc"), "#!/bin/sh\nexec "+gcc+` "$@"`+"\n")
	if err := os.Chmod(filepath.Join(own, "gcc"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", own+":"+os.Getenv("PATH"))
	deploy("another gcc", true)
}

// Two rollouts from nothing give one kernel, though its debug information has the path of
// the folder that it was built in.
func TestEqualSourcesGiveEqualKernels(t *testing.T) {
	b := newBench(t)
	for _, kind := range []string{"qemu", "local"} {
		var kernels []step.Kernel
		for generation := 1; generation <= 2; generation++ {
			spec := b.spec(kind, "{}", project)
			spec.Generation = generation
			k, err := b.deploy(spec)
			if err == nil {
				err = os.RemoveAll(filepath.Join(b.Site.State, Kind, "cache"))
			}
			if err != nil || k.Cached {
				t.Fatal(k, err)
			}
			kernels = append(kernels, k)
		}
		if !strings.Contains(b.Text(&kernels[0].File), filepath.Join(b.Site.State, Kind)) {
			t.Fatal("the kernel has no path: this test proves nothing")
		}
		if kernels[0].File.SHA256 != kernels[1].File.SHA256 {
			t.Errorf("%s: kernels %s and %s", kind, kernels[0].File.SHA256, kernels[1].File.SHA256)
		}
	}
}

// make depends installs what a kernel is linked to: that is no reason to build
// again, an upgrade of it is. What no kernel of the target is made of is none.
func TestUpgrade(t *testing.T) {
	for _, c := range []struct {
		kind, from, to string
		built          bool
	}{
		{"qemu", "solo5.0.9.0", "solo5.0.9.1", true},
		{"qemu", "ocaml-solo5.1.0.1", "ocaml-solo5.1.1.0", true},
		{"qemu", "ocaml.5.2.0", "ocaml.5.2.1", true},
		{"local", "ocaml.5.2.0", "ocaml.5.2.1\nocaml-option-flambda.1", true},
		{"qemu", "lwt.5.7.0", "lwt.5.8.0\nunikraft.0.18.0", false},
		{"local", "lwt.5.7.0", "lwt.5.7.0\nsolo5.0.9.1", false},
	} {
		t.Run(c.kind+" "+c.to, func(t *testing.T) {
			b := newBench(t)
			spec := b.spec(c.kind, "{}", project)
			upgrade := func() {
				text, err := os.ReadFile(b.packages("default"))
				if err != nil || !strings.Contains(string(text), c.from+"\n") {
					t.Fatalf("no %s in %s (%v)", c.from, text, err)
				}
				b.write(b.packages("default"), strings.Replace(string(text), c.from+"\n", c.to+"\n", 1))
			}
			deploy := func(what string, built bool) {
				t.Helper()
				if k, err := b.deploy(spec); err != nil || k.Cached == built {
					t.Errorf("%s: want a build %t: %+v, %v", what, built, k, err)
				}
			}
			deploy("the first", true)
			deploy("the same", false)
			upgrade()
			deploy("upgraded", c.built)
			deploy("the same again", false)
		})
	}
}

// A tree is built with what it was configured with.
func TestUpgradeAfterConfigure(t *testing.T) {
	for name, upgrade := range map[string]func(b *bench){
		"package": func(b *bench) {
			b.write(b.packages("default"), "dune.3.16.0\nocaml.5.2.0\nocaml-solo5.1.0.1\nsolo5.0.9.1\n")
		},
		"mirage": func(b *bench) { b.write(filepath.Join(b.root, "default/mirage-version"), "4.12.0\n") },
		"switch": func(b *bench) { b.newSwitch("five"); b.setCurrent("five") },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			spec := b.spec("qemu", "{}", project)
			tc, src := b.configured(spec)
			upgrade(b)
			_, err := tc.Build(t.Context(), src)
			_ = treetest.WantError(t, err, step.TreeGone, "configured with other tools")
			if k, err := b.deploy(spec); err != nil || k.Cached {
				t.Errorf("configured again: %+v, %v", k, err)
			}
		})
	}
}

// A switch that opam cannot list is said so, and may be mended meanwhile.
func TestPackagesUnknown(t *testing.T) {
	b := newBench(t)
	if err := os.Remove(b.packages("default")); err != nil {
		t.Fatal(err)
	}
	_, err := b.deploy(b.spec("qemu", "{}", project))
	if err == nil || step.KindOf(err) != "" || !strings.Contains(err.Error(), "look at opam: opam list --switch=default: ") {
		t.Error(err)
	}
}

// Several targets of one source at the same time: each has its tree, and only one at a time
// installs into the switch. The last of them waits longer than its own commands may take.
func TestTogether(t *testing.T) {
	b := newBench(t)
	files := treetest.With(project, "slow-depends", "")
	var all sync.WaitGroup
	for _, target := range []string{"hvt", "spt", "virtio", "xen"} {
		spec := b.spec("somewhere", `{"target":"`+target+`","timeout":"5s"}`, files)
		spec.Target = target
		all.Go(func() {
			if _, err := b.deploy(spec); err != nil {
				t.Errorf("%s: %v", target, err)
			}
		})
	}
	all.Wait()
	if notes := strings.Join(b.Notes(), "\n"); !strings.Contains(notes, "waiting for the switch default of hello/") {
		t.Errorf("nobody said what it waits for:\n%s", notes)
	}
}

// When a worker is killed in make depends or make build, the next to come ends
// what they still run, and goes on.
func TestWorkerKilled(t *testing.T) {
	for stage, hang := range map[step.Stage]string{step.Configure: "hang-depends", step.Build: "hang-build"} {
		for _, next := range []string{"again", "Clean"} {
			t.Run(string(stage)+" "+next, func(t *testing.T) {
				b := newBench(t)
				spec := b.spec("qemu", "{}", treetest.With(project, hang, ""))
				tc, src := New(b.Site), step.Source{Spec: spec}
				if stage == step.Build {
					tc, src = b.configured(spec)
				}
				pid := b.KillWorker(stage, src)
				begun := time.Now()
				switch {
				case next == "Clean":
					if gone, err := tc.Clean(t.Context(), spec); err != nil || len(gone.Removed) != 1 {
						t.Errorf("clean: %+v, %v", gone, err)
					}
					b.WantNothing()
				case stage == step.Build:
					if k, err := tc.Build(t.Context(), src); err != nil || k.Cached {
						t.Errorf("build: %+v, %v", k, err)
					}
				default:
					// The new tree hangs as well: what counts is that it is new
					// and the old processes are gone, and that Clean ends it.
					if err := os.Remove(b.InPlace("pid")); err != nil {
						t.Fatal(err)
					}
					b.KillWorker(stage, src)
					if treetest.Running(pid) {
						t.Error("the grandchild lived on when the new tree was made")
					}
					if _, err := tc.Clean(t.Context(), spec); err != nil {
						t.Error(err)
					}
					b.WantNothing()
				}
				if treetest.Running(pid) {
					t.Error("the grandchild lives on")
				}
				if took := time.Since(begun); took > 5*time.Minute {
					t.Errorf("took %s", took)
				}
			})
		}
	}
}
