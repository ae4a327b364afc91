package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/need"
	"github.com/morgana-deploy/morgana/source/gittest"
	"github.com/morgana-deploy/morgana/step"
)

func TestNormalRemote(t *testing.T) {
	for remote, want := range map[string]string{
		"https://example.org/ann/hello":                     "example.org/ann/hello",
		"https://ann:secret@Example.ORG:443/ann/hello.git/": "example.org/ann/hello",
		"HTTPS://oauth2:token@example.org/ann/hello.git":    "example.org/ann/hello",
		"https://example.org/ann/hello.git?token=x#y":       "example.org/ann/hello",
		"https://example.org:8443/Ann/Hello.git":            "example.org:8443/Ann/Hello",
		"http://example.org:80/hello":                       "example.org/hello",
		"git@example.org:ann/hello.git":                     "example.org/ann/hello",
		"example.org:/srv/hello.git":                        "example.org/srv/hello",
		"example.org:~ann/hello":                            "example.org/~ann/hello",
		"git@[::1]:hello.git":                               "[::1]/hello",
		"ssh://git@example.org:22/ann/hello.git":            "example.org/ann/hello",
		"ssh://git@example.org:2222/ann/hello":              "example.org:2222/ann/hello",
		"git+ssh://git@example.org/ann/hello":               "example.org/ann/hello",
		"git://example.org/hello.git":                       "example.org/hello",
		"/srv/hello.git":                                    "",
		"../hello.git":                                      "",
		"./a:b":                                             "",
		"file:///srv/hello.git":                             "",
		"ext::sh -c x":                                      "",
		"https://":                                          "",
		"https://exa mple/x":                                "",
		"":                                                  "",
	} {
		if got := normalRemote(remote); got != want {
			t.Errorf("%q: got %q, want %q", remote, got, want)
		}
	}
}

// The origin of a deploy identifies its project, whatever checkout it comes from.
func TestOriginOfACheckout(t *testing.T) {
	need.Tools(t, "git")
	inFolder(t, map[string]string{"web/main.c": "", "web/" + config.Filename: "app: a\ntoolchain: {kind: command, build: [[make]]}\ntargets: {dev: {kind: qemu}}\n"})
	t.Setenv("MORGANA_STATE", t.TempDir())
	git := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	want := func(want string) {
		t.Helper()
		settings, err := config.LoadSettings(nil)
		if err != nil {
			t.Fatal(err)
		}
		p, err := config.Load("web", nil)
		if err != nil {
			t.Fatal(err)
		}
		origin, err := (&cli{err: os.Stderr}).upload(t.Context(), settings, p, nil, putInto)
		if err != nil || origin.Project != want || origin.Folder != p.Folder || origin.Host != settings.Host {
			t.Errorf("%+v, %v, want %s", origin, err, want)
		}
	}
	want("") // no repository
	git("init", "-q")
	want("") // no remote
	git("remote", "add", "origin", "https://token@example.org/ann/hello.git")
	want("example.org/ann/hello#web")
	// Within a hook of another repository.
	other := t.TempDir()
	git("init", "-q", other)
	t.Setenv("GIT_DIR", filepath.Join(other, ".git"))
	want("example.org/ann/hello#web")
	if err := os.Unsetenv("GIT_DIR"); err != nil {
		t.Fatal(err)
	}
	git("-C", "web", "init", "-q")
	git("-C", "web", "remote", "add", "origin", "git@example.org:ann/web.git")
	want("example.org/ann/web")
	t.Setenv("PATH", "")
	want("") // no git
}

// A deploy from a folder has the commit of its work tree, with "+" if the folder differs.
func TestCommitOfAFolder(t *testing.T) {
	parent := t.TempDir()
	r := gittest.New(t, parent, "hello")
	want := func(folder, want string) {
		t.Helper()
		var o step.Origin
		if o.Commit, o.Changed = commitOf(t.Context(), filepath.Join(parent, folder)); o.Revision() != want {
			t.Errorf("%s: %q, want %q", folder, o.Revision(), want)
		}
	}
	want("", "")
	want("hello", "") // no commit
	commit := r.Commit(map[string]string{"main.c": "", "web/a.c": "", ".gitignore": "*.o\n"})
	write := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(r.Folder, name), []byte("changed"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("main.o")
	want("hello", commit)
	write("main.c")
	want("hello", commit+"+")
	want("hello/web", commit)
	write("web/new.c")
	want("hello/web", commit+"+")
	if short := shortCommit(commit + "+"); short != commit[:12]+"+" || shortCommit("") != "" {
		t.Errorf("short: %q", short)
	}
}

func TestOriginInGit(t *testing.T) {
	for remote, want := range map[string]string{"git@example.org:ann/hello.git": "example.org/ann/hello#web", "file:///srv/hello.git": ""} {
		g := step.Git{URL: remote, Path: "web"}
		o := originOf(t.Context(), config.Settings{Host: "laptop"}, &config.Project{Folder: "/home/ann/deploy", Git: &g})
		if o.Project != want || o.Git == nil || *o.Git != g || o.Folder != "/home/ann/deploy" || o.Host != "laptop" || o.Commit != "" {
			t.Errorf("%+v, want project %s", o, want)
		}
	}
}
