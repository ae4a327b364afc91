package remote

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
)

// options are given to every ssh. ssh takes the first value of an option, so the user's
// configuration does not change any of these.
var options = []string{
	"BatchMode=yes",
	"StrictHostKeyChecking=yes",
	"NoHostAuthenticationForLocalhost=no",
	"UpdateHostKeys=no", // the user's known_hosts is read, never written
	"ConnectTimeout=10",
	"ServerAliveInterval=5",
	"ServerAliveCountMax=3",
	"LogLevel=INFO",
	"ControlPersist=60s",
	"ClearAllForwardings=yes",
	"ForwardAgent=no",
	"ForwardX11=no",
	"Tunnel=no",
	"PermitLocalCommand=no",
	"RemoteCommand=none",
	"RequestTTY=no",
	"EscapeChar=none",
	// Options of OpenSSH 8.7 that older ones do not know.
	"IgnoreUnknown=SessionType,StdinNull,ForkAfterAuthentication",
	"StdinNull=no",
}

// command returns an ssh that writes its own messages to log.
func (h *Host) command(ctx context.Context, log *os.File, socket string, more ...string) *exec.Cmd {
	args := []string{"-T", "-E", log.Name()}
	if h.config != "" {
		args = append(args, "-F", h.config)
	}
	for _, o := range options {
		args = append(args, "-o", o)
	}
	args = append(args, "-o", "ControlPath="+socket)
	args = append(args, more...)
	if h.user != "" {
		args = append(args, "-l", h.user)
	}
	if h.port != "" {
		args = append(args, "-p", h.port)
	}
	cmd := exec.CommandContext(ctx, "ssh", append(args, "--", h.name)...)
	// ssh gets the whole environment: the user's configuration and agent may need any
	// variable. In LC_ALL=C its messages are the English ones that said reads.
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SSH_ASKPASS_REQUIRE=never")
	return cmd
}

func (h *Host) runSSH(ctx context.Context, op string, c Command) error {
	socket, release, err := connect(ctx, h)
	if err != nil {
		return err
	}
	defer release()
	log, err := newLog()
	if err != nil {
		return err
	}
	defer log.close()

	// If the connection has just ended, or the server allows fewer sessions than
	// expected, ssh makes a connection of its own.
	cmd := h.command(ctx, log.File, socket, "-o", "ControlMaster=no",
		"-o", "SessionType=default", "-o", "ForkAfterAuthentication=no")
	cmd.Args = append(cmd.Args, script)
	token := newToken()
	var stderr tail
	stdout := &opening{token: token, to: c.Stdout, began: log.remove}
	cmd.Stdout, cmd.Stderr = stdout, &stderr
	stdin := io.Reader(bytes.NewReader(header(token, c.Argv)))
	if c.Stdin != nil {
		stdin = io.MultiReader(stdin, c.Stdin)
	}
	err = Execute(ctx, cmd, stdin)
	n, ok := status(err)
	own := stderr.take(token)
	switch {
	case !ok && cmd.Process == nil:
		return notStarted(err)
	case !ok:
		return err // of ctx, Stdin or Stdout
	case stdout.open && n == 0:
		return nil
	case stdout.open && n <= 255 && (n != 255 || own) && cmd.ProcessState.Exited():
		return &Exit{Status: n, Stderr: stderr.text()}
	case stdout.open:
		return lost(op, log.text())
	case n == 255 || !cmd.ProcessState.Exited():
		return said(op, h, log.text())
	}
	return noShell(h, strings.TrimSpace(string(stdout.noise)+"\n"+stderr.text()))
}
