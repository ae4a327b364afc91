package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// grace is how long the pipes of an ended command may stay open.
const grace = time.Second

// Execute runs cmd in a session of its own, without a terminal to prompt on, and feeds it
// stdin, which may be nil. The command is killed with the worker. When ctx ends, its whole process group is
// killed. Pdeathsig fires when the thread that started the command ends, so that thread
// is locked.
func Execute(ctx context.Context, cmd *exec.Cmd, stdin io.Reader) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = grace
	if stdin == nil {
		stdin = bytes.NewReader(nil)
	}
	out := &writing{to: cmd.Stdout}
	if out.to == nil {
		out.to = io.Discard
	}
	cmd.Stdout = out
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	fed := make(chan error, 1)
	go func() {
		r := &reading{from: stdin}
		_, _ = io.Copy(pipe, r) // a command need not read all of it
		fed <- r.err
		_ = pipe.Close()
	}()
	err = cmd.Wait()
	// The command has ended, so do not wait for a Stdin that blocks in Read.
	select {
	case bad := <-fed:
		if bad != nil && ctx.Err() == nil {
			return bad
		}
	case <-time.After(grace):
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case out.err != nil: // the command died of it
		return out.err
	}
	return err
}

// reading keeps the error that ended reading, unless it is io.EOF.
type reading struct {
	from io.Reader
	err  error
}

func (r *reading) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// writing keeps the error of a failed write.
type writing struct {
	to  io.Writer
	err error
}

func (w *writing) Write(p []byte) (int, error) {
	n, err := w.to.Write(p)
	if err != nil {
		w.err = err
	}
	return n, err
}

// status returns a process's exit status as a shell gives it: 128+n after signal n. ok is
// false if err is not about how a process ended.
func status(err error) (n int, ok bool) {
	if err == nil {
		return 0, true
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return 0, false
	}
	if ws, is := exit.Sys().(syscall.WaitStatus); is && ws.Signaled() {
		return 128 + int(ws.Signal()), true
	}
	return exit.ExitCode(), true
}

// localEnviron returns the part of the worker's environment that a command on this host
// gets. The worker's credentials must not reach a domain's QEMU and the scripts around
// it.
func localEnviron() []string {
	env := []string{"LC_ALL=C"}
	for _, name := range []string{"PATH", "HOME"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

func runLocal(ctx context.Context, op string, c Command) error {
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	var stderr tail
	cmd.Stdout, cmd.Stderr, cmd.Env = c.Stdout, &stderr, localEnviron()
	err := Execute(ctx, cmd, c.Stdin)
	if n, ok := status(err); ok {
		if n == 0 {
			return nil
		}
		return &Exit{Status: n, Stderr: stderr.text()}
	}
	// The statuses of a shell for programs that do not start.
	switch {
	case errors.Is(err, exec.ErrWaitDelay):
		return &step.Error{Op: op, Err: errors.New("it left a process behind that keeps its output open")}
	case cmd.Process != nil:
		return err
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return &Exit{Status: 127, Stderr: c.Argv[0] + ": not found"}
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ENOEXEC), errors.Is(err, syscall.E2BIG):
		return &Exit{Status: 126, Stderr: fmt.Sprintf("%s: %v", c.Argv[0], err)}
	}
	return &step.Error{Op: op, Err: err}
}
