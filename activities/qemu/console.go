package qemu

import (
	"io"
	"os"
	"os/exec"
	"strconv"
)

// consoleLimit is how much of a console is kept, if no disk is larger: a kernel
// may print for ever.
const consoleLimit = 64 << 20

// limited is QEMU as a command whose files grow to so many bytes and no
// further. QEMU writes the console itself and has no limit for it, but takes a
// write that fails as written. The signal that comes with such a write would end
// it, unless the thread that writes blocks it; a shell can start it ignoring that.
func limited(bytes int64, qemu string, args ...string) *exec.Cmd {
	const script = `trap "" XFSZ; ulimit -f "$1" 2>/dev/null; shift; exec "$@"`
	blocks := strconv.FormatInt((bytes+511)/512, 10)
	return exec.Command("/bin/sh", append([]string{"-c", script, "sh", blocks, qemu}, args...)...) //nolint:noctx,gosec // it outlives the call and its context; the script is fixed
}

// fileLimit is how large the machine's files may get: no smaller than its disks are.
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
