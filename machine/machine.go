// Package machine keeps machines that are processes on this host, for the targets
// that start them (qemu, local).
//
// # What is on the host
//
// A machine is a folder, State/<kind>/<app>.<target>.<life>-<generation>/ with
//
//	machine.json  tags, digest and options: what Register was given
//	lock          held by a call that changes the machine, and by its process
//	pid           locked (fcntl) by the process as long as it runs
//	console.log   what the machine printed
//	ready         how the machine showed that it is ready; absent until then
//
// and the files of its image. The folder is the registration; there is no other
// record. Register makes it in one rename, Destroy removes it. A folder whose
// name begins with a dot is half made or half removed.
//
// # The process
//
// A worker may die at any moment, and two workers may be told to boot the same machine. So
// a process id in a file proves nothing. The call that starts the process takes the lock
// first, and the process inherits it: until the process is gone no other call can start or
// remove the machine. The process id is that of the holder of the fcntl lock on the pid
// file, which the kernel reports. A later process with the same id does not hold that lock.
//
// A process that ends by itself removes its pid file. A pid file without a lock means that
// the process was killed, or that its host went down.
//
// The process has a session of its own and outlives the worker. A service manager that ends
// all processes of the worker's control group ends the machines too: under systemd set
// KillMode=process.
package machine

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

// The files of a machine's folder; see the package's documentation.
const (
	RecordFile  = "machine.json"
	PidFile     = "pid"
	ConsoleFile = "console.log"
	readyFile   = "ready"
	lockFile    = "lock"
)

// Machines are the machines of one kind on this host. It keeps nothing in memory.
type Machines struct {
	kind, root string
	store      step.Store
	patience   time.Duration // with a disk's lock
}

// In returns the machines of a kind at site.
func In(site step.Site, kind string) *Machines {
	return &Machines{kind, filepath.Join(site.State, kind), site.Store, diskPatience}
}

// Root is the folder of these machines, State/<kind>; it may not exist yet.
func (r *Machines) Root() string { return r.root }

// Machine is a machine's folder, which is its registration. It may not exist.
type Machine struct {
	Path string
	Tags step.Tags
}

// Record is the content of machine.json.
type Record struct {
	Tags   step.Tags `json:"tags"`
	Digest string    `json:"digest"`
	// Files maps the names of the image's files that the folder still has to their SHA-256.
	Files   map[string]string `json:"files"`
	Options json.RawMessage   `json:"options"`
}

// A folder that is half made or half removed: a dot, the machine's name, a dot, a number.
var scrapForm = regexp.MustCompile(`^\.(.*)\.[0-9]+$`)

// Of returns the machine of tags, whether or not it exists. Tags that do not name one
// machine are InvalidSpec.
func (r *Machines) Of(tags step.Tags) (Machine, error) {
	name, err := tags.Folder()
	if err != nil {
		return Machine{}, err
	}
	return Machine{filepath.Join(r.root, name), tags}, nil
}

// All lists the machines whose tags are wanted, without half-made folders.
func (r *Machines) All(wanted func(step.Tags) bool) ([]Machine, error) {
	return r.folders(func(name string) (step.Tags, bool) {
		tags, ok := step.ParseFolder(name)
		return tags, ok && wanted(tags)
	})
}

// scrap lists the half-made and half-removed folders whose tags are wanted.
func (r *Machines) scrap(wanted func(step.Tags) bool) ([]Machine, error) {
	return r.folders(func(name string) (step.Tags, bool) {
		tags, ok := scrapTags(name)
		return tags, ok && wanted(tags)
	})
}

func scrapTags(name string) (step.Tags, bool) {
	if p := scrapForm.FindStringSubmatch(name); p != nil {
		return step.ParseFolder(p[1])
	}
	return step.Tags{}, false
}

func (r *Machines) folders(wanted func(name string) (step.Tags, bool)) ([]Machine, error) {
	entries, err := os.ReadDir(r.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []Machine
	for _, e := range entries {
		if tags, ok := wanted(e.Name()); ok {
			found = append(found, Machine{filepath.Join(r.root, e.Name()), tags})
		}
	}
	return found, nil
}

// Name is the folder's name.
func (m Machine) Name() string { return filepath.Base(m.Path) }

// File is the path of a file in the machine's folder.
func (m Machine) File(name string) string { return filepath.Join(m.Path, name) }

// errRuin says that the folder's record cannot be read: the disk failed, or another
// program changed it. Register makes the folder anew.
var errRuin = errors.New("its machine.json is lost or damaged")

// Record reads machine.json. NotFound says that the folder is not there, or that
// its record is damaged: trying again would not help.
func (m Machine) Record() (Record, error) {
	b, err := os.ReadFile(m.File(RecordFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Record{}, err
	}
	var rec Record
	if err == nil && json.Unmarshal(b, &rec) == nil && rec.Digest != "" {
		return rec, nil
	}
	if _, err := os.Lstat(m.Path); errors.Is(err, fs.ErrNotExist) {
		return Record{}, m.notFound()
	} else if err != nil {
		return Record{}, err
	}
	return Record{}, &step.Error{Kind: step.NotFound, Err: fmt.Errorf("no machine %s on this host: %w", m.Name(), errRuin), Hint: "deploy again"}
}

// UUID is the machine's id. It follows from tags and digest, so every start has the same.
func (rec Record) UUID() string {
	u := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%d\n%s", rec.Tags.App, rec.Tags.Target, rec.Tags.Life, rec.Tags.Generation, rec.Digest))
	u[6] = u[6]&0x0f | 0x80 // RFC 9562: version 8, custom
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

func (m Machine) notFound() error {
	return &step.Error{Kind: step.NotFound, Err: fmt.Errorf("no machine %s on this host", m.Name()),
		Hint: "it was destroyed, or never registered: deploy again"}
}

// ErrHeld says that the machine's process or another call has its lock.
var ErrHeld = errors.New("the machine runs, or another call changes it")

// Lock takes the machine's lock, which excludes every other call. Closing the file releases
// it, unless a process that inherited it still runs. Lock does not wait: a lock that is
// held is [ErrHeld]. A folder that is gone is NotFound.
func (m Machine) Lock() (*os.File, error) {
	f, err := os.OpenFile(m.File(lockFile), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if pid, err := m.Pid(); err != nil {
			return nil, err
		} else if pid != 0 { // the lock file was removed under a running process
			return nil, ErrHeld
		}
		return nil, m.notFound()
	}
	if err != nil {
		return nil, err
	}
	if err := files.Lock(f); errors.Is(err, files.ErrLocked) {
		return nil, errors.Join(ErrHeld, f.Close())
	} else if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	// The folder may have been removed and made anew before the lock was taken.
	locked, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	there, err := os.Stat(m.File(lockFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errors.Join(m.notFound(), f.Close())
	case err != nil:
		return nil, errors.Join(err, f.Close())
	case !os.SameFile(locked, there):
		return nil, errors.Join(ErrHeld, f.Close())
	}
	return f, nil
}

// Start starts cmd as the machine's process, in the machine's folder and in a session of
// its own. The process inherits lock as descriptor 3, before the files of cmd.ExtraFiles.
// If cmd.Env is nil it gets a few variables of the worker that hold no secrets. The files
// of an earlier run are removed first.
func (m Machine) Start(cmd *exec.Cmd, lock *os.File) error {
	if err := m.forget(); err != nil {
		return err
	}
	cmd.Dir = m.Path
	cmd.ExtraFiles = append([]*os.File{lock}, cmd.ExtraFiles...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if cmd.Env == nil {
		cmd.Env = []string{} // nil would inherit all of the worker's
		for _, name := range []string{"PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH"} {
			if v, ok := os.LookupEnv(name); ok {
				cmd.Env = append(cmd.Env, name+"="+v)
			}
		}
	}
	if err := cmd.Start(); err != nil {
		return &step.Error{Kind: step.Unsupported, Err: err, Hint: "is " + cmd.Path + " a program for this host?"}
	}
	// Reap the process when it ends, so that it leaves no zombie.
	go func() { _ = cmd.Wait() }()
	return nil
}

// forget removes the files of an earlier run, and the target's own files in more.
func (m Machine) forget(more ...string) error {
	for _, old := range append(more, readyFile, ConsoleFile, PidFile) {
		if err := os.Remove(m.File(old)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Pid returns the process id of the holder of the pid file's fcntl lock, which is the
// machine's process; 0 if none runs.
func (m Machine) Pid() (int, error) {
	f, err := os.Open(m.File(PidFile))
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

// Ready returns how the machine showed that it was ready; ok is false if it never was.
func (m Machine) Ready() (how string, ok bool) {
	b, err := os.ReadFile(m.File(readyFile))
	return string(b), err == nil && len(b) > 0
}

// SetReady records how the machine showed that it was ready.
func (m Machine) SetReady(how string) error {
	if was, ok := m.Ready(); ok && was == how {
		return nil
	}
	return files.Write(m.File(readyFile), []byte(how))
}
