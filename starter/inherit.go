package main

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// keepInherited keeps what this process inherited from what it starts: a lock
// that the caller holds by a descriptor, as flock(1) does, would be held for as
// long as our server and worker run. It goes by /proc, which is needed anyway,
// for close_range(2) with CLOSE_RANGE_CLOEXEC wants Linux 5.11.
func keepInherited() {
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
