package carrier

import (
	"fmt"
	"io"
	"os"
	"path"
	"slices"
)

// entry is a file or folder of the ramdisk.
type entry struct {
	name string // "init", "lib/libc.so.6"
	mode os.FileMode
	data []byte // of a file
	path string // of a file that is read from this host
}

// writeCPIO writes a ramdisk in the "newc" format of Linux's
// Documentation/driver-api/early-userspace/buffer-format.rst. Owners are root and times 0,
// so its bytes depend on the entries only. Folders are added.
func writeCPIO(w io.Writer, entries []entry) error {
	c := &cpio{w: w}
	folders := map[string]bool{".": true}
	for _, e := range entries {
		var above []string
		for dir := path.Dir(e.name); !folders[dir]; dir = path.Dir(dir) {
			folders[dir] = true
			above = append(above, dir)
		}
		for _, dir := range slices.Backward(above) {
			c.header(dir, 0o040755, 0)
		}
		c.entry(e)
		if e.mode.IsDir() {
			folders[e.name] = true
		}
	}
	c.header("TRAILER!!!", 0, 0)
	return c.err
}

type cpio struct {
	w     io.Writer
	inode int
	err   error // the first one
}

func (c *cpio) entry(e entry) {
	if e.mode.IsDir() {
		c.header(e.name, 0o040000|e.mode.Perm(), 0)
		return
	}
	if e.path != "" && c.err == nil {
		e.data, c.err = os.ReadFile(e.path)
	}
	c.header(e.name, 0o100000|e.mode.Perm(), len(e.data))
	c.write(e.data)
	c.write(make([]byte, -len(e.data)&3))
}

func (c *cpio) header(name string, mode os.FileMode, size int) {
	c.inode++
	const links = 1
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.inode, uint32(mode), 0, 0, links, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	c.write([]byte(head))
	c.write(make([]byte, -len(head)&3))
}

func (c *cpio) write(data []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(data)
	}
}
