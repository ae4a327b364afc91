package source

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"

	"github.com/morgana-deploy/morgana/remote"
	"github.com/morgana-deploy/morgana/step"
)

var (
	userInfo      = regexp.MustCompile(`://[^/@\s']*@`)
	inSubmodule   = regexp.MustCompile(`submodule path '([^']*)'`)
	submoduleURL  = regexp.MustCompile(`clone of '([^']*)' into submodule path`)
	noHost        = regexp.MustCompile(`Could not resolve host: (\S+)`)
	noTransport   = regexp.MustCompile(`transport '([^']*)' not allowed`)
	httpStatus    = regexp.MustCompile(`The requested URL returned error: (\d+)`)
	noSSHMessages = regexp.MustCompile(`(?m)^(Cloning into|Submodule |fatal: |error: |Failed to clone|and the repository exists|Please make sure|warning: ).*$`)
)

// errNotShallow marks the error of a server that gives no single commit by its hash, or no
// shallow history. A fetch of the whole history may work.
var errNotShallow = errors.New("")

func unshallow(err error) bool { return errors.Is(err, errNotShallow) }

// notShallow are the messages of such a server.
var notShallow = regexp.MustCompile(`Server does not allow request for unadvertised object|does not support shallow|` +
	`Direct fetching of that commit failed|Unable to find current revision in submodule path|dumb http transport`)

// refused returns the error for the messages of a git that failed. git exits with 128
// whatever failed, so only its messages tell the failures apart. They are English, because
// git runs with LC_ALL=C.
func (c *checkout) refused(ctx context.Context, said string) error {
	said = userInfo.ReplaceAllString(said, "://")
	at, submodule := c.git, ""
	if m := inSubmodule.FindStringSubmatch(said); m != nil {
		submodule = "submodule " + strings.TrimPrefix(m[1], c.folder+"/") + ": "
		if m := submoduleURL.FindStringSubmatch(said); m != nil {
			at = step.Git{URL: m[1]}
		}
	}
	refuse := func(kind step.Kind, hint, format string, args ...any) error {
		e := &step.Error{Kind: kind, Field: "source.git", Hint: hint, Err: fmt.Errorf("%s"+format, append([]any{submodule}, args...)...)}
		if kind == "" || kind == step.NoSpace { // no line of morgana.yaml is to blame
			e.Field = ""
		}
		return e
	}
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(said, w) {
				return true
			}
		}
		return false
	}
	status := ""
	if m := httpStatus.FindStringSubmatch(said); m != nil {
		status = m[1]
	}
	byHand := "git ls-remote " + at.URL + " must work without a question for the worker's user"
	switch {
	case has("No space left on device", "Disk quota exceeded"):
		return refuse(step.NoSpace, "free space for "+c.folder, "the disk is full")
	case has("No url found for submodule path"):
		return refuse(step.NotFound, "add it to .gitmodules, or remove it from git", "the repository's .gitmodules does not have it")
	case noTransport.MatchString(said):
		return refuse(step.Unsupported, "use https or ssh, in .gitmodules or the URL", "protocol %q is not allowed", noTransport.FindStringSubmatch(said)[1])
	case has("could not read Username", "could not read Password", "terminal prompts disabled"):
		return refuse(step.Unauthorized, "give git a credential helper on the worker's host (git help credentials): "+byHand+"; some servers answer so for a repository that does not exist",
			"the server wants credentials, and git has none")
	case has("Authentication failed for"), status == "401":
		return refuse(step.Unauthorized, "correct what git's credential helper has on the worker's host: "+byHand, "the server refuses the credentials")
	case status == "403":
		return refuse(step.Unauthorized, "give that user the right to read the repository, or git other credentials on the worker's host", "the server forbids it to this user")
	case status == "429":
		return refuse(step.Exhausted, "the server limits requests", "the server answers 429: too many requests")
	case status == "404", has("does not appear to be a git repository", "Repository not found", "not valid: is this a git repository", "' not found"):
		return refuse(step.NotFound, "correct the URL; some servers answer so if the user may not read it: "+byHand, "there is no repository")
	case has("git-lfs: not found", "git-lfs: command not found", "'lfs' is not a git command"):
		return refuse(step.Unsupported, installLFS, "the repository has files in Git LFS, and git-lfs is not installed")
	case has("detected dubious ownership"):
		return refuse(step.Unauthorized, "if you trust its owner: git config --global --add safe.directory "+strings.TrimPrefix(at.URL, "file://"), "the repository belongs to another user")
	case has("SSL certificate problem", "certificate verification failed", "SSL: no alternative certificate"):
		return refuse(step.Unauthorized, "if the server's certificate is of an authority of your own, name it to git: git config --global http.sslCAInfo FILE", "the server's certificate is not trusted")
	case noHost.MatchString(said):
		if host := noHost.FindStringSubmatch(said)[1]; unknown(ctx, host) {
			return refuse(step.NotFound, "correct the name", "no host %q is known here", host)
		}
	case has("not our ref", "couldn't find remote ref"):
		if submodule == "" {
			return c.noCommit()
		}
		return refuse(step.NotFound, "was it pushed there?", "its repository does not have the commit")
	case notShallow.MatchString(said):
		return refuse(step.NotFound, "was it pushed there?", "its repository does not have the commit%w", errNotShallow)
	}
	if user, host, port, ok := at.SSH(); ok {
		if h, err := remote.Open(sshAddress(user, host, port)); err == nil {
			var refusal *step.Error
			if errors.As(h.Said("", noSSHMessages.ReplaceAllString(said, "")), &refusal) && refusal.Kind != "" {
				return refuse(refusal.Kind, refusal.Hint, "%w", refusal.Err)
			}
		}
	}
	return refuse("", "", "%s", strings.TrimSpace(lastMessage(said)))
}

// noCommit is the error of a ref that was there a moment ago, or of a pinned commit.
func (c *checkout) noCommit() error {
	return &step.Error{Kind: step.NotFound, Field: "source.ref", Err: fmt.Errorf("the repository does not have %s", c.git.Ref),
		Hint: "a force-push may have removed it: name another commit, or a branch"}
}

func sshAddress(user, host, port string) string {
	u := url.URL{Scheme: "ssh", Host: host}
	if strings.Contains(host, ":") {
		u.Host = "[" + host + "]"
	}
	if port != "" {
		u.Host += ":" + port
	}
	if user != "" {
		u.User = url.User(user)
	}
	return u.String()
}

// unknown reports whether the name service answers that there is no such host.
func unknown(ctx context.Context, host string) bool {
	var dns *net.DNSError
	_, err := net.DefaultResolver.LookupHost(ctx, host)
	return errors.As(err, &dns) && dns.IsNotFound
}

// lastMessage returns the message that says best why git failed: its last one that is not
// about the consequences.
func lastMessage(said string) string {
	best := "git failed"
	for line := range strings.Lines(said) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "fatal: Could not read from remote") || strings.HasPrefix(line, "Please make sure") ||
			strings.HasPrefix(line, "and the repository exists") || strings.HasPrefix(line, "fatal: clone of ") ||
			strings.HasPrefix(line, "Failed to clone") || strings.HasPrefix(line, "fatal: Failed to recurse") || line == "" {
			continue
		}
		for _, prefix := range []string{"fatal: ", "error: ", "remote: "} {
			line = strings.TrimPrefix(line, prefix)
		}
		best = line
	}
	return best
}
