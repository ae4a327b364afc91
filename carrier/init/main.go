// Command init is the first and only process of the carrier's Linux. It loads drivers,
// gives the network of the machine to the unikernel, and runs the unikernel. Then it powers
// the machine off. Package carrier puts it into the ramdisk with its Task.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/carrier/task"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "error: this is the init of morgana's carrier, which Linux starts")
		os.Exit(2)
	}
	m, err := start()
	if err != nil {
		say("%v", err)
		finish(1)
	}
	for {
		status, err := m.run()
		if err != nil {
			say("%v", err)
		}
		if !m.Respawn {
			finish(status)
		}
		say("exit status %d; the unikernel starts again", status)
		time.Sleep(time.Second)
	}
}

func say(format string, args ...any) { fmt.Printf("carrier: "+format+"\n", args...) }

// finish powers the machine off. The console's last line is the status: a machine that is
// powered off has none.
func finish(status int) {
	_ = os.WriteFile("/proc/sys/kernel/printk", []byte("0"), 0) // else Linux prints "reboot: Power down"
	say("exit status %d", status)
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		say("power off: %v", err)
	}
	select {} // Linux panics when init ends
}

type machine struct {
	task.Task
	program []string
}

// run runs the unikernel once. status is that of a shell.
func (m *machine) run() (status int, err error) {
	cmd := exec.Command(m.program[0], m.program[1:]...) //nolint:noctx // it runs until it ends
	cmd.Env = []string{"PATH=/", "HOME=/", "LD_LIBRARY_PATH=" + task.Libraries}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("start the unikernel: %w", err)
	}
	err = cmd.Wait()
	if how, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && how.Signaled() {
		return 128 + int(how.Signal()), err // "signal: killed"
	}
	return cmd.ProcessState.ExitCode(), nil
}

// start makes the machine ready.
func start() (*machine, error) {
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	m := &machine{}
	text, err := os.ReadFile(task.File)
	if err == nil {
		err = json.Unmarshal(text, &m.Task)
	}
	if err != nil {
		return nil, err
	}
	if err := loadModules(); err != nil {
		return nil, err
	}
	n, err := m.plug()
	if err != nil {
		return nil, err
	}
	disks, err := m.disks()
	if err != nil {
		return nil, err
	}
	memory, err := freeMemory()
	if err != nil {
		return nil, err
	}
	m.program = m.Command(n, disks, memory)
	return m, nil
}

// loadModules loads the modules in the order of their names. A driver without its device
// may refuse to be loaded.
func loadModules() error {
	paths, err := filepath.Glob(task.Modules + "/*.ko")
	if err != nil {
		return err
	}
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		_ = f.Close() // only read
		if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", filepath.Base(path), err)
		}
	}
	return nil
}

// disks returns the disks for the unikernel's block devices, in the order of their names.
func (m *machine) disks() (paths []string, err error) {
	return await(len(m.Blocks), "disks", func() ([]string, error) {
		found, err := filepath.Glob("/sys/block/*/device")
		for i, path := range found {
			found[i] = "/dev/" + filepath.Base(filepath.Dir(path))
		}
		return found, err
	})
}

// patience is how long devices may take to appear.
const patience = 20 * time.Second

// await returns the first n of what look finds. Some devices appear only after their driver
// is loaded.
func await(n int, noun string, look func() ([]string, error)) ([]string, error) {
	for until := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		found, err := look()
		if err == nil && len(found) < n && time.Now().After(until) {
			err = fmt.Errorf("the unikernel needs %d %s, and Linux finds %d: %s", n, noun, len(found), strings.Join(found, " "))
		}
		if err != nil || len(found) >= n {
			slices.Sort(found)
			return found[:min(n, len(found))], err
		}
	}
}

// freeMemory returns the MiB that a tender may give to its unikernel.
func freeMemory() (int, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(text) {
		var kib int
		if _, err := fmt.Sscanf(string(line), "MemAvailable: %d kB", &kib); err == nil {
			return max(kib/1024-tenderMemory, 1), nil
		}
	}
	return 0, errors.New("/proc/meminfo has no MemAvailable")
}

// tenderMemory is what Linux, this program and the tender take beside the unikernel, in MiB.
const tenderMemory = 16
