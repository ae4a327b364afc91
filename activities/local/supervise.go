package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/machine"
)

const (
	// superviseWord is the first argument of a worker that is a supervisor:
	// PROGRAM superviseWord FILES PATH [ARG ...], with FILES open files from
	// descriptor 3 on that go to the program.
	superviseWord = "supervise-local-machine"
	statusFile    = "status"
)

// outcome is the status file: how the program ended, or why it could not start.
type outcome struct {
	Status int    `json:"status"`
	Signal int    `json:"signal,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Supervise makes this process a machine's supervisor if its arguments, those
// of [os.Args], say so, and returns when the machine has ended; false if they
// say something else. It must come first in main.
func Supervise(args []string) (handled bool) {
	if len(args) < 4 || args[1] != superviseWord {
		return false
	}
	if err := supervise(args[2], args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return true
}

func supervise(files string, command []string) error {
	// The program is killed when the thread that started it ends (prctl(2),
	// PR_SET_PDEATHSIG); a program that gains privileges would be spared.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("PR_SET_NO_NEW_PRIVS", err)
	}
	// What the worker may do to make taps is not for the program.
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return os.NewSyscallError("PR_CAP_AMBIENT", err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)

	pid, err := lockPid()
	if err != nil {
		return err
	}
	defer runtime.KeepAlive(pid) // closing it would unlock it
	console, err := os.OpenFile(machine.ConsoleFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(files)
	if err != nil {
		return err
	}
	cmd := exec.Command(command[0], command[1:]...) //nolint:noctx // it runs for as long as it likes
	cmd.Stdout, cmd.Stderr = console, console
	// The program keeps the machine's lock as well (descriptor 3): until it is
	// gone the machine is not, whatever became of its supervisor.
	for fd := range n {
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(3+fd), "inherited"))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	b, err := json.Marshal(await(cmd, stop))
	if err == nil {
		err = machine.WriteFile(statusFile, append(b, '\n'))
	}
	return errors.Join(err, os.Remove(machine.PidFile))
}

// lockPid makes the pid file and locks it for this process.
func lockPid() (*os.File, error) {
	f, err := os.OpenFile(machine.PidFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	lock := syscall.Flock_t{Type: syscall.F_WRLCK}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_SETLK, &lock); err != nil {
		return nil, &fs.PathError{Op: "lock", Path: f.Name(), Err: err}
	}
	_, err = fmt.Fprintln(f, os.Getpid())
	return f, err
}

// await runs the program, passes on that it is to stop, and kills it if it does
// not. What it leaves of its process group is killed before its number is free
// for others.
func await(cmd *exec.Cmd, stop <-chan os.Signal) outcome {
	if err := cmd.Start(); err != nil {
		return outcome{Status: -1, Error: err.Error()}
	}
	ended := make(chan struct{})
	go func() {
		var late <-chan time.Time
		for {
			select {
			case <-ended:
				return
			case <-stop:
				_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended meanwhile
				late = time.After(quitGrace)
			case <-late:
				_ = cmd.Process.Kill()
			}
		}
	}()
	for {
		err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	close(ended)
	_ = unix.Kill(-cmd.Process.Pid, syscall.SIGKILL) // nobody left is well
	err := cmd.Wait()
	if cmd.ProcessState == nil {
		return outcome{Status: -1, Error: err.Error()}
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return outcome{Status: -1, Signal: int(status.Signal())}
	}
	return outcome{Status: cmd.ProcessState.ExitCode()}
}
