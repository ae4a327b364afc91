package config

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/morgana-deploy/morgana/step"
)

const inGit = "app: hello\ntoolchain: {kind: command, build: [[make]]}\ntargets: {dev: {kind: qemu}}\nsource:\n"

func TestSourceInGit(t *testing.T) {
	commit := strings.Repeat("0123456789", 4)
	for source, want := range map[string]step.Git{
		"git: https://example.org/ann/hello.git":          {URL: "https://example.org/ann/hello.git"},
		"git: https://ann@example.org:8443/hello":         {URL: "https://ann@example.org:8443/hello"},
		"git: http://127.0.0.1:8080/hello":                {URL: "http://127.0.0.1:8080/hello"},
		"git: git@example.org:ann/hello.git\n  ref: v1":   {URL: "git@example.org:ann/hello.git", Ref: "v1"},
		"git: example.org:~ann/hello\n  ref: HEAD":        {URL: "example.org:~ann/hello"},
		"git: git@[::1]:hello.git\n  path: .":             {URL: "git@[::1]:hello.git"},
		"git: ssh://git@example.org:2222/h\n  path: a/":   {URL: "ssh://git@example.org:2222/h", Path: "a"},
		"git: git+ssh://example.org/h\n  path: ./a/../b":  {URL: "git+ssh://example.org/h", Path: "b"},
		"git: file:///srv/hello.git\n  ref: a/b":          {URL: "file:///srv/hello.git", Ref: "a/b"},
		"git: file:///h\n  ref: refs/pull/7/head":         {URL: "file:///h", Ref: "refs/pull/7/head"},
		"git: file:///h\n  ref: " + commit[1:] + "a":      {URL: "file:///h", Ref: commit[1:] + "a"},
		"git: file:///h\n  ref: \"" + commit + "\"":       {URL: "file:///h", Ref: commit},
		"{git: file:///h, ref: release-2.x, path: x y/z}": {URL: "file:///h", Ref: "release-2.x", Path: "x y/z"},
	} {
		alone(t)
		write(t, Filename, inGit+"  "+source+"\n")
		p, err := Load("", nil)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		if p.Git == nil || *p.Git != want || p.Source != "" || p.CheckInput() != nil {
			t.Errorf("%s: got %+v and folder %q", source, p.Git, p.Source)
		}
		if pinned := len(want.Ref) == 40; p.Git.Pinned() != pinned {
			t.Errorf("%s: pinned %v", source, !pinned)
		}
	}
}

// A folder by flag or variable wins over the repository, and a prebuilt kernel is in it.
func TestSourceInGitAndOthers(t *testing.T) {
	folder := alone(t)
	write(t, Filename, inGit+"  git: file:///h\n")
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	SourceFlag(flags)
	if err := flags.Parse([]string{"--source", "here"}); err != nil {
		t.Fatal(err)
	}
	if p, err := Load("", flags); err != nil || p.Git != nil || p.Source != filepath.Join(folder, "here") {
		t.Errorf("%+v, %v", p, err)
	}
	write(t, Filename, strings.ReplaceAll(inGit, "{kind: command, build: [[make]]}", "{kind: prebuilt, kernel: ./dist/hello}")+"  git: file:///h\n")
	p, err := Load("", nil)
	if err != nil || p.Git == nil || p.Git.Kernel != "dist/hello" || p.Kernel != "" {
		t.Errorf("%+v, %v", p, err)
	}
	if err := p.Set("dev.memory=128"); err != nil || p.Git == nil || p.Git.Kernel != "dist/hello" {
		t.Errorf("after Set: %+v, %v", p.Git, err)
	}
	for kernel, want := range map[string]string{
		"/boot/hello": "morgana.yaml:2: toolchain.kernel: want a relative path: the source is in git",
		"../hello":    `morgana.yaml:2: toolchain.kernel: "../hello" is no path inside the repository`,
	} {
		write(t, Filename, strings.ReplaceAll(inGit, "{kind: command, build: [[make]]}", "{kind: prebuilt, kernel: "+kernel+"}")+"  git: file:///h\n")
		if _, err := Load("", nil); err == nil || err.Error() != want {
			t.Errorf("%s: %v", kernel, err)
		}
	}
}

// A bad repository is refused with its line. No error repeats a password.
func TestBadGit(t *testing.T) {
	const password, host = "the URL has a password or token in it", "is not the name of a host"
	for source, want := range map[string]string{
		"ref: main":                               "4: source.git: missing",
		"git: [a]":                                "5: source.git: want a string, not a list",
		"git: file:///h\n  branch: main":          "6: source.branch: unknown key",
		"git: file:///h\n  ref: 1.0":              "6: source.ref: want a string, not a number",
		"git: file:///h\n  ref: -x":               `6: source.ref: "-x" cannot be the name of a branch or tag`,
		"git: file:///h\n  ref: a..b":             `6: source.ref: "a..b" cannot be the name of a branch or tag`,
		"git: file:///h\n  ref: a b":              `6: source.ref: "a b" cannot be the name of a branch or tag`,
		"git: file:///h\n  ref: 'v*'":             `6: source.ref: "v*" cannot be the name of a branch or tag`,
		"git: file:///h\n  ref: a:b":              `6: source.ref: "a:b" cannot be the name of a branch or tag`,
		"git: file:///h\n  ref: main^{}":          `6: source.ref: "main^{}" cannot be the name of a branch or tag`,
		"git: file:///h\n  ref: x\n  path: ../up": `7: source.path: "../up" is no path inside the repository`,
		"git: file:///h\n  path: /etc":            `6: source.path: "/etc" is no path inside the repository`,
		"git: file:///h\n  path: a/.git/x":        `6: source.path: "a/.git/x" is no path inside the repository`,
		"git: https://ann:hush@example.org/h":     "5: source.git: " + password,
		"git: https://:hush@example.org/h":        "5: source.git: " + password,
		"git: https://ann%3Ahush@example.org/h":   "5: source.git: " + password,
		"git: https://ann:hu%sh@example.org/h":    "5: source.git: " + password,
		"git: https://ann:hush@exa mple.org/h":    "5: source.git: " + password,
		"git: https://ghp_hush@example.org/h":     "5: source.git: " + password,
		"git: https://glpat-hush@example.org/h":   "5: source.git: " + password,
		"git: ssh://ann:hush@example.org/h":       "5: source.git: " + password,
		"git: ann:hush@example.org:h":             "5: source.git: " + password,
		"git: https://example.org/h?token=hush":   "5: source.git: want a URL that ends with the repository's path",
		"git: https://example.org":                "5: source.git: want a URL that ends with the repository's path",
		"git: http://example.org/h":               "5: source.git: http is neither encrypted nor authenticated",
		"git: git://example.org/h":                `5: source.git: protocol "git" is not allowed`,
		"git: ftp://example.org/h":                `5: source.git: protocol "ftp" is not allowed`,
		"git: ext::sh -c hush":                    `5: source.git: "ext::sh -c hush" has a space or a control character`,
		"git: ext::sh":                            `5: source.git: "ext::sh" is not the URL of a git repository`,
		"git: --upload-pack=x":                    `5: source.git: "--upload-pack=x" begins with a hyphen`,
		"git: -x:y":                               `5: source.git: "-x:y" begins with a hyphen`,
		"git: ssh://-oProxyCommand=x/h":           `5: source.git: "-oProxyCommand=x" ` + host,
		"git: 'git@$(x):h'":                       `5: source.git: "$(x)" ` + host,
		"git: host:-x":                            `5: source.git: "host:-x" is not the URL of a git repository`,
		"git: /srv/hello.git":                     `5: source.git: "/srv/hello.git" is a path, not a URL`,
		"git: ../hello":                           `5: source.git: "../hello" is not the URL of a git repository`,
		"git: file://srv/hello":                   `5: source.git: "file://srv/hello" is not the URL of a folder`,
		"git: file:///":                           `5: source.git: "file:///" is not the URL of a folder`,
	} {
		alone(t)
		write(t, Filename, inGit+"  "+source+"\n")
		_, err := Load("", nil)
		e, ok := err.(*step.Error) //nolint:errorlint // the error itself
		if !ok || e.Kind != step.InvalidSpec || err.Error() != "morgana.yaml:"+want {
			t.Errorf("%s: got %v", source, err)
			continue
		}
		if all := e.Error() + e.Hint; strings.Contains(want, "password") && strings.Contains(all, "hu") || e.Hint == "" && !strings.Contains(want, "want a string, not a list") {
			t.Errorf("%s: %s (hint %q)", source, all, e.Hint)
		}
	}
}
