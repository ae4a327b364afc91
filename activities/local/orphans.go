package local

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"github.com/morgana-deploy/morgana/machine"
)

// endOrphans kills what a killed supervisor left running: not its program, which
// the kernel kills, but processes that the program had started. They have the
// machine's lock, at the descriptor where the program got it, and stand in the
// machine's folder, which no worker does.
func endOrphans(ctx context.Context, m machine.Machine) error {
	if pid, err := m.Pid(); pid != 0 || err != nil {
		return err // not orphans
	}
	lock, err := os.Stat(m.File("lock"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	orphan := func(proc string) bool {
		f, err := os.Stat(proc + "/fd/3")
		if err != nil {
			return false // gone, or another user's
		}
		cwd, err := os.Readlink(proc + "/cwd")
		return err == nil && cwd == m.Path && os.SameFile(f, lock)
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, proc := range processes {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !orphan(proc) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil {
			return err
		}
		process, err := os.FindProcess(pid)
		if err != nil {
			return err
		}
		// Once more, now that the handle cannot become another process's.
		if now, err := m.Pid(); now == 0 && err == nil && orphan(proc) {
			_ = process.Kill() // it may be gone
		}
		_ = process.Release() // frees a handle
	}
	return nil
}
