package tree

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// probeTime bounds a call of Output.
const probeTime = time.Minute

// Output runs a program that changes nothing, as "opam switch show", in / and returns its
// standard output, trimmed. A program that fails is an [*exec.ExitError] with its standard
// error in Stderr. A missing program is [os.ErrNotExist]. The program is killed when ctx is
// done, or after a minute.
func (e Environ) Output(ctx context.Context, argv ...string) (string, error) {
	program, err := e.LookPath(argv[0])
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, probeTime, fmt.Errorf("no answer after %s", probeTime))
	defer cancel()
	if err := ctx.Err(); err != nil {
		return "", err
	}
	var out, errs bytes.Buffer
	cmd := &exec.Cmd{Path: program, Args: argv, Dir: "/", Env: e.all, Stdout: &out, Stderr: &errs, WaitDelay: drainTime,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}}
	p := start(cmd)
	if err := p.started(); err != nil {
		return "", fmt.Errorf("%s: cannot be run: %w", shown(argv), Cause(err))
	}
	var waitErr error
	select {
	case waitErr = <-p.exited:
	case <-ctx.Done():
		p.signal(syscall.SIGKILL)
		waitErr = <-p.exited
	}
	p.signal(syscall.SIGKILL) // processes that it left in the background
	err = p.reap()
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("%s: %w", shown(argv), context.Cause(ctx))
	case waitErr != nil:
		return "", fmt.Errorf("wait for %s: %w", shown(argv), waitErr)
	}
	if exit, ok := err.(*exec.ExitError); ok { //nolint:errorlint // Wait's own, not wrapped
		exit.Stderr = bytes.TrimSpace(errs.Bytes())
	}
	return strings.TrimSpace(out.String()), err
}
