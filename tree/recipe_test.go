package tree

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/step"
)

// changed is the toolchain with its recipes changed.
func (b *bench) changed(change func(*Recipe)) *Toolchain {
	return New(b.Site, testKind, func(spec step.Spec) (Recipe, error) {
		r, err := readOptions(spec)
		change(&r)
		return r, err
	})
}

// find takes whatever kernel is in dist, and a file beside it.
func find(tree *os.Root) (Product, error) {
	entries, err := os.ReadDir(filepath.Join(tree.Name(), "dist"))
	if err != nil || len(entries) == 0 {
		return Product{}, errors.New("there is nothing in dist")
	}
	return Product{Kernel: "dist/" + entries[0].Name(), Files: []File{
		{Path: "conf/made", Name: "conf", Optional: true}, {Path: "other", Name: "missing", Optional: true}}}, nil
}

func TestFoundKernel(t *testing.T) {
	b := newBench(t)
	tc := b.changed(func(r *Recipe) { r.Product, r.Find = Product{}, find })
	o := makeIt()
	o.Build = append(o.Build, []string{"sh", "-c", "mv dist/hello dist/chosen; mkdir conf; echo made > conf/made"})
	k, err := b.Deploy(t.Context(), tc, b.Spec(o, project))
	if err != nil {
		t.Fatal(err)
	}
	if a, ok := step.FileNamed(k.Files, "conf"); !ok || len(k.Files) != 1 || b.Text(&a) != "made\n" {
		t.Errorf("files are %+v", k.Files)
	}
	_, err = b.Deploy(t.Context(), tc, b.Spec(sh("touch aaa"), project))
	_ = wantError(t, err, step.BuildFailed, "build: there is nothing in dist", "they made:\n  aaa", "whole log: ")

	old := with(project, "dist/old", "old kernel")
	_, err = b.Deploy(t.Context(), tc, b.Spec(sh(":"), old))
	_ = wantError(t, err, step.BuildFailed, "left dist/old untouched")
	clean := b.changed(func(r *Recipe) { r.Product, r.Find, r.Discard = Product{}, find, []string{"dist"} })
	if _, err = b.Deploy(t.Context(), clean, b.Spec(makeIt(), old)); err != nil {
		t.Error("with dist discarded:", err)
	}
}

func TestKernelNotAccepted(t *testing.T) {
	b := newBench(t)
	tc := b.changed(func(r *Recipe) {
		r.Accept = func(info image.Info) error { return errors.New("is not mine: " + strings.Join(info.ABIs, " ")) }
	})
	_, err := b.Deploy(t.Context(), tc, b.Spec(makeIt(), project))
	_ = wantError(t, err, step.BuildFailed, "build: dist/hello is not mine: pvh xen-pvh")
}

func TestSourceNotAccepted(t *testing.T) {
	b := newBench(t)
	tc := b.changed(func(r *Recipe) {
		r.CheckSource = func(tree *os.Root) error {
			_, err := tree.Stat("main.c")
			return errors.Join(err, step.Invalid("source", "", "is not mine"))
		}
	})
	_, err := b.Deploy(t.Context(), tc, b.Spec(makeIt(), project))
	if !strings.Contains(err.Error(), "is not mine") || step.KindOf(err) != step.InvalidSpec {
		t.Error(err)
	}
}

// What a recipe finds out about the host reaches the commands and the cache key,
// and what it misses is said before there is a tree.
func TestInspect(t *testing.T) {
	b := newBench(t)
	deploy := func(facts Facts, fail error) (step.Kernel, error) {
		return b.Deploy(t.Context(), b.changed(func(r *Recipe) {
			r.Inspect = func(_ context.Context, e Environ) (Facts, error) {
				if e.Get("OWN") != "recipe" || e.Get("SOURCE_DATE_EPOCH") != "0" {
					t.Errorf("inspected with %+v", e)
				}
				return facts, fail
			}
		}), b.Spec(options{Build: [][]string{{"sh", "-c", "echo $OWN $FOUND; make"}}, Kernel: "dist/hello",
			Env: map[string]string{"OWN": "recipe"}}, project))
	}
	_, err := deploy(Facts{}, &step.Error{Kind: step.Unsupported, Err: errors.New("no tool"), Hint: "get one"})
	_ = wantError(t, err, step.Unsupported, "look for build tools on here: no tool", "get one")
	b.WantNothing()
	for _, c := range []struct {
		facts  Facts
		says   string
		cached bool
	}{
		{Facts{Env: map[string]string{"FOUND": "one", "OWN": "host"}}, "recipe one", false},
		{Facts{Env: map[string]string{"FOUND": "one", "OWN": "host"}}, "recipe one", true},
		{Facts{Env: map[string]string{"FOUND": "two"}}, "recipe two", false},
		{Facts{Env: map[string]string{"FOUND": "two"}, Tools: []string{"tool 2"}}, "recipe two", false},
	} {
		k, err := deploy(c.facts, nil)
		if err != nil {
			t.Fatal(err)
		}
		if k.Cached != c.cached || !strings.Contains(b.Text(k.Log), c.says+"\n") {
			t.Errorf("%+v: cached %t, log %s", c.facts, k.Cached, b.Text(k.Log))
		}
	}
}

// Commands of different builds that want the same thing run one after the other,
// and the wait is not counted. A timeout is for all commands of a stage.
func TestExclusive(t *testing.T) {
	b := newBench(t)
	made, err := b.deploy(t.Context(), b.Spec(makeIt(), project))
	if err != nil {
		t.Fatal(err)
	}
	quick := with(project, "kernel", b.Text(&made.File))
	busy := filepath.Join(t.TempDir(), "busy")
	var all sync.WaitGroup
	for i, target := range []string{"one", "two", "three", "four"} {
		nap, timeout := "0.1", 3*time.Second
		if i == 0 { // the others wait longer than their timeout
			nap, timeout = "3.2", time.Hour
		} else {
			await(t, "the first", func() bool { _, err := os.Stat(busy); return i > 1 || err == nil })
		}
		o := sh("mkdir " + busy + " || exit 1; sleep " + nap + "; rmdir " + busy + "; mkdir -p dist; cp kernel dist/hello # " + target)
		o.Exclusive, o.Timeout, o.Env = "thing $NAME", timeout, map[string]string{"NAME": "x"}
		spec := b.Spec(o, quick)
		spec.Target = target
		all.Go(func() {
			if _, err := b.deploy(t.Context(), spec); err != nil {
				var e *step.Error
				t.Errorf("%s: %v, %t", target, err, errors.As(err, &e))
				if e != nil {
					t.Log(e.Hint)
				}
			}
		})
	}
	all.Wait()
	if notes := strings.Join(b.Notes(), "\n"); !strings.Contains(notes, "waiting for the thing x of hello/") {
		t.Errorf("nobody said what it waits for:\n%s", notes)
	}
	nap := []string{"sleep", "0.4"}
	o := options{Build: [][]string{nap, nap, nap}, Kernel: "k", Timeout: time.Second}
	_, err = b.deploy(t.Context(), b.Spec(o, project))
	_ = wantError(t, err, step.BuildFailed, "build: sleep 0.4: not done after 1s")
}

func TestLookAtHost(t *testing.T) {
	need.Tools(t, "sh")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
	e := EnvironOf(map[string]string{"A": "b"})
	out, err := e.Output(t.Context(), "sh", "-c", "echo $A$AWS_SECRET_ACCESS_KEY; pwd; echo noise >&2")
	if err != nil || out != "b\n/" {
		t.Errorf("%q, %v", out, err)
	}
	_, err = e.Output(t.Context(), "sh", "-c", "echo why >&2; exit 3")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 || string(exit.Stderr) != "why" {
		t.Errorf("%#v", err)
	}
	if _, err = e.Output(t.Context(), "no-such-tool"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	pid := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		await(t, "the grandchild", func() bool { return pidIn(pid) != 0 })
		cancel()
	}()
	_, err = e.Output(ctx, "sh", "-c", "(sh -c 'echo $$ > "+pid+"; exec sleep 1000') & wait")
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	await(t, "the grandchild's end", func() bool { return !running(pidIn(pid)) })
}
