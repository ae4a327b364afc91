package main

import (
	"context"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/step"
)

// originOf returns the origin of a project's deploys.
func originOf(ctx context.Context, settings config.Settings, p *config.Project) step.Origin {
	origin := step.Origin{Folder: p.Folder, Host: settings.Host, Git: p.Git}
	if p.Git != nil {
		origin.Project = projectIn(p.Git.URL, p.Git.Path)
	} else {
		origin.Project = projectOf(ctx, p.Folder)
	}
	return origin
}

// commitOf returns the commit of the work tree that a source folder is in, and whether the
// folder differs from it. The commit is empty without git, a work tree or a commit.
func commitOf(ctx context.Context, folder string) (commit string, changed bool) {
	git, done := gitIn(ctx, folder)
	defer done()
	commit, ok := git("rev-parse", "--verify", "-q", "HEAD")
	if !ok {
		return "", false
	}
	// Without optional locks it does not write the index, which the user may be using.
	differs, ok := git("-c", "core.fsmonitor=false", "--no-optional-locks", "status", "--porcelain", "--", ".")
	if !ok {
		return "", false
	}
	return commit, differs != ""
}

// gitIn returns a function that runs git in a folder, and reports whether it could, until
// done is called or a few seconds have passed.
func gitIn(ctx context.Context, folder string) (git func(args ...string) (string, bool), done context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	return func(args ...string) (string, bool) {
		cmd := exec.CommandContext(ctx, "git", append([]string{"-C", folder}, args...)...)
		// In a git hook these variables name the hook's repository.
		cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
			name, _, _ := strings.Cut(v, "=")
			return name == "GIT_DIR" || name == "GIT_WORK_TREE" || name == "GIT_COMMON_DIR" || name == "GIT_PREFIX" || name == "GIT_INDEX_FILE"
		})
		out, err := cmd.Output()
		return strings.TrimSuffix(string(out), "\n"), err == nil
	}, cancel
}

// projectIn returns the identity of the project in a folder of a repository, "" if the
// URL means another repository on another host.
func projectIn(remote, folder string) string {
	project := normalRemote(remote)
	if folder = strings.TrimSuffix(folder, "/"); project != "" && folder != "" {
		project += "#" + folder
	}
	return project
}

// projectOf returns an identity of the project in folder that is the same in all
// checkouts: the URL of git remote "origin" and the folder in the repository, as
// "example.org/ann/hello#web". It is empty without git, a repository, or a remote that
// means the same on every host.
func projectOf(ctx context.Context, folder string) string {
	git, done := gitIn(ctx, folder)
	defer done()
	inside, ok := git("rev-parse", "--show-prefix")
	if !ok {
		return ""
	}
	remote, ok := git("config", "--get", "remote.origin.url")
	if !ok {
		return ""
	}
	return projectIn(remote, inside)
}

var (
	// scpForm is "git@example.org:ann/hello.git": ssh in the form of scp.
	scpForm = regexp.MustCompile(`^(?:[^@/]*@)?(\[[0-9a-fA-F:]+\]|[^:/\[\]]+):([^:].*)$`)
	// defaultPorts lists the schemes whose URLs mean the same on every host.
	defaultPorts = map[string]string{"ssh": "22", "https": "443", "http": "80", "git": "9418"}
)

// normalRemote returns a git remote without scheme, user, password, default port and
// ".git", as "example.org/ann/hello". So a clone by ssh and one by https are the same
// project. It is empty for a path on this host.
func normalRemote(remote string) string {
	if m := scpForm.FindStringSubmatch(remote); m != nil && !strings.Contains(remote, "://") {
		remote = "ssh://" + m[1] + "/" + strings.TrimLeft(m[2], "/")
	}
	u, err := url.Parse(remote)
	if err != nil || u.Host == "" {
		return ""
	}
	scheme := strings.NewReplacer("git+ssh", "ssh", "ssh+git", "ssh").Replace(strings.ToLower(u.Scheme))
	port, known := defaultPorts[scheme]
	if !known {
		return ""
	}
	host := strings.TrimSuffix(strings.ToLower(u.Host), ":"+port)
	path := strings.TrimRight(strings.TrimSuffix(strings.TrimRight(u.EscapedPath(), "/"), ".git"), "/")
	return host + path
}
