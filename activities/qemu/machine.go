package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"

	"github.com/morgana-deploy/morgana/step"
)

// The files of a machine's folder; see the package's documentation.
const (
	kernelFile  = "kernel"
	recordFile  = "machine.json"
	lockFile    = "lock"
	pidFile     = "pid"
	qmpFile     = "qmp.sock"
	consoleFile = "console.log"
	logFile     = "qemu.log"
	readyFile   = "ready"
)

// machine is a machine's folder, and so a registration.
type machine struct {
	path string
	tags step.Tags
}

// record is machine.json.
type record struct {
	Tags   step.Tags `json:"tags"`
	Digest string    `json:"digest"`
	// Kernel is the SHA-256 of the file kernel.
	Kernel  string          `json:"kernel"`
	Options json.RawMessage `json:"options"`
}

var (
	lifeForm   = regexp.MustCompile(`^[0-9a-f]{1,32}$`)
	folderForm = regexp.MustCompile(`^([a-z][a-z0-9-]{0,39})\.([a-z][a-z0-9-]{0,39})\.([0-9a-f]{1,32})-([1-9][0-9]{0,8})$`)
	// Half made or half removed: a dot, the folder's name, a random number.
	scrapForm = regexp.MustCompile(`^\.(.*)\.[0-9]+$`)
)

func (t *Target) root() string { return filepath.Join(t.site.State, Kind) }

// machine is the folder for tags, there or not. The name is made of checked
// parts only, so it cannot lead out of root.
func (t *Target) machine(tags step.Tags) (machine, error) {
	if err := errors.Join(step.CheckName("app", tags.App), step.CheckName("target", tags.Target)); err != nil {
		return machine{}, err
	}
	if !lifeForm.MatchString(tags.Life) {
		return machine{}, invalid("life", "8 hex digits", "%q is no life", tags.Life)
	}
	if tags.Generation < 1 {
		return machine{}, invalid("generation", "1 or more", "%d is no generation", tags.Generation)
	}
	name := fmt.Sprintf("%s.%s.%s-%d", tags.App, tags.Target, tags.Life, tags.Generation)
	return machine{filepath.Join(t.root(), name), tags}, nil
}

func parseFolder(name string) (step.Tags, bool) {
	p := folderForm.FindStringSubmatch(name)
	if p == nil {
		return step.Tags{}, false
	}
	generation, err := strconv.Atoi(p[4])
	return step.Tags{App: p[1], Target: p[2], Life: p[3], Generation: generation}, err == nil
}

// machines lists the registrations whose tags are wanted.
func (t *Target) machines(wanted func(step.Tags) bool) ([]machine, error) {
	return t.folders(func(name string) (step.Tags, bool) {
		tags, ok := parseFolder(name)
		return tags, ok && wanted(tags)
	})
}

// scrap lists what is half made or half removed and wanted.
func (t *Target) scrap(wanted func(step.Tags) bool) ([]machine, error) {
	return t.folders(func(name string) (step.Tags, bool) {
		p := scrapForm.FindStringSubmatch(name)
		if p == nil {
			return step.Tags{}, false
		}
		tags, ok := parseFolder(p[1])
		return tags, ok && wanted(tags)
	})
}

func (t *Target) folders(wanted func(name string) (step.Tags, bool)) ([]machine, error) {
	entries, err := os.ReadDir(t.root())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []machine
	for _, e := range entries {
		if tags, ok := wanted(e.Name()); ok {
			found = append(found, machine{filepath.Join(t.root(), e.Name()), tags})
		}
	}
	return found, nil
}

func (m machine) name() string            { return filepath.Base(m.path) }
func (m machine) file(name string) string { return filepath.Join(m.path, name) }

// record reads machine.json. A folder that is not there is NotFound.
func (m machine) record() (record, error) {
	var rec record
	b, err := os.ReadFile(m.file(recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return rec, m.notFound()
	}
	if err != nil {
		return rec, err
	}
	if err := json.Unmarshal(b, &rec); err != nil {
		return rec, fmt.Errorf("%s: %w", m.file(recordFile), err)
	}
	return rec, nil
}

func (m machine) notFound() error {
	return &step.Error{Kind: step.NotFound, Err: fmt.Errorf("no machine %s on this host", m.name()),
		Hint: "it was destroyed, or never registered: deploy again"}
}

var errHeld = errors.New("somebody else changes the machine, or it runs")

// lock takes the machine for changing; closing the file lets go. It does not
// wait: errHeld says that QEMU runs, starts or is ending, or that another
// call changes the machine. NotFound if the folder is gone.
func (m machine) lock() (*os.File, error) {
	f, err := os.OpenFile(m.file(lockFile), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, m.notFound()
	}
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	// What was locked may have been removed in between, and made anew.
	locked, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	there, err := os.Stat(m.file(lockFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errors.Join(m.notFound(), f.Close())
	case err != nil:
		return nil, errors.Join(err, f.Close())
	case !os.SameFile(locked, there):
		return nil, errors.Join(errHeld, f.Close())
	}
	return f, nil
}

// flock locks for the open file, not for the process: a child that inherits
// the file keeps the lock, and the kernel lets go when the last one is gone.
func flock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.EWOULDBLOCK):
			return errHeld
		case !errors.Is(err, syscall.EINTR):
			return &fs.PathError{Op: "flock", Path: f.Name(), Err: err}
		}
	}
}

// pid is the process id of the machine's QEMU, 0 if none runs: the holder of
// the lock on the pid file.
func (m machine) pid() (int, error) {
	f, err := os.Open(m.file(pidFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	lock := syscall.Flock_t{Type: syscall.F_WRLCK}
	err = errors.Join(syscall.FcntlFlock(f.Fd(), syscall.F_GETLK, &lock), f.Close())
	if err != nil {
		return 0, &fs.PathError{Op: "query lock", Path: f.Name(), Err: err}
	}
	if lock.Type == syscall.F_UNLCK {
		return 0, nil
	}
	return int(lock.Pid), nil
}

// ended reports whether a machine that does not run ran to its end by itself.
// Only meaningful with the machine's lock, or without a pid.
func (m machine) ended() bool {
	_, err := os.Lstat(m.file(pidFile))
	printed, statErr := os.Stat(m.file(consoleFile))
	return errors.Is(err, fs.ErrNotExist) && statErr == nil && printed.Size() > 0
}

// ready says how the machine was known to be ready, if it ever was.
func (m machine) ready() (string, bool) {
	b, err := os.ReadFile(m.file(readyFile))
	return string(b), err == nil && len(b) > 0
}

func (m machine) setReady(how string) error {
	return writeFile(m.file(readyFile), []byte(how))
}

// writeFile writes a file all or not at all.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
