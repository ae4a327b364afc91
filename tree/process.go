package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// graceTime is the time between SIGTERM and SIGKILL for a cancelled command.
	graceTime = 2 * time.Second
	// drainTime is how long run waits for output of a process that has left the group and
	// still has the command's standard output.
	drainTime = time.Second
	// killTime is the time in which killed processes must be gone.
	killTime = 30 * time.Second
	tickTime = 250 * time.Millisecond
)

// command is one program run, as a process group of its own.
type command struct {
	argv    []string
	program string
	dir     string
	env     []string
	out     *output
	// record is the file that records the group while it runs.
	record string
	// tick is called about four times a second while the command runs.
	tick func()
}

// startError says that a program could not be started.
type startError struct{ err error }

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// run runs the command to its end. When ctx is done it ends the group: SIGTERM, 2 s,
// SIGKILL. On return no process of the group runs. A command that failed is an
// *exec.ExitError; one that was cut off gives ctx's cause.
func (c *command) run(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	pipe, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = pipe.Close() }() // closed already unless an error came early
	cmd := &exec.Cmd{Path: c.program, Args: c.argv, Dir: c.dir, Env: c.env, Stdout: theirs, Stderr: theirs,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}}
	p := start(cmd)
	err = p.started()
	_ = theirs.Close() // our copy of the child's end
	if err != nil {
		return &startError{Cause(err)}
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = io.Copy(c.out, pipe) // ends at the last writer's end or when we close it
	}()

	g, err := groupOf(cmd.Process.Pid)
	if err == nil {
		err = g.record(c.record)
	}
	if err != nil {
		// A group that is not on record may not run.
		p.signal(unix.SIGKILL)
	}
	if waitErr := c.await(ctx, p); err == nil {
		err = waitErr
	}
	// The leader is dead and not yet reaped, so the number is still the group's.
	p.signal(unix.SIGKILL)
	exit := p.reap()
	select {
	case <-drained:
	case <-time.After(drainTime):
		_ = pipe.Close() // makes the copy end
		<-drained
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTime)
	defer cancel()
	endErr := endLeftGroup(end, c.record)
	switch {
	case err != nil:
		return err
	case exit != nil:
		return exit
	}
	return endErr
}

// await waits until the leader has ended. It ends the group if ctx is done or the log
// cannot be written.
func (c *command) await(ctx context.Context, p *child) error {
	tick := time.NewTicker(tickTime)
	defer tick.Stop()
	var err error
	var kill <-chan time.Time
	done := ctx.Done()
	for {
		select {
		case waitErr := <-p.exited:
			if waitErr != nil {
				return fmt.Errorf("wait: %w", waitErr)
			}
			return err
		case <-done:
			done, err = nil, context.Cause(ctx)
			p.signal(unix.SIGTERM)
			kill = time.After(graceTime)
		case <-kill:
			p.signal(unix.SIGKILL)
		case <-tick.C:
			if logErr := c.out.failure(); logErr != nil && err == nil {
				err = fmt.Errorf("write log: %w", logErr)
				p.signal(unix.SIGKILL)
			}
			c.tick()
		}
	}
}

// child is a started process. Its death is awaited before it is reaped: in between its
// group can be signalled, because the number is not reused yet.
type child struct {
	cmd    *exec.Cmd
	begun  chan error
	exited chan error
	free   chan struct{}
	reaped chan error
}

// start starts cmd. The kernel sends Pdeathsig when the thread that started the process
// ends, so one goroutine keeps its thread until the process has ended.
func start(cmd *exec.Cmd) *child {
	p := &child{cmd: cmd, begun: make(chan error, 1), exited: make(chan error, 1),
		free: make(chan struct{}), reaped: make(chan error, 1)}
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		p.begun <- err
		if err != nil {
			return
		}
		p.exited <- waitExit(cmd.Process.Pid)
		<-p.free
		p.reaped <- cmd.Wait()
	}()
	return p
}

func (p *child) started() error { return <-p.begun }

// signal goes to the whole group. It fails only if the group is gone.
func (p *child) signal(s syscall.Signal) { _ = unix.Kill(-p.cmd.Process.Pid, s) }

func (p *child) reap() error {
	close(p.free)
	return <-p.reaped
}

// waitExit waits until a child has ended, and does not reap it.
func waitExit(pid int) error {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
