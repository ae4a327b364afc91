package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

const (
	opWrite   = "write disk image"
	imageName = "disk.raw"
	// epoch is the time of every file on a disk, in Unix seconds: 1980-01-01, the first that
	// FAT knows.
	epoch = 315532800
	// full is the free space in bytes below which a file system counts as full.
	full = mebi
)

// work is the making of one disk, in a folder next to its path.
type work struct {
	host
	dir  string
	done func() error // removes dir
	content
	sum   hash.Hash // of the layout and the bytes copied
	image *os.File  // the disk, from create on
}

func (h host) newWork(path string) (*work, error) {
	dir, done, err := scratch(path)
	if err != nil {
		return nil, failIn(filepath.Dir(path), opWrite, err)
	}
	return &work{host: h, dir: dir, done: done}, nil
}

func (w *work) file(name string) string { return filepath.Join(w.dir, name) }

// create makes the empty disk: one hole.
func (w *work) create(size int64) (err error) {
	if w.image, err = os.OpenFile(w.file(imageName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644); err == nil {
		err = w.image.Truncate(size)
	}
	return w.fail(opWrite, err)
}

func (w *work) put(data []byte, at int64) error {
	_, err := w.image.WriteAt(data, at)
	return w.fail(opWrite, err)
}

// run runs a tool in the work folder, so that file names need no quoting. The error
// has the last line of the tool's output.
func (w *work) run(ctx context.Context, name string, args ...string) error {
	program, err := w.find(name)
	if err != nil {
		return w.fail(opWrite, err)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = w.dir
	seconds := strconv.Itoa(epoch)
	// The language, time, zone and configuration files of the host have no effect.
	cmd.Env = []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + w.dir, "TMPDIR=" + w.dir, "LC_ALL=C", "TZ=UTC",
		"SOURCE_DATE_EPOCH=" + seconds,
		"MTOOLSRC=/dev/null", "MTOOLS_SKIP_CHECK=1",
	}
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		said := lastLine(stderr.String() + "\n" + stdout.String())
		return w.fail("run "+name, fmt.Errorf("%w: %s", err, said))
	}
	return w.fail("run "+name, err)
}

// lastLine returns the line where most programs write their error.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

func (w *work) fail(op string, err error) error { return failIn(filepath.Dir(w.dir), op, err) }

// failIn gives an error its kind. A tool has no exit status for a full file system, so
// if one fails the free space is read.
func failIn(folder, op string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	e := &step.Error{Op: op, Err: err}
	var exit *exec.ExitError
	var stat syscall.Statfs_t
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT),
		errors.As(err, &exit) && syscall.Statfs(folder, &stat) == nil && stat.Bavail*uint64(stat.Bsize) < full:
		e.Kind, e.Hint = step.NoSpace, "free space in "+folder
	case errors.Is(err, fs.ErrNotExist):
		e.Kind = step.NotFound
	}
	return e
}
