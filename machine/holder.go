package machine

import (
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/step"
)

// holder finds a running machine, of any kind, that has a wanted file open; nil if it sees
// none. wanted gets the paths of an open file's entries in /proc/PID/fd and
// /proc/PID/fdinfo.
func (r *Machines) holder(wanted func(file, info string) bool) *Machine {
	state := filepath.Dir(r.root)
	kinds, _ := os.ReadDir(state) // after an error no holder is found
	for _, kind := range kinds {
		target := &Machines{root: filepath.Join(state, kind.Name())}
		machines, _ := target.All(func(step.Tags) bool { return true })
		for _, m := range machines {
			if pid, err := m.Pid(); err == nil && pid != 0 && hasOpen(pid, wanted) {
				return &m
			}
		}
	}
	return nil
}

// hasOpen reports whether the process, or another process of its session, has a wanted file
// open. The kernel hides the files of a process whose program file gives it capabilities:
// they are not found.
func hasOpen(pid int, wanted func(file, info string) bool) bool {
	all, _ := os.ReadDir("/proc") // after an error nothing is found
	for _, p := range all {
		member, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		if session, err := unix.Getsid(member); err != nil || session != pid {
			continue
		}
		proc := filepath.Join("/proc", p.Name())
		entries, _ := os.ReadDir(filepath.Join(proc, "fd"))
		for _, e := range entries {
			if wanted(filepath.Join(proc, "fd", e.Name()), filepath.Join(proc, "fdinfo", e.Name())) {
				return true
			}
		}
	}
	return false
}

// deployedAs reports whether the machine is of the deployment of tags, in any generation.
func (m Machine) deployedAs(tags step.Tags) bool {
	return m.Tags.App == tags.App && m.Tags.Target == tags.Target
}

// destroyOf is the command that ends a deployment's machines, for hints.
func destroyOf(tags step.Tags) string { return "morgana destroy " + tags.App + "/" + tags.Target }
