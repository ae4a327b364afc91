package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/morgana-deploy/morgana/step"
)

const install = "apt-get install openssh-client"

// The causes of errors of a login, for errors.Is.
var (
	// ErrHostKey says that the host has another key than known_hosts has for it.
	ErrHostKey = errors.New("its host key is not the one in known_hosts")
	// ErrRefused says that the host refuses the user or the user's key.
	ErrRefused = errors.New("the login was refused")
)

// refused is ErrRefused with ssh's text.
type refused struct{ text string }

func (r refused) Error() string { return r.text }
func (r refused) Unwrap() error { return ErrRefused }

// said returns the error for the log of an ssh that could not connect. ssh exits with
// 255 whatever failed, so only the text of the log tells the failures apart. The text is
// English, because ssh runs with LC_ALL=C.
func said(op string, h *Host, log string) error {
	known := h.name
	if h.port != "" {
		known = "[" + h.name + "]:" + h.port
	}
	e := &step.Error{Op: op}
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(log, w) {
				return true
			}
		}
		return false
	}
	switch {
	case has("REVOKED HOST KEY"):
		e.Kind, e.Err = step.Unauthorized, errors.New("its host key is marked as revoked")
		e.Hint = "that key is known to be in wrong hands: do not log in; ask whoever wrote @revoked into known_hosts"
	case has("REMOTE HOST IDENTIFICATION HAS CHANGED", "Host key for ") && has("Host key verification failed"):
		e.Kind, e.Err = step.Unauthorized, ErrHostKey
		remove := "ssh-keygen -R '" + known + "'"
		if h.config != "" {
			remove += " -f the UserKnownHostsFile of " + h.config
		}
		e.Hint = "if the host was installed anew: " + remove + ", then get its new key as for an unknown host; if not, somebody else may be answering"
	case has("Host key verification failed"):
		e.Kind, e.Err = step.Unauthorized, errors.New("its host key is not in known_hosts")
		e.Hint = "log in once by hand (" + h.ByHand() + ") and compare the fingerprint with one from the host itself (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub); the same goes for what ssh-keyscan prints"
	case has("Permission denied ("):
		e.Kind, e.Err = step.Unauthorized, refused{line(log, "Permission denied (")}
		e.Hint = "let the worker's key in (ssh-copy-id), or name the right user, key or agent: " + h.ByHand() + " must log in without a question"
	case has("Too many authentication failures"):
		e.Kind, e.Err = step.Unauthorized, errors.New("too many keys were offered before the right one")
		e.Hint = "set IdentityFile and IdentitiesOnly yes for this host in " + h.configuration()
	case has("Temporary failure in name resolution"):
		e.Err = errors.New(line(log, "Temporary failure"))
	case has("Could not resolve hostname"):
		// The name service answered that the name does not exist, so the error is final.
		// The case above is a name service that does not answer.
		e.Kind, e.Field = step.NotFound, "host"
		e.Err = fmt.Errorf("no host %q is known here", h.name)
		e.Hint = "correct the name, or give it a Host line in " + h.configuration()
	case h.config != "" && has("Can't open user config file "+h.config+": No such file"):
		e.Kind, e.Err = step.NotFound, fmt.Errorf("MORGANA_SSH_CONFIG names a file that is not there: %s", h.config)
		e.Hint = "correct it; if it is the lab's, start the lab: make xenlab; to use ~/.ssh/config, unset it and run morgana dev down"
	case has("Bad configuration option", "bad configuration options", "Bad owner or permissions", "Can't open user config"):
		e.Kind, e.Err = step.InvalidSpec, errors.New(first(log))
		e.Hint = "mend that line of the ssh configuration; " + h.ssh("-G") + " reads it"
	case has("Unable to negotiate with"):
		e.Kind, e.Err = step.Unsupported, errors.New(line(log, "Unable to negotiate with"))
		e.Hint = "the host is much older or newer than this ssh: see https://www.openssh.com/legacy.html"
	default:
		if text := last(log); text != "" {
			e.Err = errors.New(text)
		} else {
			e.Err = errors.New("the connection was lost")
		}
	}
	return e
}

// configuration returns the path of the ssh configuration, for hints.
func (h *Host) configuration() string { return cmp.Or(h.config, "~/.ssh/config") }

// lost returns the error of a connection that ended while a command ran.
func lost(op, log string) error {
	err := errors.New("the connection was lost while it ran")
	if text := last(log); text != "" {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return &step.Error{Op: op, Err: err}
}

// noShell returns the error of an account that runs no commands.
func noShell(h *Host, text string) error {
	err := errors.New("the account runs no commands")
	if text := lastLine(text); text != "" {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return &step.Error{Kind: step.Unsupported, Op: "run commands on " + h.String(), Err: err,
		Hint: "name a user with a POSIX /bin/sh and no forced command"}
}

func notStarted(err error) error {
	e := &step.Error{Op: "start ssh", Err: err}
	if errors.Is(err, exec.ErrNotFound) {
		e.Kind, e.Err, e.Hint = step.Unsupported, errors.New("ssh is not installed"), install
	}
	return e
}

// lines returns the lines of ssh's log without its messages about shared connections,
// which are harmless.
func lines(log string) []string {
	var all []string
	for l := range strings.Lines(log) {
		l = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(l), "ssh: "), ".")
		l = strings.TrimPrefix(l, "connect to host ") // the Op says so
		if l != "" && !strings.HasPrefix(l, "mux_client_") && !strings.HasPrefix(l, "Control socket ") && !strings.HasPrefix(l, "ControlSocket ") {
			all = append(all, l)
		}
	}
	return all
}

func line(log, with string) string {
	for _, l := range lines(log) {
		if strings.Contains(l, with) {
			return l
		}
	}
	return ""
}

func first(log string) string {
	if all := lines(log); len(all) > 0 {
		return all[0]
	}
	return ""
}

func last(log string) string {
	if all := lines(log); len(all) > 0 {
		return all[len(all)-1]
	}
	return ""
}

// Needs lists the programs of this host for running commands on other ones, for
// [step.Needer].
func Needs(ctx context.Context) []step.Need {
	n := step.Need{For: "reach other hosts", What: "ssh", Fix: install}
	path, err := exec.LookPath("ssh")
	if err != nil {
		return []step.Need{n}
	}
	n.Found, n.Fix = path, ""
	if version, err := exec.CommandContext(ctx, path, "-V").CombinedOutput(); err == nil {
		n.Found += " (" + lastLine(string(version)) + ")"
	}
	return []step.Need{n}
}
