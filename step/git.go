package step

import (
	"net"
	"net/url"
	"path"
	"regexp"
	"strings"
	"unicode"
)

// Git is a source folder in a git repository.
type Git struct {
	// URL is the repository: https://, ssh://, git+ssh://, user@host:path or
	// file:///path. It has no password. http:// is for this host only.
	URL string `json:"url"`
	// Ref is a branch, a tag, a whole name ("refs/pull/7/head") or all digits of a
	// commit. Empty is the repository's HEAD.
	Ref string `json:"ref,omitempty"`
	// Path is the source folder in the repository; empty is the whole of it.
	Path string `json:"path,omitempty"`
	// Kernel is the existing kernel (toolchain prebuilt), a path from Path.
	Kernel string `json:"kernel,omitempty"`
	// Commit is the commit that was fetched; empty before.
	Commit string `json:"commit,omitempty"`
}

var (
	// gitScp is "user@host:path". The first part of a URL with "://" would match, too.
	gitScp = regexp.MustCompile(`^(?:([^@/:]+)@)?(\[[0-9A-Fa-f:.]+\]|[^@/:\[\]]+):(.+)$`)
	// gitHost and gitUser have no characters that are special to a shell: ssh passes
	// both to the shells of the user's ProxyCommand and Match exec.
	gitHost = regexp.MustCompile(`^[A-Za-z0-9_:][A-Za-z0-9._:%-]*$`)
	gitUser = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._@+-]*$`)
	// gitSecret matches URLs with a password, also malformed ones, and user names that
	// are access tokens.
	gitSecret = regexp.MustCompile(`^[^/]*//([^/@]*(:|%3[Aa])[^/]*|(gh[a-z]|glpat|github_pat)[-_][^/@]*)@|^[^/@:]+:[^/@]*@`)
	gitCommit = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
	// gitName is what git check-ref-format allows; see gitNotName, too.
	gitName    = regexp.MustCompile(`^[^-\x00-\x20\x7f~^:?*\[\\][^\x00-\x20\x7f~^:?*\[\\]*$`)
	gitNotName = regexp.MustCompile(`\.\.|@\{|//|^/|/$|(^|/)\.|\.$|\.lock(/|$)|^@$`)
)

const gitURLs = "as https://example.org/ann/hello.git, git@example.org:ann/hello.git or file:///srv/hello.git"

// String returns the repository with its ref and path:
// "https://example.org/ann/hello.git, main, folder web".
func (g Git) String() string {
	s := g.URL
	if g.Ref != "" {
		s += ", " + g.Ref
	}
	if g.Path != "" {
		s += ", folder " + g.Path
	}
	return s
}

// Pinned reports whether Ref is a commit.
func (g Git) Pinned() bool { return gitCommit.MatchString(g.Ref) }

// SSH returns the user, host and port that ssh connects to, false if it does not use ssh.
// User and port may be empty.
func (g Git) SSH() (user, host, port string, ok bool) {
	if !strings.Contains(g.URL, "://") {
		m := gitScp.FindStringSubmatch(g.URL)
		if m == nil {
			return "", "", "", false
		}
		return m[1], strings.Trim(m[2], "[]"), "", true
	}
	u, err := url.Parse(g.URL)
	if err != nil || u.Scheme != "ssh" && u.Scheme != "git+ssh" && u.Scheme != "ssh+git" {
		return "", "", "", false
	}
	return u.User.Username(), u.Hostname(), u.Port(), true
}

// Valid refuses a URL with a password or of a protocol that is not allowed, a Ref that git
// would take for something else, and a path that leads out. Field is that of morgana.yaml:
// "source.git", "source.ref", "source.path" or "toolchain.kernel".
func (g Git) Valid() error {
	if err := g.validURL(); err != nil {
		return err
	}
	if g.Ref != "" && (!gitName.MatchString(g.Ref) || gitNotName.MatchString(g.Ref)) {
		return Invalid("source.ref", "a branch, a tag or all digits of a commit", "%.80q cannot be the name of a branch or tag", g.Ref)
	}
	if g.Commit != "" && !gitCommit.MatchString(g.Commit) {
		return Invalid("source.ref", "all 40 hex digits", "%.80q is not a commit", g.Commit)
	}
	if err := validInside("source.path", g.Path); err != nil {
		return err
	}
	return validInside("toolchain.kernel", g.Kernel)
}

// validInside refuses a path that leads out of a repository, or to git's own files.
func validInside(field, p string) error {
	if p == "" || path.Clean(p) == p && p != "." && p != ".." && !path.IsAbs(p) && !strings.HasPrefix(p, "../") &&
		!strings.Contains("/"+p+"/", "/.git/") && !strings.ContainsFunc(p, unicode.IsControl) {
		return nil
	}
	return Invalid(field, "a path that stays inside, as web/app", "%.80q is no path inside the repository", p)
}

func (g Git) validURL() error {
	const field = "source.git"
	if gitSecret.MatchString(g.URL) { // the error must not repeat it
		return Invalid(field, "leave it out of the URL and give it to git on the worker's host, as by a credential helper (git help credentials)",
			"the URL has a password or token in it")
	}
	refuse := func(hint, format string, args ...any) error { return Invalid(field, hint, format, args...) }
	switch {
	case g.URL == "":
		return refuse("give the URL, "+gitURLs, "missing")
	case strings.ContainsFunc(g.URL, func(r rune) bool { return r <= ' ' || r == 0x7f || r == unicode.ReplacementChar }):
		return refuse("write a space as %20", "%.80q has a space or a control character", g.URL)
	case strings.HasPrefix(g.URL, "-"):
		return refuse(gitURLs, "%.80q begins with a hyphen", g.URL)
	case strings.HasPrefix(g.URL, "/"):
		return refuse("write file://"+path.Clean(g.URL), "%.80q is a path, not a URL", g.URL)
	case !strings.Contains(g.URL, "://"):
		m := gitScp.FindStringSubmatch(g.URL)
		if m == nil || strings.HasPrefix(m[3], ":") || strings.HasPrefix(m[3], "-") { // "ext::sh -c x"
			return refuse(gitURLs, "%.80q is not the URL of a git repository", g.URL)
		}
		user, host, _, _ := g.SSH()
		return g.validHost(user, host)
	}
	u, err := url.Parse(g.URL)
	if err != nil || u.Opaque != "" {
		return refuse(gitURLs, "%.80q is not a URL", g.URL)
	}
	switch u.Scheme {
	case "file":
		if u.Host != "" || u.User != nil || !strings.HasPrefix(u.Path, "/") || path.Clean(u.Path) == "/" {
			return refuse("three slashes and an absolute path, as file:///srv/hello.git", "%.80q is not the URL of a folder", g.URL)
		}
		return nil
	case "http":
		if ip := net.ParseIP(u.Hostname()); u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return refuse("use https or ssh", "http is neither encrypted nor authenticated")
		}
	case "https", "ssh", "git+ssh", "ssh+git":
	default:
		return refuse("https, ssh, git+ssh or file", "protocol %.20q is not allowed", u.Scheme)
	}
	if u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Trim(u.Path, "/") == "" {
		return refuse(gitURLs, "want a URL that ends with the repository's path")
	}
	return g.validHost(u.User.Username(), u.Hostname())
}

func (g Git) validHost(user, host string) error {
	if !gitHost.MatchString(host) {
		return Invalid("source.git", gitURLs, "%.80q is not the name of a host", host)
	}
	if user != "" && !gitUser.MatchString(user) {
		return Invalid("source.git", gitURLs, "%.80q is not the name of a user", user)
	}
	return nil
}
