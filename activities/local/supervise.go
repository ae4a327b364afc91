package local

import (
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/machine"
)

const (
	// superviseWord is the only argument of a worker that runs as a supervisor. The
	// supervisor reads an order from its standard input, and inherits the order's
	// files from descriptor 3 on.
	superviseWord = "supervise-local-machine"
	statusFile    = "status"
)

// order tells a supervisor which program to start. It is in a file without a name:
// the program's environment is not the supervisor's own, and must not be in its
// arguments, which all users can read.
type order struct {
	Program program
	Files   int           // the machine's lock first
	Grace   time.Duration // from SIGTERM to SIGKILL
}

// open makes the file. It is complete before the supervisor starts, so the worker
// may die at any moment.
func (o order) open() (*os.File, error) {
	fd, err := unix.MemfdCreate("order", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "order")
	if err = gob.NewEncoder(f).Encode(o); err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// outcome is the status file: how the program ended, or why it could not start.
type outcome struct {
	Status int    `json:"status"`
	Signal int    `json:"signal,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Supervise runs this process as a machine's supervisor if args, those of [os.Args], ask
// for it. It returns true when the machine has ended, or false at once if they do not. It
// must come first in main.
func Supervise(args []string) (handled bool) {
	if len(args) != 2 || args[1] != superviseWord {
		return false
	}
	if err := supervise(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return true
}

func supervise() error {
	// The kernel kills the program when the thread that started it ends (PR_SET_PDEATHSIG in
	// prctl(2)). It spares a program that gains privileges, so the program may gain none.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("PR_SET_NO_NEW_PRIVS", err)
	}
	// The program does not get the worker's capability to make taps.
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return os.NewSyscallError("PR_CAP_AMBIENT", err)
	}
	// Children that the program leaves behind become children of this process,
	// whatever session they are in.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("PR_SET_CHILD_SUBREAPER", err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)

	pid, err := lockPid()
	if err != nil {
		return err
	}
	defer runtime.KeepAlive(pid) // closing it would unlock it
	var o order
	if err := gob.NewDecoder(os.Stdin).Decode(&o); err != nil {
		return fmt.Errorf("read order: %w", err)
	}
	c, err := openConsole(machine.ConsoleFile)
	if err != nil {
		return err
	}
	cmd := exec.Command(o.Program.Path, o.Program.Args...) //nolint:noctx // it runs for as long as it likes
	cmd.Env = o.Program.Env
	cmd.Stdout, cmd.Stderr = c.in, c.in
	// The program inherits the machine's lock (descriptor 3), so the machine is not
	// taken for ended while the program runs, even without its supervisor.
	for fd := range o.Files {
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(3+fd), "inherited"))
	}
	defer runtime.KeepAlive(cmd) // keeps its files open: they have the block devices' locks, and the program may close its own
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	end := await(cmd, stop, o.Grace)
	err = errors.Join(endRest(), c.close())
	b, errStatus := json.Marshal(end)
	if errStatus == nil {
		errStatus = files.Write(statusFile, append(b, '\n'))
	}
	return errors.Join(err, errStatus, os.Remove(machine.PidFile))
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

// await runs the program to its end. It passes SIGTERM on, and kills a program that
// does not end in time.
func await(cmd *exec.Cmd, stop <-chan os.Signal, grace time.Duration) outcome {
	if err := cmd.Start(); err != nil {
		return outcome{Status: -1, Error: err.Error()}
	}
	ended := make(chan outcome, 1)
	go func() { ended <- reap(cmd.Process.Pid) }()
	var late <-chan time.Time
	for {
		select {
		case end := <-ended:
			return end
		case <-stop:
			_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended meanwhile
			late = time.After(grace)
		case <-late:
			_ = cmd.Process.Kill()
		}
	}
}

// reap waits for the program, and meanwhile reaps the other children of this process.
func reap(program int) outcome {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return outcome{Status: -1, Error: os.NewSyscallError("wait", err).Error()}
		case pid == program && status.Signaled():
			return outcome{Status: -1, Signal: int(status.Signal())}
		case pid == program:
			return outcome{Status: status.ExitStatus()}
		}
	}
}

// endRest kills the children that the program left. Their own children then become
// children of this process, so that in the end all are reached.
func endRest() error {
	for {
		pids, err := children()
		if err != nil {
			return err
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, syscall.SIGKILL) // the number is not reused until it is reaped below
		}
		for {
			_, err := unix.Wait4(-1, nil, 0, nil)
			if errors.Is(err, unix.ECHILD) {
				return nil
			}
			if !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
}

// children lists the children of this process, also those that are dead and not
// reaped.
func children() (pids []int, err error) {
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	parent := strconv.Itoa(os.Getpid())
	for _, path := range all {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // gone
		}
		// "PID (NAME) STATE PARENT ...", with anything in NAME.
		text := string(b)
		fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
		if len(fields) < 2 || fields[1] != parent {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}
