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

// credentials are a user and a password as one source has them. The sources are
//
//   - ~/.xe.d/<profile>, if the target has a profile, and then no other
//   - XENSERVER_HOST, XENSERVER_USERNAME and XENSERVER_PASSWORD, as the providers of
//     Terraform and Ansible have them
//   - XE_EXTRA_ARGS, as "server=xen1,username=root,passwordfile=/root/pw", then ~/.xe, which
//     are those of the tool xe
//
// A file has lines as "username=root", as ~/.xe does, or is a password file as xe -pwf takes
// it: the user in its first line and the password in its second. Credentials with a server
// are sent to no other host.
type credentials struct {
	from           string // the source, for errors
	server         string // its URL; "" if the source names none
	user, password string
	passwordFile   string
	port           string
	there          bool
}

// login sets s.Host if the options do not, and returns the credentials for it.
func (s *settings) login() (credentials, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return credentials{}, step.Invalid("profile", "give the worker a HOME", "%w", err)
	}
	if s.Profile != "" {
		c, err := fileCredentials(filepath.Join(home, ".xe.d", s.Profile))
		switch {
		case err == nil && !c.there:
			err = step.Invalid("profile", "put username= and password= there, each in a line, and server= with the host; chmod 600", "the worker has no file ~/.xe.d/%s", s.Profile)
		case err == nil:
			_, err = s.take(&c)
		}
		return c, err
	}
	var others []string
	rc, err := fileCredentials(filepath.Join(home, ".xe"))
	if err != nil {
		return rc, err
	}
	for _, c := range []credentials{environment(), extraArgs(), rc} {
		if !c.there {
			continue
		}
		fits, err := s.take(&c)
		if fits || err != nil {
			return c, err
		}
		others = append(others, fmt.Sprintf("%s is for %s", c.from, c.server))
	}
	if s.Host == "" {
		return credentials{}, step.Invalid("host", `the URL of the pool's master, as "https://xen1.example.org"`, "needed: the worker's environment and ~/.xe name none")
	}
	text := "the worker has no password for " + s.Host
	if others != nil {
		text += ": " + strings.Join(others, ", ")
	}
	return credentials{}, &step.Error{Kind: step.Unauthorized, Field: "profile", Err: errors.New(text),
		Hint: "name a profile, a file in ~/.xe.d of the worker's user with lines server=, username= and password=; or give the worker XENSERVER_USERNAME and XENSERVER_PASSWORD, and start it again"}
}

// take completes the credentials and sets s.Host if it is empty. fits is false for those of
// another host.
func (s *settings) take(c *credentials) (fits bool, err error) {
	if c.server != "" {
		if !strings.Contains(c.server, "://") {
			c.server = "https://" + c.server
		}
		if err := checkHost("host", c.server); err != nil {
			return false, &step.Error{Kind: step.InvalidSpec, Err: fmt.Errorf("%s: %w", c.from, err), Hint: `a server as "xen1.example.org"`}
		}
		u, err := url.Parse(c.server)
		if err != nil {
			return false, err
		}
		if u.Port() == "" && c.port != "" {
			u.Host += ":" + c.port
		}
		c.server = u.String()
		if s.Host = cmp.Or(s.Host, c.server); !sameHost(s.Host, c.server) {
			if s.Profile != "" {
				err = step.Invalid("host", "leave out host, or name another profile", "profile %s is for %s, not for %s", s.Profile, c.server, s.Host)
			}
			return false, err
		}
	}
	if s.Host == "" {
		return true, step.Invalid("host", `the URL of the pool's master, as "https://xen1.example.org"`, "needed: %s names no server", c.from)
	}
	if c.passwordFile != "" {
		of, err := fileCredentials(c.passwordFile)
		if err != nil {
			return true, err
		}
		c.user, c.password = of.user, of.password
	}
	c.user = cmp.Or(c.user, "root") // as xe and Ansible
	if c.password == "" {
		return true, &step.Error{Kind: step.Unauthorized, Field: "profile", Err: fmt.Errorf("%s has no password", c.from), Hint: "add it there"}
	}
	return true, nil
}

func sameHost(a, b string) bool {
	u, err := url.Parse(a)
	v, wrong := url.Parse(b)
	return err == nil && wrong == nil && strings.EqualFold(at(u, u.Host).Host, at(v, v.Host).Host)
}

func environment() credentials {
	c := credentials{from: "XENSERVER_PASSWORD of the worker", server: os.Getenv("XENSERVER_HOST"), password: os.Getenv("XENSERVER_PASSWORD"),
		user: cmp.Or(os.Getenv("XENSERVER_USERNAME"), os.Getenv("XENSERVER_USER"))}
	c.there = c.password != ""
	return c
}

// extraArgs reads XE_EXTRA_ARGS. A backslash before a comma makes it a part of the value.
func extraArgs() credentials {
	const hidden = "\x00"
	c := credentials{from: "XE_EXTRA_ARGS of the worker"}
	for arg := range strings.SplitSeq(strings.ReplaceAll(os.Getenv("XE_EXTRA_ARGS"), `\,`, hidden), ",") {
		c.set(strings.ReplaceAll(strings.ReplaceAll(arg, `\`, ""), hidden, ","))
	}
	return c
}

// set takes a setting as "username=root". It ignores those of xe that are no credentials.
func (c *credentials) set(setting string) {
	key, value, _ := strings.Cut(setting, "=")
	switch strings.TrimSpace(key) {
	case "server":
		c.server = strings.TrimSpace(value)
	case "port":
		c.port = strings.TrimSpace(value)
	case "username":
		c.user = value
	case "password":
		c.password = value
	case "passwordfile":
		c.passwordFile = strings.TrimSpace(value)
	default:
		return
	}
	c.there = c.there || c.password != "" || c.passwordFile != ""
}

// fileCredentials reads a file of either form. A file that does not exist has none.
func fileCredentials(path string) (credentials, error) {
	c := credentials{from: path}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	var text []byte
	if err == nil {
		text, err = files.Read(path, 64<<10)
	}
	if err != nil {
		return c, &step.Error{Kind: step.Unauthorized, Field: "profile", Err: err, Hint: "let the worker's user read it"}
	}
	if info.Mode()&0o077 != 0 {
		return c, &step.Error{Kind: step.Unauthorized, Field: "profile", Err: fmt.Errorf("others may read %s", path), Hint: "chmod 600 " + path}
	}
	lines := strings.Split(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n")
	for _, line := range lines {
		if !strings.HasPrefix(line, "#") {
			c.set(line)
		}
	}
	if !c.there && c.server == "" && c.user == "" && len(lines) > 1 {
		c.user, c.password, c.there = lines[0], lines[1], true
	}
	return c, nil
}
