package qemu

import (
	"io"
	"os"
	"os/exec"
	"strconv"
)

// consoleLimit is the size in bytes up to which a console is kept, unless the machine has
// a larger disk (see fileLimit). A kernel may print for ever.
const consoleLimit = 64 << 20

// limited returns the command that runs QEMU with a limit on the size of its files. QEMU
// writes the console without a limit of its own, and goes on after a write that fails. But
// such a write raises SIGXFSZ, which may end QEMU. So a shell starts QEMU with that signal
// ignored.
func limited(bytes int64, qemu string, args ...string) *exec.Cmd {
	const script = `trap "" XFSZ; ulimit -f "$1" 2>/dev/null; shift; exec "$@"`
	blocks := strconv.FormatInt((bytes+511)/512, 10)
	return exec.Command("/bin/sh", append([]string{"-c", script, "sh", blocks, qemu}, args...)...) //nolint:noctx,gosec // it outlives the call and its context; the script is fixed
}

// fileLimit returns the limit in bytes: consoleLimit, or the size of the largest disk.
func (b *boot) fileLimit(disks []*os.File) (int64, error) {
	most := int64(consoleLimit)
	for _, f := range disks {
		size, err := f.Seek(0, io.SeekEnd) // of a block device as well
		if err != nil {
			return 0, err
		}
		most = max(most, size)
	}
	for _, d := range b.s.Disks {
		most = max(most, d.size)
	}
	if b.s.disk() {
		info, err := os.Stat(b.m.File(bootDisk))
		if err != nil {
			return 0, err
		}
		most = max(most, info.Size())
	}
	return most, nil
}
