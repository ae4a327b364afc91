// Package source packs a source folder into one file for the host that builds it.
// [Unpack] unpacks the file.
//
// The file is an uncompressed tar. Its bytes depend only on the names, contents and
// executable bits of the files and on the targets of symbolic links. The same source
// has the same digest everywhere, so nothing is uploaded or built twice.
package source

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

// Packed is a packed folder: an unlinked temporary file, positioned at its start. Close,
// or the end of the process, removes it.
type Packed struct {
	*os.File
	// Size is the size of the temporary file, in bytes.
	Size int64
	// Largest is the path of the largest file in the folder, of LargestSize bytes.
	Largest     string
	LargestSize int64
}

// Pack packs folder, and reports its progress by [step.Report].
//
// It leaves out .git, empty folders, and files that a .gitignore in folder or below
// excludes. The rest is what `git add .` would add in a new repository. Git's index and
// excludes from outside of folder (.git/info/exclude, core.excludesFile, a parent's
// .gitignore) are ignored.
//
// It also leaves out project, the absolute path of the project file in use, so that an
// edit of that file does not change the source. An empty project is none.
//
// Symbolic links stay links. A link that leads out of folder is refused, and so are
// devices, sockets and pipes. A folder without files to pack is refused, too. These
// errors are InvalidSpec; others are NotFound, Unauthorized, NoSpace in the folder for
// temporary files, or without a kind, as for a file that changes while it is packed.
func Pack(ctx context.Context, folder, project string) (Packed, error) {
	f, err := os.CreateTemp("", "morgana-source-*.tar")
	if err != nil {
		return Packed{}, fail("pack "+folder, err, os.TempDir())
	}
	var packed Packed
	err = os.Remove(f.Name())
	if err == nil {
		packed, err = pack(ctx, folder, project, f)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = f.Close() // nobody will read it
		return Packed{}, fail("pack "+folder, err, os.TempDir())
	}
	packed.File = f
	return packed, nil
}

// pack writes the archive to w.
func pack(ctx context.Context, folder, project string, w io.Writer) (Packed, error) {
	root, err := openRoot(folder)
	if err != nil {
		return Packed{}, err
	}
	defer func() { _ = root.Close() }() // only read from
	counted := &counter{ctx: ctx, w: w}
	p := packer{ctx: ctx, root: root, tar: tar.NewWriter(counted), block: make([]byte, 256<<10),
		without: namesIn(folder, project)}
	if err := p.folder("", nil); err != nil {
		return Packed{}, err
	}
	if p.files == 0 {
		return Packed{}, step.Invalid("", "is it the right folder, and does its .gitignore leave anything?", "%s has no files to build from", folder)
	}
	err = p.tar.Close()
	p.packed.Size = counted.n
	return p.packed, err
}

// namesIn returns the names of file in folder, as a/b: its own, and that of the file it
// leads to if it is a symbolic link. There are none if file is elsewhere.
func namesIn(folder, file string) []string {
	root, err := filepath.EvalSymlinks(folder)
	if file == "" || err != nil {
		return nil // openRoot says what is wrong with folder
	}
	var names []string
	add := func(path string, err error) {
		if err != nil {
			return
		}
		if rel, err := filepath.Rel(root, path); err == nil && filepath.IsLocal(rel) {
			names = append(names, filepath.ToSlash(rel))
		}
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(file))
	add(filepath.Join(parent, filepath.Base(file)), err)
	add(filepath.EvalSymlinks(file))
	return names
}

// counter counts the bytes written to w and reports them as progress.
type counter struct {
	ctx context.Context
	w   io.Writer
	n   int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	step.Report(c.ctx, step.Progress{Done: c.n, Unit: "bytes", Note: "packing the source"})
	return n, err
}

// maxIgnore is the size of the largest .gitignore that is read, in bytes.
const maxIgnore = 1 << 20

type packer struct {
	ctx   context.Context
	root  *os.Root
	tar   *tar.Writer
	block []byte
	// files counts the files, whether packed or left out by name.
	files int
	// without are the names that are left out.
	without []string
	// packed records the largest file so far.
	packed Packed
}

// folder packs the content of dir ("" or "a/b/"). levels are the .gitignore files above.
func (p *packer) folder(dir string, levels []level) error {
	f, err := p.root.Open(path.Clean(dir))
	if err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	// The archive is sorted by full names: "a/b" comes after "a-b".
	order := func(e fs.DirEntry) string {
		if e.IsDir() {
			return e.Name() + "/"
		}
		return e.Name()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(order(a), order(b)) })

	for _, e := range entries {
		if e.Name() != ".gitignore" || !e.Type().IsRegular() {
			continue
		}
		f, _, err := files.OpenIn(p.root, dir+e.Name())
		if err != nil {
			return err
		}
		text, err := files.ReadAll(f, maxIgnore)
		if err != nil {
			return err
		}
		levels = append(levels[:len(levels):len(levels)], level{dir, parseIgnore(text)})
	}
	for _, e := range entries {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		name := dir + e.Name()
		if slices.Contains(p.without, name) {
			p.files++ // a project may need no other file
			continue
		}
		if e.Name() == ".git" || ignored(levels, name, e.IsDir()) {
			continue
		}
		switch e.Type() {
		case fs.ModeDir:
			err = p.folder(name+"/", levels)
		case fs.ModeSymlink:
			err = p.link(name)
		case 0:
			err = p.file(name)
		default:
			hint := unwanted
			if e.Name() == ".gitignore" {
				hint = "make it a file, or remove it"
			}
			err = step.Invalid("", hint, "%s is neither a file nor a folder nor a symbolic link", name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) link(name string) error {
	target, err := p.root.Readlink(name)
	if err != nil {
		return err
	}
	if !staysInside(name, target) {
		return step.Invalid("", unwanted, "symbolic link %s leads out of the folder, to %s", name, target)
	}
	return p.write(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777})
}

func (p *packer) file(name string) error {
	f, info, err := files.OpenIn(p.root, name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read from
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: info.Size(), Mode: 0o644}
	if info.Mode()&0o100 != 0 {
		h.Mode = 0o755
	}
	if err := p.write(h); err != nil {
		return err
	}
	if h.Size > p.packed.LargestSize {
		p.packed.Largest, p.packed.LargestSize = name, h.Size
	}
	n, err := io.CopyBuffer(onlyWriter{p.tar}, files.Reader(p.ctx, f), p.block)
	if errors.Is(err, tar.ErrWriteTooLong) || err == nil && n != h.Size {
		return changed(name)
	}
	return err
}

func (p *packer) write(h *tar.Header) error {
	p.files++
	h.Format = tar.FormatPAX // written as plain ustar where that suffices
	return p.tar.WriteHeader(h)
}

// staysInside reports whether a symbolic link at name (a/b/c) leads to a place in the
// tree, whatever links are on its way. The target may begin with as many ".." as name
// has slashes. Later ".." are refused: "x/.." could be anywhere if x is a link.
func staysInside(name, target string) bool {
	if target == "" || path.IsAbs(target) {
		return false
	}
	up, down := 0, false
	for _, part := range strings.Split(target, "/") {
		switch {
		case part == "" || part == ".":
		case part != "..":
			down = true
		case down:
			return false
		default:
			up++
		}
	}
	return up <= strings.Count(name, "/")
}

func changed(name string) error { return fmt.Errorf("%s changed while it was being packed", name) }

// unwanted is the hint for an entry that cannot be packed.
const unwanted = "remove it, or name it in .gitignore"

// openRoot is [os.OpenRoot] with the error ENOTDIR for a file.
func openRoot(folder string) (*os.Root, error) {
	root, err := os.OpenRoot(folder)
	if err != nil {
		if info, e := os.Stat(folder); e == nil && !info.IsDir() {
			err = &fs.PathError{Op: "open", Path: folder, Err: syscall.ENOTDIR}
		}
	}
	return root, err
}

// fail turns err into a *step.Error. space is the folder in the hint of NoSpace.
func fail(op string, err error, space string) error {
	if err == nil {
		return nil
	}
	var e *step.Error
	if errors.As(err, &e) {
		return step.During(op, err)
	}
	e = &step.Error{Op: op, Err: err}
	var p *fs.PathError
	if errors.As(err, &p) && !filepath.IsAbs(p.Path) {
		// Replaces the name of a system call such as "openat".
		e.Err = &fs.PathError{Op: "open", Path: p.Path, Err: p.Err}
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Kind, e.Hint = step.NoSpace, "free space in "+space
	case errors.Is(err, fs.ErrNotExist):
		e.Kind = step.NotFound
	case errors.Is(err, fs.ErrPermission):
		e.Kind = step.Unauthorized
	case errors.Is(err, syscall.ENOTDIR):
		e.Kind = step.InvalidSpec
	}
	return e
}

// onlyWriter hides ReadFrom, so that [io.CopyBuffer] uses its buffer.
type onlyWriter struct{ io.Writer }
