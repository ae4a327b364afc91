package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/source/gittest"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/store"
)

// site is a worker's site with git settings of its own.
func site(t *testing.T) step.Site {
	t.Helper()
	t.Setenv("GIT_CONFIG_GLOBAL", filepath.Join(t.TempDir(), "gitconfig"))
	t.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	state := t.TempDir()
	s, err := store.Open(t.Context(), "file://"+state+"/store")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return step.Site{Host: "here", State: state, Store: s, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

// know gives git the password of user ann.
func know(t *testing.T, url, password string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "credentials")
	text := "[credential]\n\thelper = store --file " + file + "\n"
	if err := os.WriteFile(os.Getenv("GIT_CONFIG_GLOBAL"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	text = strings.Replace(url, "://", "://ann:"+password+"@", 1) + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func specOf(g step.Git) step.Spec {
	return step.Spec{Tags: step.Tags{App: "hello", Target: "dev", Life: "0a1b2c3d", Generation: 1}, Kind: "qemu",
		Toolchain: step.Recipe{Kind: "command"}, Origin: step.Origin{Git: &g}}
}

// left lists the fetches' folders that are left.
func left(t *testing.T, s step.Site) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.State, Kind, scratchPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// folder is the archive of a folder, as the starter makes it.
func folderOf(t *testing.T, s step.Site, folder string) string {
	t.Helper()
	a, _, err := Put(t.Context(), s.Store.Put, folder, filepath.Join(folder, projectFile))
	if err != nil {
		t.Fatal(err)
	}
	return a.SHA256
}

var content = map[string]string{"main.c": "int main;", "configure": "#!/bin/sh\n", ".gitignore": "*.o\n", "morgana.yaml": "app: a\n",
	"web/a.c": "a", "web/link": "-> a.c", "web/.gitignore": "/b\n"}

// A fetched folder gives the archive of the same folder, over each protocol, by each kind of
// ref, with one commit of the history.
func TestFetch(t *testing.T) {
	s := site(t)
	parent := t.TempDir()
	r := gittest.New(t, parent, "hello.git")
	old := r.Commit(content)
	r.Git("tag", "-a", "-m", "x", "v1")
	r.Git("branch", "feature/x")
	clean := filepath.Join(t.TempDir(), "old")
	gittest.Git(t, parent, "clone", "-q", r.Folder, clean)
	now := r.Commit(map[string]string{"main.c": "int more;"})
	h := gittest.ServeHTTP(t, parent)
	h.Password = "hush"
	know(t, h.Server.URL, "hush")
	gittest.Git(t, parent, "init", "-q", "-b", "main", "--object-format=sha256", "long")
	long := gittest.New(t, parent, "long") // leaves the format as it is
	longCommit := long.Commit(map[string]string{"main.c": "int main;"})
	ssh := gittest.ServeSSH(t)
	t.Setenv("MORGANA_SSH_CONFIG", ssh.Config)
	oldDigest, nowDigest := folderOf(t, s, clean), folderOf(t, s, r.Folder)
	for _, c := range []struct {
		git            step.Git
		commit, digest string
	}{
		{step.Git{URL: h.URL("hello.git")}, now, nowDigest},
		{step.Git{URL: h.URL("hello.git"), Ref: "v1"}, old, oldDigest},
		{step.Git{URL: h.URL("hello.git"), Ref: old}, old, oldDigest},
		{step.Git{URL: ssh.URL(r.Folder), Ref: "main"}, now, nowDigest},
		{step.Git{URL: ssh.URL(r.Folder), Ref: old}, old, oldDigest},
		{step.Git{URL: strings.Replace(ssh.URL(r.Folder), "ssh://", "git+ssh://", 1), Ref: "refs/tags/v1"}, old, oldDigest},
		{step.Git{URL: "lab:" + r.Folder, Ref: "main"}, now, nowDigest},
		{step.Git{URL: "file://" + long.Folder, Ref: longCommit}, longCommit, folderOf(t, s, long.Folder)},
		{step.Git{URL: "file://" + r.Folder, Ref: "feature/x"}, old, oldDigest},
		{step.Git{URL: "file://" + r.Folder, Path: "web"}, now, folderOf(t, s, filepath.Join(clean, "web"))},
	} {
		f := New(s)
		spec, err := f.Fetch(t.Context(), specOf(c.git))
		if err != nil {
			t.Errorf("%v: %v", c.git, err)
			continue
		}
		o := spec.Origin
		if o.Git.Commit != c.commit || o.Archive.SHA256 != c.digest {
			t.Errorf("%v: commit %s, digest %s; want %s, %s", c.git, o.Git.Commit, o.Archive.SHA256, c.commit, c.digest)
		}
		if err := step.SameOwner(step.Fetch, specOf(c.git), spec); err != nil {
			t.Errorf("%v: %v", c.git, err)
		}
	}
	if names := left(t, s); len(names) > 0 {
		t.Errorf("left %q", names)
	}
}

// An unchanged commit is not fetched again, unless its archive is gone.
func TestFetchAnUnchangedCommit(t *testing.T) {
	s := site(t)
	parent := t.TempDir()
	r := gittest.New(t, parent, "hello")
	commit := r.Commit(content)
	h := gittest.ServeHTTP(t, parent)
	in := specOf(step.Git{URL: h.URL("hello")})
	requests := func(spec step.Spec) (n int64, out step.Spec) {
		t.Helper()
		before := h.Requests.Load()
		out, err := New(s).Fetch(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		return h.Requests.Load() - before, out
	}
	check := func(archive *step.Artifact) {
		t.Helper()
		out, err := New(s).FetchCheck(t.Context(), in)
		if err != nil || out.Origin.Git.Commit != commit || (out.Origin.Archive == nil) != (archive == nil) || archive != nil && *out.Origin.Archive != *archive {
			t.Errorf("%+v, %v; want commit %s and %v", out.Origin, err, commit, archive)
		}
	}
	check(nil)
	first, one := requests(in)
	check(one.Origin.Archive)
	again, two := requests(in)
	if again >= first || *one.Origin.Archive != *two.Origin.Archive || two.Origin.Git.Commit != commit {
		t.Errorf("%d requests, then %d: %+v", first, again, two.Origin)
	}
	pinned, _ := requests(specOf(step.Git{URL: h.URL("hello"), Ref: commit}))
	if pinned != 0 {
		t.Errorf("%d requests for a known commit", pinned)
	}
	elsewhere := in
	elsewhere.Kind, elsewhere.Toolchain.Options = "xen", []byte(`{"build":[["make"]]}`)
	if n, _ := requests(elsewhere); n != again {
		t.Errorf("%d requests for another target", n)
	}
	other := in
	other.Origin.Git = &step.Git{URL: h.URL("hello"), Path: "web"}
	if n, out := requests(other); n <= again || *out.Origin.Archive == *one.Origin.Archive {
		t.Errorf("another folder: %d requests, %+v", n, out.Origin)
	}
	if err := os.Remove(strings.TrimPrefix(one.Origin.Archive.URI, "file://")); err != nil {
		t.Fatal(err)
	}
	if n, out := requests(in); n != first || *out.Origin.Archive != *one.Origin.Archive {
		t.Errorf("after the archive was lost: %d requests, %+v", n, out.Origin)
	}
	if changed := r.Commit(map[string]string{"main.c": "int changed;"}); changed != commit {
		if n, out := requests(in); n != first || out.Origin.Git.Commit != changed {
			t.Errorf("a new commit: %d requests, %+v", n, out.Origin)
		}
	}
}

// What the starter reads from a folder is read from the repository: mirage's devices and an
// existing kernel.
func TestFetchReadsTheSource(t *testing.T) {
	s := site(t)
	parent := t.TempDir()
	r := gittest.New(t, parent, "hello")
	kernel, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	r.Commit(map[string]string{"web/config.ml": `let net = netif "service"`, "web/dist/hello": string(kernel), "web/text": "no kernel",
		"web/out": "-> ../../../../../bin/true"})
	git := step.Git{URL: "file://" + r.Folder, Path: "web"}
	in := specOf(git)
	in.Toolchain.Kind = "mirage"
	Expect(&in.Origin, in.Toolchain, in.Kind)
	out, err := New(s).Fetch(t.Context(), in)
	if err == nil || !strings.Contains(err.Error(), "symbolic link out leads out of the folder") {
		t.Errorf("a link out: %+v, %v", out.Origin, err)
	}
	r.Git("rm", "-q", "web/out")
	r.Commit(nil)
	out, err = New(s).Fetch(t.Context(), in)
	if err != nil || fmt.Sprint(out.Origin.ABIs, out.Origin.Networks) != "[multiboot1 solo5-virtio] [service]" {
		t.Errorf("%+v, %v", out.Origin, err)
	}
	in = specOf(git)
	in.Toolchain.Kind, in.Origin.Git.Kernel = "prebuilt", "dist/hello"
	out, err = New(s).Fetch(t.Context(), in)
	if o := out.Origin; err != nil || o.Archive != nil || o.Kernel == nil || o.Kernel.Size != int64(len(kernel)) || len(o.ABIs) == 0 {
		t.Errorf("%+v, %v", out.Origin, err)
	}
	for name, want := range map[string]string{"dist/none": "has no file", "text": "text: "} {
		in.Origin.Git.Kernel = name
		var e *step.Error
		if _, err := New(s).Fetch(t.Context(), in); !errors.As(err, &e) || e.Field != "toolchain.kernel" || !strings.Contains(err.Error(), want) {
			t.Errorf("kernel %s: %v", name, err)
		}
	}
}

func TestFetchSubmodules(t *testing.T) {
	s := site(t)
	parent := t.TempDir()
	deep, lib, r := gittest.New(t, parent, "deep"), gittest.New(t, parent, "lib"), gittest.New(t, parent, "hello")
	deep.Commit(map[string]string{"deep.c": "deep"})
	lib.Commit(map[string]string{"lib.c": "lib"})
	add := func(r *gittest.Repo, url, path string) {
		r.Git("-c", "protocol.file.allow=always", "submodule", "add", "-q", url, path)
		if strings.HasPrefix(url, "..") {
			r.Git("config", "-f", ".gitmodules", "submodule."+path+".url", url)
		}
	}
	add(lib, deep.Folder, "vendor/deep")
	lib.Git("config", "-f", ".gitmodules", "submodule.vendor/deep.url", "../deep")
	lib.Commit(nil)
	add(r, lib.Folder, "web/lib")
	add(r, lib.Folder, "elsewhere")
	r.Git("config", "-f", ".gitmodules", "submodule.web/lib.url", "../lib")
	r.Git("config", "-f", ".gitmodules", "submodule.elsewhere.url", "../nothing")
	r.Commit(content)
	lib.Commit(map[string]string{"lib.c": "a later lib"}) // not the one that hello wants
	h := gittest.ServeHTTP(t, parent)
	for _, url := range []string{h.URL("hello"), "file://" + r.Folder} {
		spec, err := New(s).Fetch(t.Context(), specOf(step.Git{URL: url, Path: "web"}))
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		files := unpacked(t, s, *spec.Origin.Archive)
		if files["lib/lib.c"] != "lib" || files["lib/vendor/deep/deep.c"] != "deep" || files["a.c"] != "a" {
			t.Errorf("%s: %q", url, files)
		}
	}
	var e *step.Error
	_, err := New(s).Fetch(t.Context(), specOf(step.Git{URL: h.URL("hello")}))
	if !errors.As(err, &e) || e.Kind != step.NotFound || err.Error() != "fetch "+h.URL("hello")+": source.git: submodule elsewhere: there is no repository" {
		t.Errorf("a submodule that is not there: %v", err)
	}
}

// A server that gives no commit by its hash, or knows no shallow history, is asked for all.
func TestFetchFromAnOldServer(t *testing.T) {
	s := site(t)
	parent := t.TempDir()
	lib, r := gittest.New(t, parent, "lib"), gittest.New(t, parent, "hello")
	lib.Commit(map[string]string{"lib.c": "lib"})
	r.Git("-c", "protocol.file.allow=always", "submodule", "add", "-q", lib.Folder, "lib")
	r.Git("config", "-f", ".gitmodules", "submodule.lib.url", "../lib")
	old := r.Commit(map[string]string{"main.c": "old"})
	r.Commit(map[string]string{"main.c": "new"})
	lib.Commit(map[string]string{"lib.c": "later"})
	smart := gittest.ServeHTTP(t, parent)
	bare := t.TempDir()
	for name, of := range map[string]*gittest.Repo{"lib": lib, "hello": r} {
		gittest.Git(t, bare, "clone", "-q", "--bare", of.Folder, name)
		gittest.Git(t, filepath.Join(bare, name), "update-server-info")
	}
	dumb := httptest.NewServer(http.FileServer(http.Dir(bare)))
	t.Cleanup(dumb.Close)
	if err := os.WriteFile(os.Getenv("GIT_CONFIG_GLOBAL"), []byte("[protocol]\n\tversion = 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{smart.URL("hello"), dumb.URL + "/hello"} {
		for ref, want := range map[string]string{old: "old", "main": "new"} {
			f := New(s)
			f.folder = t.TempDir() // no record of the others
			spec, err := f.Fetch(t.Context(), specOf(step.Git{URL: url, Ref: ref}))
			if err != nil {
				t.Errorf("%s %s: %v", url, ref, err)
				continue
			}
			if files := unpacked(t, s, *spec.Origin.Archive); files["main.c"] != want || files["lib/lib.c"] != "lib" {
				t.Errorf("%s %s: %q", url, ref, files)
			}
		}
		wantRefused(t, s, step.Git{URL: url, Ref: absent}, step.NotFound, ref, "the repository does not have "+absent, "a force-push")
	}
}

// unpacked is the content of an archive.
func unpacked(t *testing.T, s step.Site, a step.Artifact) map[string]string {
	t.Helper()
	r, err := s.Store.Open(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	folder := t.TempDir()
	if err := Unpack(r, folder); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	err = filepath.WalkDir(folder, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			b, _ := os.ReadFile(path)
			name, _ := filepath.Rel(folder, path)
			all[name] = string(b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Concurrent fetches of one repository do not disturb each other.
func TestFetchTogether(t *testing.T) {
	s := site(t)
	parent := t.TempDir()
	r := gittest.New(t, parent, "hello")
	r.Commit(content)
	f := New(s)
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			if _, err := f.Fetch(t.Context(), specOf(step.Git{URL: "file://" + r.Folder, Path: []string{"", "web"}[i%2]})); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if names := left(t, s); len(names) > 0 {
		t.Errorf("left %q", names)
	}
}

// A cancelled fetch ends its processes at once and leaves nothing.
func TestFetchIsCancelled(t *testing.T) {
	s := site(t)
	parent := t.TempDir()
	gittest.New(t, parent, "hello").Commit(content)
	h := gittest.ServeHTTP(t, parent)
	held := make(chan struct{})
	defer close(held)
	h.Hold(held)
	ctx, cancel := context.WithCancel(t.Context())
	var began time.Time
	go func() {
		for h.Held() == 0 && ctx.Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		began = time.Now()
		cancel()
	}()
	_, err := New(s).Fetch(ctx, specOf(step.Git{URL: h.URL("hello")}))
	if took := time.Since(began); !errors.Is(err, context.Canceled) || took > time.Minute {
		t.Errorf("%v after %v", err, took)
	}
	if names := left(t, s); len(names) > 0 {
		t.Errorf("left %q", names)
	}
}
