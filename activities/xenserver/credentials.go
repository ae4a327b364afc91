package xenserver

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

// credentials are a user and a password. They are sent to their server alone: a Spec may name
// any host, and a certificate of that. The sources are
//
//   - ~/.xe.d/<profile>, if the target has a profile, and then no other
//   - XENSERVER_HOST, XENSERVER_USERNAME and XENSERVER_PASSWORD, as the providers of
//     Terraform and Ansible have them
//   - ~/.xe, the file of the tool xe
//
// A file has lines as "username=root". passwordfile= names a file as xe -pwf takes it: the
// user in its first line and the password in its second.
type credentials struct {
	from           string // the source, for errors
	server         string // its URL, once it was checked
	user, password string
}

// login sets s.Host if the options do not, and returns the credentials for it. The error is
// InvalidSpec if nothing names a host, else Unauthorized.
func (s *settings) login() (credentials, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return credentials{}, denied("give the worker a HOME", "%w", err)
	}
	sources := []func() (credentials, error){environment, func() (credentials, error) { return fileCredentials(filepath.Join(home, ".xe")) }}
	if s.Profile != "" {
		sources = []func() (credentials, error){func() (credentials, error) { return fileCredentials(filepath.Join(home, ".xe.d", s.Profile)) }}
	}
	var others []string
	for _, source := range sources {
		c, err := source()
		if err == nil && c != (credentials{}) {
			err = c.check()
		}
		switch {
		case err != nil:
			return c, err
		case c == credentials{}:
		case s.Host == "" || sameHost(s.Host, c.server):
			s.Host = cmp.Or(s.Host, c.server)
			return c, nil
		default:
			others = append(others, fmt.Sprintf("%s is for %s", c.from, c.server))
		}
	}
	const lines = "put the lines server=, username= and password= into "
	switch {
	case others != nil:
		return credentials{}, denied("correct server= or XENSERVER_HOST there, with the port unless it is 443; or "+lines+"~/.xe.d/NAME, chmod 600, and set profile: NAME",
			"the worker has no password for %s: %s", s.Host, strings.Join(others, ", "))
	case s.Profile != "":
		return credentials{}, denied(lines+"it; chmod 600", "the worker has no file ~/.xe.d/%s", s.Profile)
	case s.Host == "":
		return credentials{}, step.Invalid("host", `the URL of the pool's master, as "https://xen1.example.org"`, "needed: the worker's environment and ~/.xe name none")
	}
	return credentials{}, denied(lines+"~/.xe; chmod 600", "the worker has no password for %s", s.Host)
}

func denied(hint, format string, args ...any) error {
	return &step.Error{Kind: step.Unauthorized, Field: "profile", Err: fmt.Errorf(format, args...), Hint: hint}
}

// check refuses credentials without a password or a server.
func (c *credentials) check() error {
	switch {
	case c.password == "":
		return denied("add the line password=...", "%s has no password", c.from)
	case c.server == "":
		return denied("add server= there, or set XENSERVER_HOST beside XENSERVER_PASSWORD: a password is sent to its server alone", "%s names no server", c.from)
	case !strings.Contains(c.server, "://"):
		c.server = "https://" + c.server
	}
	if err := checkHost("", c.server); err != nil {
		return denied(`a server as "xen1.example.org"`, "%s: %w", c.from, err)
	}
	c.user = cmp.Or(c.user, "root") // as xe and Ansible
	return nil
}

func sameHost(a, b string) bool {
	u, err := url.Parse(a)
	v, wrong := url.Parse(b)
	return err == nil && wrong == nil && strings.EqualFold(at(u, u.Host).Host, at(v, v.Host).Host)
}

func environment() (c credentials, err error) {
	if password := os.Getenv("XENSERVER_PASSWORD"); password != "" {
		c = credentials{from: "XENSERVER_PASSWORD of the worker", server: os.Getenv("XENSERVER_HOST"), password: password,
			user: cmp.Or(os.Getenv("XENSERVER_USERNAME"), os.Getenv("XENSERVER_USER"))}
	}
	return c, nil
}

// fileCredentials reads a file. Those of a file that does not exist are zero.
func fileCredentials(path string) (c credentials, err error) {
	lines, err := secretLines(path)
	if err != nil || lines == nil {
		return c, err
	}
	c.from = path
	for _, line := range lines {
		key, value, _ := strings.Cut(line, "=")
		switch strings.TrimSpace(key) {
		case "server":
			c.server = strings.TrimSpace(value)
		case "username":
			c.user = value
		case "password":
			c.password = value
		case "passwordfile":
			name := strings.TrimSpace(value)
			two, err := secretLines(name)
			if err != nil {
				return c, err
			}
			if two == nil {
				return c, denied("correct passwordfile= there", "%s: no such file as %s", path, name)
			}
			if len(two) > 1 {
				c.user, c.password = two[0], two[1]
			}
		}
	}
	return c, nil
}

// secretLines returns the lines of a file that no other user may read, nil if it does not exist.
func secretLines(path string) ([]string, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var text []byte
	if err == nil {
		text, err = files.Read(path, 64<<10)
	}
	if err != nil {
		return nil, denied("put a file there that the worker's user may read", "%w", err)
	}
	if info.Mode()&0o077 != 0 {
		return nil, denied("chmod 600 "+path, "others may read %s", path)
	}
	return strings.Split(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n"), nil
}
