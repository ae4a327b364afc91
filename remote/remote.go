// Package remote runs commands on this host or on another one.
//
// It uses the system's OpenSSH client with the user's ~/.ssh/config, agent, keys and
// known_hosts, and on the other host sshd and a POSIX /bin/sh. It leaves nothing on the
// other host. On this one it has sockets and logs in one private folder, and ssh
// processes in the background that end 60 s after their last command.
//
// Host keys are always checked, also if ~/.ssh/config says otherwise, and nothing ever
// prompts. The key of a jump host (ProxyJump) is checked as ~/.ssh/config says.
//
// MORGANA_SSH_CONFIG=FILE makes ssh read FILE instead of ~/.ssh/config and
// /etc/ssh/ssh_config.
package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/morgana-deploy/morgana/step"
)

// Host is where commands run. It holds nothing open itself: Hosts of the same
// address share connections. It is safe for concurrent use.
type Host struct {
	user, name, port string // name is empty for this host
	config           string // the file of ssh -F; empty: the user's configuration
}

// Command is a program and its arguments.
type Command struct {
	// Argv is the program, as a name for PATH or an absolute path, and its
	// arguments. They arrive as given, with any bytes except NUL: no
	// shell parses them. Linux takes arguments of up to 128 KiB each. The
	// program's name does not begin with a dash.
	Argv []string
	// Stdin is the command's input; nil is empty. If the connection is lost or Run is
	// cancelled, the command reads end of file early: its result must be verified by a
	// length or digest.
	Stdin io.Reader
	// Stdout takes the command's output; nil discards it. After an error it may have got
	// a part of it. Its Write must not block for ever.
	Stdout io.Writer
}

// Exit is the error of a command that ran and ended with a status other than 0.
type Exit struct {
	// Status is 1..255, as in a shell: 126 for a program that cannot be executed, 127 for
	// one that is not there, 128+n after signal n.
	Status int
	// Stderr is the last 8 KiB of the command's error output.
	Stderr string
}

// Error returns one line: the status and the last line of Stderr.
func (e *Exit) Error() string {
	text := "exit status " + strconv.Itoa(e.Status)
	if last := lastLine(e.Stderr); last != "" {
		text += ": " + last
	}
	return text
}

// ssh puts host and user into the ProxyCommand and Match exec lines of the user, which a
// shell runs: they must have no characters that are special to a shell.
var (
	hostName = regexp.MustCompile(`^[A-Za-z0-9_:][A-Za-z0-9._:%-]*$`)
	userName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._@+-]*$`)
)

// plainWord matches a word that a shell takes as it is.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:@%+,=-]+$`)

// Open returns the host of an address: "" is this host, "ssh://[user@]host[:port]"
// another one, where host is a name, an address (IPv6 in brackets) or a Host of
// ~/.ssh/config, which also gives the user and port that are left out. Anything
// else is InvalidSpec with Field "host". Nothing is connected to yet.
func Open(address string) (*Host, error) {
	if address == "" {
		return &Host{}, nil
	}
	invalid := func(err error) error {
		return step.Invalid("host", "write ssh://user@host or ssh://user@host:port, or leave it out for this host", "%w", err)
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, invalid(fmt.Errorf("%q is not an address", address))
	}
	h := &Host{user: u.User.Username(), name: u.Hostname(), port: u.Port()}
	_, password := u.User.Password()
	switch {
	case u.Scheme != "ssh" || u.Opaque != "":
		return nil, invalid(fmt.Errorf("%q does not begin with ssh://", address))
	case password:
		return nil, invalid(errors.New("a password is not taken: ssh logs in with a key"))
	case u.Path != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, invalid(fmt.Errorf("%q has something after the host", address))
	case !hostName.MatchString(h.name):
		return nil, invalid(fmt.Errorf("%q is not the name of a host", h.name))
	case u.User != nil && !userName.MatchString(h.user):
		return nil, invalid(fmt.Errorf("%q is not the name of a user", h.user))
	case strings.HasSuffix(u.Host, ":"):
		return nil, invalid(fmt.Errorf("%q has no port after the colon", address))
	}
	if h.port != "" {
		if n, err := strconv.ParseUint(h.port, 10, 16); err != nil || n == 0 {
			return nil, invalid(fmt.Errorf("%q is not a port", h.port))
		}
	}
	if file := os.Getenv("MORGANA_SSH_CONFIG"); file != "" {
		if h.config, err = filepath.Abs(file); err != nil {
			return nil, step.During("find MORGANA_SSH_CONFIG", err)
		}
	}
	return h, nil
}

// With returns the host with another configuration: ssh -F file.
func (h *Host) With(file string) *Host {
	with := *h
	with.config = file
	return &with
}

// String returns "this host" or the address, as "ssh://root@xen1".
func (h *Host) String() string {
	if h.Local() {
		return "this host"
	}
	text := "ssh://"
	if h.user != "" {
		text += h.user + "@"
	}
	if strings.Contains(h.name, ":") {
		text += "[" + h.name + "]"
	} else {
		text += h.name
	}
	if h.port != "" {
		text += ":" + h.port
	}
	return text
}

// ByHand returns a command line for hints, which runs command on the host from a shell of
// this one: "xl list" or "ssh -F /lab/ssh_config -p 2222 root@xen1 xl list". Without a
// command it logs in. The words are not quoted, so they must be plain.
func (h *Host) ByHand(command ...string) string {
	if h.Local() {
		return strings.Join(command, " ")
	}
	return strings.Join(append([]string{h.ssh()}, command...), " ")
}

// ssh returns the ssh command line for the host, for a shell.
func (h *Host) ssh(options ...string) string {
	words := append([]string{"ssh"}, options...)
	if h.config != "" {
		file := h.config
		if !plainWord.MatchString(file) {
			file = "'" + strings.ReplaceAll(file, "'", `'\''`) + "'"
		}
		words = append(words, "-F", file)
	}
	if h.port != "" {
		words = append(words, "-p", h.port)
	}
	to := h.name
	if h.user != "" {
		to = h.user + "@" + to
	}
	return strings.Join(append(words, to), " ")
}

// Local reports whether commands run on this host.
func (h *Host) Local() bool { return h.name == "" }

// Run runs a command and waits for its end: nil if its status was 0, an [*Exit] if it was
// another. The command has LC_ALL=C and no terminal; its working directory is not
// defined. Elsewhere it has the environment of the user's login. Here it has PATH and
// HOME only, so that a process it leaves behind has no secrets.
//
// Errors of Stdin, Stdout and ctx are returned as they are. Errors of the connection are
// a [*step.Error]: Unauthorized (host key unknown or changed, user or key refused),
// NotFound (no such host name, Field "host", or MORGANA_SSH_CONFIG names a file that is
// not there), InvalidSpec (a line of the ssh configuration), Unsupported (no ssh here, no
// common cipher, an account that runs no commands). An error without a kind is transient:
// the host is down, or the connection was lost.
//
// When ctx ends, a local command is killed with its process group. The connection of a
// remote one is closed: the command reads end of file, is killed by SIGPIPE if it writes,
// and otherwise runs to its end. It may do so after a lost connection too. A caller that
// runs it again must expect the first run to go on, and use a lock for instance.
//
// A process that a command leaves in the background must not keep its stdout or stderr:
// ssh waits until they are closed, and here it is an error after a second.
func (h *Host) Run(ctx context.Context, c Command) error {
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return &step.Error{Op: "run a command on " + h.String(), Err: errors.New("no program is named")}
	}
	op := "run " + path.Base(c.Argv[0]) + " on " + h.String()
	if c.Argv[0][0] == '-' {
		return &step.Error{Op: op, Err: errors.New("a program's name does not begin with a dash")}
	}
	for _, arg := range c.Argv {
		if strings.IndexByte(arg, 0) >= 0 {
			return &step.Error{Kind: step.InvalidSpec, Op: op, Err: fmt.Errorf("argument %.60q has a NUL byte", arg)}
		}
	}
	if c.Stdout == nil {
		c.Stdout = io.Discard
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if h.Local() {
		return runLocal(ctx, op, c)
	}
	return h.runSSH(ctx, op, c)
}
