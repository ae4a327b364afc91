// Package xenlab starts a real Xen, for tests and to try a deploy without a Xen host: a
// Debian dom0 with Xen 4.17, in QEMU's own emulation, reached over ssh on
// loopback. PV, PVH and HVM guests run in it. It needs no KVM, and root only to
// build; its files belong to the owner of the folder.
//
// The dom0 is built and booted once. Its running state is saved in
// $XDG_CACHE_HOME/morgana/xenlab/KEY, where KEY is a digest of everything that it is made
// of. A lab goes on from a copy of that state. So several labs run at once, none sees the
// changes of another, and all have the same ssh keys. A state gets its name when it is
// complete.
package xenlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Alias is the name of a lab in its ssh_config.
const Alias = "xenlab"

// bootTimeout is the limit from power-on, or from the saved state, to an answer over ssh.
// Both take seconds, but longer on a busy machine.
const bootTimeout = 10 * time.Minute

// Lab is a Xen host that runs.
type Lab struct {
	// Dir has the lab's files: its ssh_config, known_hosts and disk, and
	// console.log, the output of Xen and dom0.
	Dir string
	// Config is the path of an ssh_config with "Host xenlab".
	Config string
	// Host is the address in it, "ssh://xenlab".
	Host string

	vm *vm // nil if another process started it
}

// Start starts a lab in dir, which is made if it is not there, and waits until it
// answers. It builds the cached state if there is none, which takes minutes and
// says so on stderr. The lab ends with Close, with ctx or with this process.
func Start(ctx context.Context, dir string) (*Lab, error) {
	return start(ctx, dir, false)
}

// Up is Start for a lab that outlives this process: [Open] finds it again.
func Up(ctx context.Context, dir string) (*Lab, error) {
	return start(ctx, dir, true)
}

// Open returns the lab that runs in dir. If none runs, the error is [ErrDown], and Close
// of the result removes the files of a lab that crashed.
func Open(dir string) (*Lab, error) {
	l, err := at(dir)
	if err != nil {
		return nil, err
	}
	_, err = l.process()
	return l, err
}

// ErrDown says that no lab runs in a folder.
var ErrDown = errors.New("no lab runs here")

func at(dir string) (*Lab, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	return &Lab{Dir: dir, Config: filepath.Join(dir, "ssh_config"), Host: "ssh://" + Alias}, nil
}

func start(ctx context.Context, dir string, detached bool) (*Lab, error) {
	l, err := Open(dir)
	if err == nil {
		return nil, fmt.Errorf("a lab runs in %s already", l.Dir)
	}
	if !errors.Is(err, ErrDown) {
		return nil, err
	}
	cache, err := Build(ctx)
	if err != nil {
		return nil, err
	}
	if err := mkdirAll(l.Dir); err != nil {
		return nil, err
	}
	// Only the difference to the disk is copied; the disk itself is read in place.
	disk := filepath.Join(l.Dir, stateName)
	cp := exec.CommandContext(ctx, "cp", "--reflink=auto", "--sparse=always", filepath.Join(cache, stateName), disk)
	if out, err := cp.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("copy the saved state: %w: %s", err, bytes.TrimSpace(out))
	}
	if err := l.boot(ctx, cache, detached, "-loadvm", snapshot); err != nil {
		return nil, errors.Join(err, os.Remove(disk))
	}
	for _, name := range []string{stateName, pidName, knownHosts, filepath.Base(l.Config), consoleName, logName} {
		if err := give(filepath.Join(l.Dir, name)); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return l, nil
}

// boot starts QEMU and waits for an answer over ssh.
func (l *Lab) boot(ctx context.Context, cache string, detached bool, args ...string) error {
	ready, cancel := context.WithTimeoutCause(ctx, bootTimeout, fmt.Errorf("no answer over ssh within %v", bootTimeout))
	defer cancel()
	vm, err := launch(l.Dir, cache, detached, args...)
	if err != nil {
		return err
	}
	l.vm = vm
	// QEMU may hang before ssh answers, in QMP as well.
	stop := context.AfterFunc(ready, vm.kill)
	err = l.connect(ready, cache)
	if !stop() && err == nil {
		err = context.Cause(ready) // at the last moment
	}
	if err != nil {
		vm.kill()
		<-vm.ended
		return fmt.Errorf("boot xenlab: %w%s", err, l.lastWords())
	}
	if !detached {
		context.AfterFunc(ctx, vm.kill)
	}
	return nil
}

func (l *Lab) connect(ctx context.Context, cache string) (err error) {
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}()
	if _, err := l.vm.monitor.Execute("qmp_capabilities", nil); err != nil {
		return err
	}
	port, err := l.vm.monitor.Forwarded()
	if err != nil {
		return err
	}
	if err := l.writeSSH(cache, port); err != nil {
		return err
	}
	// The clock of the saved state shows the time of the save, so it is set.
	return l.await(ctx, func() error {
		_, err := l.Run(ctx, "date", "-u", "-s", fmt.Sprintf("@%.3f", float64(time.Now().UnixMilli())/1000))
		return err
	})
}

// Reboot resets the machine and waits until it answers over ssh again. The disk keeps what
// was synced. Only the process that started the lab can reboot it.
func (l *Lab) Reboot(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout, fmt.Errorf("no answer over ssh within %v", bootTimeout))
	defer cancel()
	const bootID = "/proc/sys/kernel/random/boot_id"
	was, err := l.Run(ctx, "cat", bootID)
	if err != nil {
		return err
	}
	onReset := func(action string) error { // overrides -no-reboot
		_, err := l.vm.monitor.Execute("set-action", map[string]string{"reboot": action})
		return err
	}
	if err := onReset("reset"); err != nil {
		return err
	}
	if _, err := l.vm.monitor.Execute("system_reset", nil); err != nil {
		return err
	}
	err = l.await(ctx, func() error {
		is, err := l.Run(ctx, "cat", bootID)
		if err == nil && is == was {
			return errors.New("the machine is not reset")
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("reboot xenlab: %w%s", err, l.lastWords())
	}
	return onReset("shutdown")
}

// await tries until it succeeds, the lab ends or ctx is done.
func (l *Lab) await(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-l.vm.ended:
			return errors.New("QEMU has ended")
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// lastWords returns the ends of the logs of QEMU and Xen.
func (l *Lab) lastWords() (s string) {
	for _, name := range []string{logName, consoleName} {
		raw, _ := os.ReadFile(filepath.Join(l.Dir, name))
		if raw = bytes.TrimSpace(raw); len(raw) > 0 {
			s += fmt.Sprintf("\n%s: %s", name, raw[max(0, len(raw)-1000):])
		}
	}
	return s
}

// Close ends the lab and removes its disk; its logs stay in Dir. A folder
// without a lab's disk is left as it is.
func (l *Lab) Close() error {
	if l.vm != nil {
		l.vm.kill()
		<-l.vm.ended
	} else if err := l.end(); err != nil {
		return err
	}
	switch err := os.Remove(filepath.Join(l.Dir, stateName)); {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	var errs []error
	for _, name := range []string{pidName, filepath.Base(l.Config), knownHosts} {
		if err := os.Remove(filepath.Join(l.Dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Run runs a command in dom0 as root and returns its standard output. The error of a
// command that fails has its error output.
func (l *Lab) Run(ctx context.Context, argv ...string) (stdout string, err error) {
	cmd := l.Command(ctx, argv...)
	var out, errOut strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}
