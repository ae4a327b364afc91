package tree

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
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
	"time"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/step"
)

// treeFile holds a baseline. It exists only while the tree is whole and configured.
const treeFile = "tree.json"

// baseline describes the tree as it was unpacked.
//
// A build that exits 0 may have built nothing. So the kernel counts as built only if the
// archive did not hold it, or if it has other content or another time than in the
// archive. It is not compared with its state before this try: if an earlier try made the
// kernel and was then cut off, this try has nothing to do, and that is no error.
type baseline struct {
	// Kernel is the archive's file at the kernel's path, nil if there was none.
	Kernel *fileState `json:"kernel"`
	// Unpacked is the modification time that takeBaseline gave all files.
	Unpacked time.Time `json:"unpacked"`
	// Key is the cache key that the tree was configured for.
	Key string `json:"key"`
}

type fileState struct {
	Modified time.Time `json:"modified"`
	SHA256   string    `json:"sha256"`
}

// takeBaseline sets the time of all files of a new tree to a second ago, and records the
// file at the kernel's path. A file with another time was then made by the commands.
// Equal times also keep make from rebuilding a generated file (configure) that was
// unpacked before its source (configure.ac).
func (w *work) takeBaseline(ctx context.Context, now time.Time) (baseline, error) {
	b := baseline{Unpacked: now.Add(-time.Second).Truncate(time.Second)}
	err := filepath.WalkDir(w.rollout.tree(), func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil && d.Type().IsRegular() {
			err = os.Chtimes(path, b.Unpacked, b.Unpacked)
		}
		return err
	})
	if err != nil {
		return b, err
	}
	if w.Product.Kernel == "" {
		return b, nil // found after the build, and judged by its time
	}
	f, err := openIn(w.rollout.tree(), w.Product.Kernel)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, files.ErrNotRegular):
		return b, nil
	case err != nil:
		return b, err
	}
	defer func() { _ = f.Close() }() // only read
	b.Kernel, err = stateOf(f)
	return b, err
}

// untouched reports whether the kernel is still the file from the archive. expected says
// that the kernel's path was known before the build: then its content and time are
// compared with the baseline, else its time only.
func (b baseline) untouched(expected bool, now fileState) bool {
	if !expected {
		return now.Modified.Equal(b.Unpacked)
	}
	return b.Kernel != nil && now.SHA256 == b.Kernel.SHA256 && now.Modified.Equal(b.Kernel.Modified)
}

func (b baseline) write(path string) error {
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	return files.Write(path, text)
}

func readBaseline(path string) (baseline, error) {
	var b baseline
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &b)
	}
	return b, err
}

func stateOf(f *os.File) (*fileState, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, info.Size())); err != nil {
		return nil, err
	}
	return &fileState{info.ModTime(), hex.EncodeToString(h.Sum(nil))}, nil
}

var errOutside = errors.New("leads out of the source folder")

// openIn opens a regular file inside a folder. Links are followed as long as
// they stay inside.
func openIn(folder, name string) (*os.File, error) {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // only read
	f, _, err := files.OpenIn(root, filepath.FromSlash(name))
	if errno := syscall.Errno(0); err != nil && !errors.Is(err, files.ErrNotRegular) && !errors.As(err, &errno) {
		err = errOutside // refused by Root, not by the system
	}
	return f, err
}

// kernel puts the built kernel and its files into the store. The error is BuildFailed if
// the kernel is missing, is not a kernel, or is still the file from the archive.
func (t *Toolchain) kernel(ctx context.Context, w *work, b baseline) (step.Kernel, error) {
	none := step.Kernel{Spec: w.spec}
	product, err := w.product(ctx, b)
	if err != nil {
		return none, err
	}
	name := product.Kernel
	f, err := openIn(w.rollout.tree(), name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return none, buildFailed(fmt.Errorf("the commands succeeded and made no %s", name), w.madeHint(ctx, b))
	case err != nil:
		return none, buildFailed(fmt.Errorf("take %s: %w", name, Cause(err)), "the kernel has to be a regular file inside the source folder")
	}
	defer func() { _ = f.Close() }() // only read
	state, err := stateOf(f)
	if err != nil {
		return none, failed("read "+name, w.rollout.dir, err)
	}
	if b.untouched(name == w.Product.Kernel, *state) {
		return none, buildFailed(fmt.Errorf("the commands succeeded and left %s untouched", name),
			"it came with the source: leave it out there (.gitignore), or use toolchain prebuilt to deploy it as it is")
	}
	info, err := f.Stat()
	if err != nil {
		return none, failed("read "+name, w.rollout.dir, err)
	}
	what, err := image.Identify(image.Until(ctx, f), info.Size())
	var no *step.Error
	if errors.As(err, &no) && no.Kind == step.InvalidSpec {
		return none, buildFailed(fmt.Errorf("%s: %w", name, no.Err), no.Hint+"\n"+w.madeHint(ctx, b))
	}
	if err != nil {
		return none, failed("read "+name, w.rollout.dir, err)
	}
	if w.Accept != nil {
		if err := w.Accept(what); err != nil {
			return none, buildFailed(fmt.Errorf("%s %w", name, err), w.madeHint(ctx, b))
		}
	}
	artifact, err := t.site.Store.Put(ctx, f)
	if err != nil {
		return none, failed("store "+name, t.folder, err)
	}
	k := step.Kernel{Spec: w.spec, File: artifact, ABIs: what.ABIs}
	for _, file := range product.Files {
		a, err := t.putFile(ctx, w, file, b)
		if err != nil {
			return none, err
		}
		if a != nil {
			k.Files = append(k.Files, step.File{Name: file.Name, Artifact: *a})
		}
	}
	return k, nil
}

// product returns the paths of the kernel and of its files.
func (w *work) product(ctx context.Context, b baseline) (Product, error) {
	if w.Find == nil {
		return w.Product, nil
	}
	tree, err := os.OpenRoot(w.rollout.tree())
	if err != nil {
		return Product{}, failed("look for the kernel", w.rollout.dir, err)
	}
	defer func() { _ = tree.Close() }() // only read
	p, err := w.Find(tree)
	if err != nil && step.KindOf(err) == "" {
		err = buildFailed(err, w.madeHint(ctx, b))
	}
	return p, err
}

func buildFailed(err error, hint string) error {
	return &step.Error{Kind: step.BuildFailed, Op: string(step.Build), Err: err, Hint: hint}
}

// putFile stores a file that travels with the kernel; nil if it is optional and missing.
func (t *Toolchain) putFile(ctx context.Context, w *work, file File, b baseline) (*step.Artifact, error) {
	f, err := openIn(w.rollout.tree(), file.Path)
	if file.Optional && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, buildFailed(fmt.Errorf("take %s: %w", file.Path, Cause(err)), w.madeHint(ctx, b))
	}
	defer func() { _ = f.Close() }() // only read
	a, err := t.site.Store.Put(ctx, f)
	if err != nil {
		return nil, failed("store "+file.Path, t.folder, err)
	}
	return &a, nil
}

// madeHint names files that the commands made, the likeliest kernel first.
func (w *work) madeHint(ctx context.Context, b baseline) string {
	const most = 8
	made := w.made(ctx, b)
	if len(made) == 0 {
		return "they made no files at all"
	}
	slices.SortStableFunc(made, func(x, y madeFile) int { return cmp.Compare(x.rank, y.rank) })
	var lines []string
	for _, m := range made[:min(most, len(made))] {
		lines = append(lines, m.line)
	}
	if more := len(made) - most; more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return "they made:\n  " + strings.Join(lines, "\n  ")
}

// madeFile is a file that the commands made; a lower rank is a better guess.
type madeFile struct {
	path, line string
	rank       int
}

// made lists regular files that the commands made or changed, at most 10,000.
func (w *work) made(ctx context.Context, b baseline) []madeFile {
	var all []madeFile
	var bases []string
	_ = filepath.WalkDir(w.rollout.tree(), func(p string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil || len(all) == 10_000 {
			return filepath.SkipAll
		}
		if err != nil || !d.Type().IsRegular() {
			return nil //nolint:nilerr // a hint may be incomplete
		}
		info, err := d.Info()
		if err != nil || info.ModTime().Equal(b.Unpacked) {
			return nil //nolint:nilerr // a hint may be incomplete
		}
		rel, err := filepath.Rel(w.rollout.tree(), p)
		if err == nil {
			all = append(all, madeFile{path: rel, line: filepath.ToSlash(rel), rank: 3})
			bases = append(bases, d.Name())
		}
		return nil
	})
	want := path.Base(w.Product.Kernel)
	near := step.Nearest(want, bases)
	for i := range all {
		m := &all[i]
		switch base := filepath.Base(m.path); {
		case base == want:
			m.rank = 0
		case base == near:
			m.rank = 1
		case len(all) <= 200 && w.isKernel(m.path):
			m.rank = 2
			m.line += " (a kernel)"
		}
	}
	return all
}

func (w *work) isKernel(name string) bool {
	f, err := openIn(w.rollout.tree(), name)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return false
	}
	what, err := image.Identify(f, info.Size())
	return err == nil && !slices.Contains(what.ABIs, image.LinuxExecutable) && !slices.Contains(what.ABIs, image.ELF)
}
