// Package ramdisk writes the ramdisks of Linux.
package ramdisk

import (
	"fmt"
	"io"
	"os"
	"path"
	"slices"
)

// Entry is a file, folder or symbolic link of a ramdisk.
type Entry struct {
	Name  string      // "init", "lib/libc.so.6"
	Mode  os.FileMode // with the type and the setuid bit
	Data  []byte      // of a file; the target of a link
	Path  string      // of a file that is read from this host
	Owner int         // user and group
}

// Write writes a ramdisk in the "newc" format of Linux's
// Documentation/driver-api/early-userspace/buffer-format.rst. Times are 0, so its bytes
// depend on the entries only. Missing folders are added.
func Write(w io.Writer, entries []Entry) error {
	c := &cpio{w: w}
	folders := map[string]bool{".": true}
	for _, e := range entries {
		var above []string
		for dir := path.Dir(e.Name); !folders[dir]; dir = path.Dir(dir) {
			folders[dir] = true
			above = append(above, dir)
		}
		for _, dir := range slices.Backward(above) {
			c.header(Entry{Name: dir, Mode: os.ModeDir | 0o755}, 0)
		}
		c.entry(e)
		if e.Mode.IsDir() {
			folders[e.Name] = true
		}
	}
	c.header(Entry{Name: "TRAILER!!!"}, 0)
	return c.err
}

type cpio struct {
	w     io.Writer
	inode int
	err   error // the first one
}

func (c *cpio) entry(e Entry) {
	if e.Path != "" && c.err == nil {
		e.Data, c.err = os.ReadFile(e.Path)
	}
	c.header(e, len(e.Data))
	c.write(e.Data)
	c.write(make([]byte, -len(e.Data)&3))
}

// types are the bits of Linux for the type of a file.
var types = map[os.FileMode]uint32{0: 0o100000, os.ModeDir: 0o040000, os.ModeSymlink: 0o120000}

func (c *cpio) header(e Entry, size int) {
	c.inode++
	const links = 1
	mode := types[e.Mode.Type()] | uint32(e.Mode.Perm())
	if e.Mode&os.ModeSetuid != 0 {
		mode |= 0o4000
	}
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.inode, mode, e.Owner, e.Owner, links, 0, size, 0, 0, 0, 0, len(e.Name)+1, 0, e.Name)
	c.write([]byte(head))
	c.write(make([]byte, -len(head)&3))
}

func (c *cpio) write(data []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(data)
	}
}
