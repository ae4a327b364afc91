package source

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/source/gittest"
	"github.com/morgana-deploy/morgana/step"
)

// wantRefused fetches and checks the error: its kind, field and text, and a part of its hint.
func wantRefused(t *testing.T, s step.Site, g step.Git, kind step.Kind, field, text, hint string) {
	t.Helper()
	_, err := New(s).Fetch(t.Context(), specOf(g))
	var e *step.Error
	if !errors.As(err, &e) {
		t.Errorf("%v: got %v", g, err)
		return
	}
	if e.Kind != kind || e.Field != field || e.Err.Error() != text || !strings.Contains(e.Hint, hint) {
		t.Errorf("%v: got %s of %q: %v (hint: %s)\nwant %s of %q: %s (hint: %s)", g, e.Kind, e.Field, e.Err, e.Hint, kind, field, text, hint)
	}
	if !strings.HasPrefix(e.Op, "fetch ") || strings.Contains(err.Error()+e.Hint, "hush") || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v: %q, %v (hint: %s)", g, e.Op, err, e.Hint)
	}
}

const (
	git    = "source.git"
	ref    = "source.ref"
	absent = "1111111111111111111111111111111111111111"
)

func TestFetchRefusesRefs(t *testing.T) {
	s := site(t)
	parent := t.TempDir()
	gittest.New(t, parent, "empty")
	r := gittest.New(t, parent, "hello")
	commit := r.Commit(content)
	for _, args := range [][]string{{"branch", "release"}, {"branch", "both"}, {"tag", "both"}, {"tag", "tree", "HEAD^{tree}"}} {
		r.Git(args...)
	}
	headless := gittest.New(t, parent, "headless")
	headless.Commit(content)
	headless.Git("branch", "-m", "other")
	headless.Git("symbolic-ref", "HEAD", "refs/heads/main")
	url := "file://" + r.Folder
	for _, c := range []struct {
		g                 step.Git
		kind              step.Kind
		field, text, hint string
	}{
		{step.Git{URL: url, Ref: "relaese"}, step.NotFound, ref, `the repository has no branch or tag "relaese"`, `did you mean "release"?`},
		{step.Git{URL: url, Ref: "gone"}, step.NotFound, ref, `the repository has no branch or tag "gone"`, "was it deleted or renamed? There are: both, main, release, tree"},
		{step.Git{URL: url, Ref: commit[:12]}, step.NotFound, ref, `the repository has no branch or tag "` + commit[:12] + `"`, "all its 40 digits"},
		{step.Git{URL: url, Ref: "both"}, step.InvalidSpec, ref, `"both" is a branch and a tag`, "write refs/heads/both or refs/tags/both"},
		{step.Git{URL: url, Ref: "tree"}, step.NotFound, ref, "refs/tags/tree is no commit", "name a branch"},
		{step.Git{URL: url, Ref: absent}, step.NotFound, ref, "the repository does not have " + absent, "a force-push may have removed it"},
		{step.Git{URL: url, Ref: "-x"}, step.InvalidSpec, ref, `"-x" cannot be the name of a branch or tag`, "a branch"},
		{step.Git{URL: url, Path: "wbe"}, step.NotFound, "source.path", `commit ` + commit[:12] + ` has no folder "wbe"`, "correct the path"},
		{step.Git{URL: url, Path: "main.c"}, step.NotFound, "source.path", `commit ` + commit[:12] + ` has no folder "main.c"`, "correct the path"},
		{step.Git{URL: url, Path: "../x"}, step.InvalidSpec, "source.path", `"../x" is no path inside the repository`, "stays inside"},
		{step.Git{URL: "file://" + parent + "/empty"}, step.NotFound, git, "the repository is empty", "push a branch first"},
		{step.Git{URL: "file://" + parent + "/headless"}, step.NotFound, git, "the repository's HEAD names no branch that exists", "give a ref: other"},
		{step.Git{URL: "file://" + parent + "/none"}, step.NotFound, git, "there is no repository", "correct the URL"},
		{step.Git{URL: "ext::sh"}, step.InvalidSpec, git, `"ext::sh" is not the URL of a git repository`, "https://"},
	} {
		wantRefused(t, s, c.g, c.kind, c.field, c.text, c.hint)
	}
	// A force-push removes a pinned commit once the server has pruned it.
	r.Git("commit", "-q", "--amend", "-m", "another")
	r.Git("branch", "-D", "-q", "release", "both")
	r.Git("tag", "-d", "both", "tree")
	r.Git("reflog", "expire", "--expire=now", "--all")
	r.Git("gc", "-q", "--prune=now")
	wantRefused(t, s, step.Git{URL: url, Ref: commit}, step.NotFound, ref, "the repository does not have "+commit, "a force-push may have removed it")

	t.Setenv("PATH", t.TempDir())
	wantRefused(t, s, step.Git{URL: url}, step.Unsupported, git, "git is not installed on the worker's host", installGit)
	if n := New(s).Needs(t.Context()); len(n) != 1 || n[0].Found != "" || n[0].Fix != installGit {
		t.Errorf("needs %+v", n)
	}
}

func TestFetchRefusesOverHTTP(t *testing.T) {
	s := site(t)
	parent := t.TempDir()
	gittest.New(t, parent, "hello").Commit(content)
	h := gittest.ServeHTTP(t, parent)
	url := h.URL("hello")
	wantRefused(t, s, step.Git{URL: h.URL("none")}, step.NotFound, git, "there is no repository", "git ls-remote "+h.URL("none"))
	h.Password = "hush"
	wantRefused(t, s, step.Git{URL: url}, step.Unauthorized, git, "the server wants credentials, and git has none", "credential helper")
	know(t, h.Server.URL, "hushhush")
	wantRefused(t, s, step.Git{URL: url}, step.Unauthorized, git, "the server refuses the credentials", "credential helper")
	for status, want := range map[int]struct {
		kind              step.Kind
		field, text, hint string
	}{
		http.StatusForbidden:          {step.Unauthorized, git, "the server forbids it to this user", "the right to read"},
		http.StatusTooManyRequests:    {step.Exhausted, git, "the server answers 429: too many requests", "limits"},
		http.StatusBadGateway:         {"", "", "unable to access '" + url + "/': The requested URL returned error: 502", ""},
		http.StatusServiceUnavailable: {"", "", "unable to access '" + url + "/': The requested URL returned error: 503", ""},
	} {
		h.Status = status
		wantRefused(t, s, step.Git{URL: url}, want.kind, want.field, want.text, want.hint)
	}
	h.Close()
	port := h.Listener.Addr().String()[len("127.0.0.1:"):]
	_, err := New(s).Fetch(t.Context(), specOf(step.Git{URL: url}))
	if err == nil || step.KindOf(err) != "" || !strings.Contains(err.Error(), "Failed to connect to 127.0.0.1 port "+port) {
		t.Errorf("host down: %v", err)
	}
	wantRefused(t, s, step.Git{URL: "https://nohost.invalid/h"}, step.NotFound, git, `no host "nohost.invalid" is known here`, "correct the name")
}

func TestFetchRefusesOverSSH(t *testing.T) {
	s := site(t)
	parent := t.TempDir()
	r := gittest.New(t, parent, "hello")
	r.Commit(content)
	ssh := gittest.ServeSSH(t)
	t.Setenv("MORGANA_SSH_CONFIG", ssh.Config)
	url := ssh.URL(r.Folder)
	wantRefused(t, s, step.Git{URL: ssh.URL(parent + "/none")}, step.NotFound, git, "there is no repository", "git ls-remote ssh://")
	ssh.Offer("stranger")
	_, err := New(s).Fetch(t.Context(), specOf(step.Git{URL: url}))
	if step.KindOf(err) != step.Unauthorized || !strings.Contains(err.Error(), "Permission denied (publickey)") {
		t.Errorf("a stranger's key: %v", err)
	}
	ssh.Offer("user")
	ssh.Know("")
	wantRefused(t, s, step.Git{URL: url}, step.Unauthorized, git, "its host key is not in known_hosts", "compare the fingerprint")
	ssh.Know("other")
	wantRefused(t, s, step.Git{URL: url}, step.Unauthorized, git, "its host key is not the one in known_hosts", "ssh-keygen -R")
	ssh.Know("host")
	ssh.Stop()
	_, err = New(s).Fetch(t.Context(), specOf(step.Git{URL: url}))
	if err == nil || step.KindOf(err) != "" || !strings.Contains(err.Error(), "Connection refused") {
		t.Errorf("host down: %v", err)
	}
}

func TestFetchRefusesSubmodules(t *testing.T) {
	s := site(t)
	parent := t.TempDir()
	lib := gittest.New(t, parent, "lib")
	lib.Commit(content)
	fresh := func(name, url string) *gittest.Repo {
		r := gittest.New(t, parent, name)
		r.Git("-c", "protocol.file.allow=always", "submodule", "add", "-q", lib.Folder, "lib")
		r.Git("config", "-f", ".gitmodules", "submodule.lib.url", url)
		r.Commit(nil)
		return r
	}
	fresh("transport", "ext::sh -c touch% "+parent+"/ran")
	fresh("absent", "../absentlib")
	noURL := fresh("nourl", "../lib")
	noURL.Git("rm", "-q", "--cached", ".gitmodules")
	noURL.Git("commit", "-q", "-m", "x")
	moved := fresh("moved", "../lib")
	moved.Git("update-index", "--cacheinfo", "160000,"+absent+",lib")
	moved.Git("commit", "-q", "-m", "x")
	local := fresh("local", lib.Folder)
	h := gittest.ServeHTTP(t, parent)
	lax := "[protocol \"ext\"]\n\tallow = always\n[protocol \"file\"]\n\tallow = always\n"
	if err := os.WriteFile(os.Getenv("GIT_CONFIG_GLOBAL"), []byte(lax), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		kind       step.Kind
		text, hint string
	}{
		"transport": {step.Unsupported, `protocol "ext" is not allowed`, "use https or ssh"},
		"absent":    {step.NotFound, "there is no repository", "correct the URL"},
		"nourl":     {step.NotFound, "the repository's .gitmodules does not have it", "add it to .gitmodules"},
		"moved":     {step.NotFound, "its repository does not have the commit", "was it pushed there?"},
		"local":     {step.Unsupported, `protocol "file" is not allowed`, "use https or ssh"},
	} {
		wantRefused(t, s, step.Git{URL: h.URL(name)}, want.kind, git, "submodule lib: "+want.text, want.hint)
	}
	if _, err := New(s).Fetch(t.Context(), specOf(step.Git{URL: "file://" + local.Folder})); err != nil { // here file is allowed
		t.Errorf("a folder's submodule in a folder: %v", err)
	}
	if _, err := os.Stat(filepath.Join(parent, "ran")); err == nil {
		t.Error("a submodule ran a program")
	}
}

// Files in Git LFS are refused if git-lfs did not fetch them; data that looks like one is not.
func TestFetchRefusesPointers(t *testing.T) {
	s := site(t)
	t.Setenv("GIT_LFS_SKIP_SMUDGE", "1") // with git-lfs installed, too
	r := gittest.New(t, t.TempDir(), "hello")
	text := pointer + "oid sha256:" + strings.Repeat("a", 64) + "\nsize 12\n"
	r.Commit(map[string]string{"main.c": "int main;", "test/data.bin": text})
	g := step.Git{URL: "file://" + r.Folder}
	if _, err := New(s).Fetch(t.Context(), specOf(g)); err != nil {
		t.Errorf("data: %v", err)
	}
	r.Commit(map[string]string{".gitattributes": "*.bin filter=lfs -text\n"})
	if _, err := exec.LookPath("git-lfs"); err != nil { // set up, and then removed
		lfs := "[filter \"lfs\"]\n\tprocess = git-lfs filter-process\n\trequired = true\n"
		if err := os.WriteFile(os.Getenv("GIT_CONFIG_GLOBAL"), []byte(lfs), 0o600); err != nil {
			t.Fatal(err)
		}
		wantRefused(t, s, g, step.Unsupported, git, "the repository has files in Git LFS, and git-lfs is not installed", "apt-get install git-lfs")
		if err := os.Remove(os.Getenv("GIT_CONFIG_GLOBAL")); err != nil {
			t.Fatal(err)
		}
	}
	wantRefused(t, s, g, step.Unsupported, git, "test/data.bin is in Git LFS, and was not fetched", "apt-get install git-lfs")
	g.Path, g.Kernel = "test", "data.bin"
	wantRefused(t, s, g, step.Unsupported, git, "data.bin is in Git LFS, and was not fetched", "apt-get install git-lfs")
}

// Progress is reported, and not kept among the messages.
func TestMessages(t *testing.T) {
	var got []step.Progress
	m := &messages{report: func(p step.Progress) { got = append(got, p) }}
	for _, part := range []string{"remote: Counting objects:  50% (1/2)\rremote: Counting obj", "ects: 100% (2/2), done.\nFrom x\n",
		"Receiving objects:  45% (450/1000), 1.20 MiB | 1 MiB/s\r\rfatal: no"} {
		if _, err := m.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	want := []step.Progress{{Done: 1, Total: 2, Unit: "objects"}, {Done: 2, Total: 2, Unit: "objects"}, {Done: 450, Total: 1000, Unit: "objects"}}
	if !reflect.DeepEqual(got, want) || m.text() != "From x\nfatal: no" {
		t.Errorf("%+v, %q", got, m.text())
	}
}
