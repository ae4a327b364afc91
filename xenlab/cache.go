package xenlab

import (
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

//go:embed build.sh dom0
var inputs embed.FS

// buildTimeout is for a cold build: packages from a slow mirror, on a busy machine.
const buildTimeout = 30 * time.Minute

// Missing returns an error that names the first tool that this host lacks for a lab. If
// there is no saved state, Missing also checks the tools and the permission to build one.
func Missing(ctx context.Context) error {
	if err := lacks(tool{qemu, "qemu-system-x86"}, tool{"ssh", "openssh-client"}); err != nil {
		return err
	}
	if _, ok, err := cached(ctx); err != nil || ok {
		return err
	}
	if err := lacks(tool{"mmdebstrap", "mmdebstrap"}, tool{"depmod", "kmod"}, tool{"cpio", "cpio"},
		tool{"mke2fs", "e2fsprogs"}, tool{"qemu-img", "qemu-utils"}); err != nil {
		return err
	}
	return mayBuild()
}

func mayBuild() error {
	if os.Geteuid() == 0 {
		return nil
	}
	return errors.New("no xenlab is built yet, which takes root; in the repository: " +
		"go run -exec 'sudo --preserve-env=HOME,XDG_CACHE_HOME' ./xenlab/lab build")
}

type tool struct{ name, pkg string }

func lacks(tools ...tool) error {
	for _, tool := range tools {
		_, err := exec.LookPath(tool.name)
		if err != nil {
			_, err = exec.LookPath("/usr/sbin/" + tool.name) // su may not put it in PATH
		}
		if err != nil {
			return fmt.Errorf("%s is not installed (Debian: %s)", tool.name, tool.pkg)
		}
	}
	return nil
}

// root returns the folder of all saved states.
func root() (string, error) {
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, "morgana", "xenlab"), err
}

// cached returns the path of the saved state, and whether it exists.
func cached(ctx context.Context) (dir string, ok bool, err error) {
	top, err := root()
	if err != nil {
		return "", false, err
	}
	v, err := version(ctx)
	if err != nil {
		return "", false, fmt.Errorf("%s --version: %w", qemu, err)
	}
	made := fmt.Appendf(nil, "%s%q%q", v, machine, dom0Args)
	err = fs.WalkDir(inputs, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := inputs.ReadFile(path)
		made = fmt.Appendf(made, "%q%q", path, raw)
		return err
	})
	if err != nil {
		return "", false, err
	}
	dir = filepath.Join(top, fmt.Sprintf("%x", sha256.Sum256(made))[:16])
	switch _, err = os.Stat(dir); {
	case err == nil:
		return dir, true, nil
	case errors.Is(err, os.ErrNotExist):
		return dir, false, nil
	}
	return "", false, err
}

// Build returns the folder of the saved state and builds it if it is not there, which
// takes root. Builds take turns; each reports its progress on stderr.
func Build(ctx context.Context) (dir string, err error) {
	dir, ok, err := cached(ctx)
	if err != nil || ok {
		return dir, err
	}
	if err := mayBuild(); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, buildTimeout, fmt.Errorf("not built within %v", buildTimeout))
	defer cancel()
	top := filepath.Dir(dir)
	if err := mkdirAll(top); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, filepath.Join(top, "lock"))
	if err != nil {
		return "", fmt.Errorf("wait for another build of xenlab: %w", err)
	}
	defer unlock()
	if _, ok, err := cached(ctx); err != nil || ok {
		return dir, err // built meanwhile
	}
	// These folders are made under the lock, so a killed build has left any that exist.
	left, err := filepath.Glob(filepath.Join(top, ".making-*"))
	if err != nil {
		return "", err
	}
	for _, folder := range left {
		if err := os.RemoveAll(folder); err != nil {
			return "", err
		}
	}
	making, err := os.MkdirTemp(top, ".making-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(making)) }()
	if err := build(ctx, making); err != nil {
		return "", fmt.Errorf("build xenlab: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(making, "*"))
	if err != nil {
		return "", err
	}
	if err := give(append([]string{making}, files...)...); err != nil {
		return "", err
	}
	return dir, os.Rename(making, dir)
}

func build(ctx context.Context, dir string) error {
	scripts, err := os.MkdirTemp("", "xenlab-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(scripts) }() // in /tmp
	if err := os.CopyFS(scripts, inputs); err != nil {
		return err
	}
	begin := time.Now()
	cmd := exec.CommandContext(ctx, "bash", filepath.Join(scripts, "build.sh"), dir)
	cmd.Stderr = os.Stderr
	// A cancel ends its children too. Pdeathsig fires when the starting thread ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build.sh: %w", err)
	}
	say("%4.0fs booting", time.Since(begin).Seconds())
	create := exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "dom0.img", "-F", "raw", stateName)
	create.Dir = dir
	if out, err := create.CombinedOutput(); err != nil {
		return fmt.Errorf("qemu-img: %w: %s", err, strings.TrimSpace(string(out)))
	}
	l, err := at(dir)
	if err != nil {
		return err
	}
	if err := l.boot(ctx, dir, false); err != nil {
		return err
	}
	say("%4.0fs saving", time.Since(begin).Seconds())
	err = l.save()
	l.vm.kill()
	<-l.vm.ended
	if err != nil {
		return err
	}
	say("%4.0fs built", time.Since(begin).Seconds())
	for _, name := range []string{pidName, knownHosts, filepath.Base(l.Config)} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// save stores the running machine in its disk.
func (l *Lab) save() error {
	said, err := l.vm.monitor.Human("savevm " + snapshot)
	if err == nil && said != "" {
		err = errors.New(strings.TrimSpace(said))
	}
	return err
}

// lock takes a file's lock, or gives up when ctx ends.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := give(path); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	for first := true; ; first = false {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil // which releases the lock
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(err, file.Close())
		}
		if first {
			say("another build is under way, waiting for it")
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), file.Close())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// mkdirAll makes dir and its missing parents. Each gets the owner of the folder above it.
func mkdirAll(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrNotExist) {
		if err := mkdirAll(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o700)
	}
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return give(dir)
}

// give gives a file of root's to the owner of its folder. Under sudo that is the user,
// who then needs no sudo to use it.
func give(paths ...string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	for _, path := range paths {
		in, err := os.Stat(filepath.Dir(path))
		if err != nil {
			return err
		}
		owner := in.Sys().(*syscall.Stat_t)
		if err := os.Lchown(path, int(owner.Uid), int(owner.Gid)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "xenlab: "+format+"\n", args...)
}
