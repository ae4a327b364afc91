package source

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/morgana-deploy/morgana/step"
)

// longest is the greatest length of a name that Unpack accepts, in bytes.
const longest = 4096

// Unpack writes the files of an archive that [Pack] made into folder, which
// must exist and be empty. Files get mode 0755 or 0644 less the umask.
//
// The archive is not trusted. A name or link that leads out of folder, a name that goes
// through a link, a second entry of a name, and an entry that is no file, folder or
// symbolic link are InvalidSpec. A folder that is not empty is Conflict. Unpack reads r
// to its end, so that a reader that verifies a digest can do so. After an error folder
// has a part of the files.
func Unpack(r io.Reader, folder string) error {
	return fail("unpack source into "+folder, unpack(r, folder), folder)
}

func unpack(r io.Reader, folder string) error {
	root, err := openRoot(folder)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // all files in it are closed
	if there, err := fs.ReadDir(root.FS(), "."); err != nil {
		return err
	} else if len(there) > 0 {
		return &step.Error{Kind: step.Conflict, Err: fmt.Errorf("the folder is not empty")}
	}
	u := unpacker{root: root, tar: tar.NewReader(r), folders: map[string]bool{".": true}, block: make([]byte, 256<<10)}
	for {
		h, err := u.tar.Next()
		if err == io.EOF {
			break
		}
		if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) {
			return invalid("not a source archive: %w", err)
		}
		if err != nil {
			return err
		}
		if err := u.entry(h); err != nil {
			return err
		}
	}
	_, err = io.CopyBuffer(onlyWriter{io.Discard}, r, u.block)
	return err
}

type unpacker struct {
	root *os.Root
	tar  *tar.Reader
	// folders are the folders made so far. If a name that is not among them exists, it
	// is a file or a link of the archive.
	folders map[string]bool
	block   []byte
}

func (u *unpacker) entry(h *tar.Header) error {
	name := h.Name
	if h.Typeflag == tar.TypeDir {
		name = strings.TrimSuffix(name, "/")
	}
	if len(name) > longest || len(h.Linkname) > longest {
		return invalid("a name of %d bytes", max(len(name), len(h.Linkname)))
	}
	// Not fs.ValidPath, which refuses file names that are not UTF-8.
	if name == "." || name != path.Clean(name) || path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../") {
		return invalid("the name %q leads out of the folder", h.Name)
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return invalid("%s is a sparse file", name) // a small archive could fill the disk
		}
	}
	if h.Typeflag == tar.TypeDir {
		return u.makeFolder(name)
	}
	if err := u.makeFolder(path.Dir(name)); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return u.file(name, h.Mode)
	case tar.TypeSymlink:
		if !staysInside(name, h.Linkname) {
			return invalid("symbolic link %s leads out of the folder, to %s", name, h.Linkname)
		}
		return twice(name, u.root.Symlink(h.Linkname, name))
	}
	return invalid("%s is neither a file nor a folder nor a symbolic link", name)
}

// makeFolder makes dir and its parents. It follows no links.
func (u *unpacker) makeFolder(dir string) error {
	if u.folders[dir] {
		return nil
	}
	if err := u.makeFolder(path.Dir(dir)); err != nil {
		return err
	}
	if err := u.root.Mkdir(dir, 0o755); err != nil {
		return twice(dir, err)
	}
	u.folders[dir] = true
	return nil
}

func (u *unpacker) file(name string, mode int64) error {
	perm := fs.FileMode(0o644)
	if mode&0o100 != 0 {
		perm = 0o755
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return twice(name, err)
	}
	_, err = io.CopyBuffer(onlyWriter{f}, u.tar, u.block)
	if closed := f.Close(); err == nil {
		err = closed
	}
	return err
}

// twice returns the error for a name that exists already: the archive has it twice.
func twice(name string, err error) error {
	if errors.Is(err, fs.ErrExist) {
		return invalid("the name %s comes twice", name)
	}
	return err
}

func invalid(format string, args ...any) error {
	return &step.Error{Kind: step.InvalidSpec, Err: fmt.Errorf(format, args...),
		Hint: "the archive was not made by source.Pack, or is damaged: pack it again"}
}
