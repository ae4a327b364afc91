// Package inherit keeps inherited file descriptors from child processes.
package inherit

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Nothing marks every inherited descriptor above 2 close-on-exec. Otherwise, if the
// caller runs under flock(1), a child that outlives it, such as a machine, would keep
// the lock.
//
// It reads /proc because close_range(2) with CLOSE_RANGE_CLOEXEC needs Linux 5.11.
func Nothing() {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return // no worse than before
	}
	for _, entry := range open {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}
