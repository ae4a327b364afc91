package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

const (
	// markVariable is in the environment of every program and of its children. Its
	// value is the machine's folder, with no symbolic links.
	markVariable = "MORGANA_MACHINE"

	// orphanGrace is the time in which killed processes must end.
	orphanGrace = 10 * time.Second
)

// held ends the children of a program whose supervisor was killed, because they keep the
// lock. A killed supervisor has left its pid file; a supervisor that is starting has none
// yet.
func (t *Target) held(ctx context.Context, m machine.Machine) error {
	_, err := os.Stat(m.File(machine.PidFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return t.endOrphans(ctx, func(tags step.Tags) bool { return tags == m.Tags })
}

// endOrphans kills orphans: processes that a program started and that still run although
// its supervisor is gone. An orphan may hold the machine's lock, and then the machine
// cannot be removed. wanted selects the machines by their tags; their folders may be gone
// already.
func (t *Target) endOrphans(ctx context.Context, wanted func(step.Tags) bool) error {
	// Again until there is none: a process may have started others before its end.
	for began := time.Now(); ; {
		found, err := t.killOrphans(ctx, wanted)
		if err != nil || len(found) == 0 {
			return err
		}
		if time.Since(began) > orphanGrace {
			return &step.Error{Left: found, Err: errors.New("what the program had started does not end"), Hint: "end these processes: " + strings.Join(found, ", ")}
		}
		if err := step.Pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// killOrphans kills the processes that orphans finds, and names them.
func (t *Target) killOrphans(ctx context.Context, wanted func(step.Tags) bool) (found []string, err error) {
	all, err := t.orphans(ctx, wanted)
	for _, o := range all {
		process, err := os.FindProcess(o.pid)
		if err != nil {
			return found, err
		}
		// Check again: the handle stays with one process, but the number may be another's.
		if now, ok := orphanOf(o.pid, filepath.Dir(o.m.Path)); ok && now == o.m {
			_ = process.Kill() // it may be gone
			awaitDeath(process)
			found = append(found, fmt.Sprintf("process %d", o.pid))
		}
		_ = process.Release() // frees a handle
	}
	return found, err
}

// orphan is a process that machine m has left running.
type orphan struct {
	m   machine.Machine
	pid int
}

// orphans lists the processes that the wanted machines have left.
func (t *Target) orphans(ctx context.Context, wanted func(step.Tags) bool) (all []orphan, err error) {
	root, err := filepath.EvalSymlinks(t.machines.Root())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	for _, proc := range processes {
		if err := ctx.Err(); err != nil {
			return all, err
		}
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil {
			return all, err
		}
		if m, ok := orphanOf(pid, root); ok && wanted(m.Tags) {
			all = append(all, orphan{m, pid})
		}
	}
	return all, err
}

// awaitDeath waits up to a second for a killed process. A dying process is still
// there, but shows neither its environment nor its files.
func awaitDeath(p *os.Process) {
	_ = p.WithHandle(func(handle uintptr) { // an old kernel has no handles
		for began := time.Now(); time.Since(began) < time.Second; {
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(handle), Events: unix.POLLIN}}, 1000); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
}

// orphanOf finds the machine in root that a process belongs to, if that machine has
// no supervisor. A supervisor locks its pid file before the program starts, and
// until the last of the program's children is gone.
func orphanOf(pid int, root string) (machine.Machine, bool) {
	proc := fmt.Sprintf("/proc/%d", pid)
	path := marked(proc)
	if path == "" {
		path = standing(proc)
	}
	tags, ok := step.ParseFolder(filepath.Base(path))
	if filepath.Dir(path) != root || !ok {
		return machine.Machine{}, false
	}
	m := machine.Machine{Path: path, Tags: tags}
	runs, err := m.Pid()
	return m, runs == 0 && err == nil
}

// marked is the machine's folder in the environment of a process, "" if it has
// none, is gone, or is another user's.
func marked(proc string) string {
	environ, err := os.ReadFile(proc + "/environ")
	if err != nil {
		return ""
	}
	for word := range bytes.SplitSeq(environ, []byte{0}) {
		if path, ok := bytes.CutPrefix(word, []byte(markVariable+"=")); ok {
			return string(path)
		}
	}
	return ""
}

// standing returns the machine's folder for a process that has cleared its environment,
// or "". The folder is the process's working directory, and the process must have the
// machine's lock open as descriptor 3, as the program got it. A starting supervisor has
// both too, so it is left out by its argument. A worker never works in the folder.
func standing(proc string) string {
	cwd, err := os.Readlink(proc + "/cwd") // the kernel returns a path without symbolic links
	if err != nil {
		return ""
	}
	has, err := os.Stat(proc + "/fd/3")
	if err != nil {
		return ""
	}
	lock, err := os.Stat(filepath.Join(cwd, "lock"))
	if err != nil || !os.SameFile(has, lock) {
		return ""
	}
	words, err := os.ReadFile(proc + "/cmdline")
	if err != nil || bytes.HasSuffix(words, []byte("\x00"+superviseWord+"\x00")) {
		return ""
	}
	return cwd
}
