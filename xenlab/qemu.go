package xenlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/morgana-deploy/morgana/qmp"
)

const (
	qemu        = "qemu-system-x86_64"
	stateName   = "state.qcow2" // the difference to dom0.img, and the saved state
	consoleName = "console.log"
	logName     = "qemu.log"
	pidName     = "qemu.pid"
	snapshot    = "booted"
)

// machine is the QEMU machine of all labs. A saved state can be resumed only on the same
// machine, so these options are part of the cache's key.
var machine = []string{
	"-M", "q35", "-accel", "tcg,thread=multi,tb-size=256", "-smp", "2", "-m", "2560",
	// TCG emulates AMD's virtualisation, which PVH and HVM guests need. Xen does
	// not survive TCG's SMAP.
	"-cpu", "max,-smap",
	"-nodefaults", "-display", "none",
	// Xen reboots when it or dom0 has crashed; with this it ends QEMU.
	"-no-reboot",
	"-device", "virtio-blk-pci,drive=disk",
	"-device", "virtio-net-pci,netdev=net,romfile=",
	// bootscrub=0: scrubbing touches all memory, and the saved state would be as large.
	"-append", "xen console=com1 com1=115200,8n1 dom0_mem=768M,max:768M dom0_max_vcpus=1 bootscrub=0 spec-ctrl=no loglvl=warning guest_loglvl=all",
}

// norandmaps: TCG keeps translated code by virtual address. At random addresses it would
// translate each program anew at each start, and a process would cost three times as
// much. mitigations=off: an emulated processor does not speculate.
const dom0Args = "console=hvc0 quiet panic=-1 norandmaps mitigations=off"

// vm is a QEMU that this process started.
type vm struct {
	cmd     *exec.Cmd
	ended   chan struct{} // closed when QEMU has ended
	kill    func()
	monitor *qmp.Client
}

// launch starts QEMU on the disk in dir. QEMU keeps running when the pipes of its monitor
// close, as they do when this process ends.
func launch(dir, cache string, detached bool, args ...string) (*vm, error) {
	disk, err := json.Marshal(map[string]any{
		"node-name": "disk", "driver": "qcow2",
		"file": map[string]any{"driver": "file", "filename": filepath.Join(dir, stateName)},
		"backing": map[string]any{"driver": "raw", "read-only": true,
			"file": map[string]any{"driver": "file", "filename": filepath.Join(cache, "dom0.img")}},
		// The disk need not outlive a crash of this machine.
		"cache": map[string]any{"no-flush": true},
	})
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, logName))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()                                            // QEMU has its own
	cmd := exec.Command(qemu, append(append([]string{}, machine...), args...)...) //nolint:noctx // it may outlive ctx, and is killed with it if not
	cmd.Args = append(cmd.Args,
		"-kernel", "xen", "-initrd", "vmlinuz "+dom0Args+",initrd.img",
		"-blockdev", string(disk),
		// QEMU picks a free port. restrict=on: guests reach no other host.
		"-netdev", "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22",
		"-chardev", "file,id=console,path="+qmp.Option(filepath.Join(dir, consoleName)), "-serial", "chardev:console",
		"-pidfile", filepath.Join(dir, pidName), "-qmp", "stdio")
	cmd.Dir = cache // -initrd is split at commas and blanks, which a path may have
	cmd.Stderr = log
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if detached {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	}
	ended, err := qmp.Start(cmd)
	if err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	monitor := qmp.New(struct {
		io.Reader
		io.Writer
	}{out, in}, nil)
	return &vm{cmd: cmd, ended: ended, monitor: monitor, kill: func() { _ = cmd.Process.Kill() }}, nil // it has ended, or it is killed
}

// process finds the lab's QEMU, which locks its pid file for as long as it lives.
func (l *Lab) process() (*os.Process, error) {
	file, err := os.Open(filepath.Join(l.Dir, pidName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrDown
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // only read
	var pid int
	if _, err := fmt.Fscan(file, &pid); err != nil {
		return nil, ErrDown // not written yet, or never
	}
	// The handle comes before the lock: if the lock is held, the PID is not reused.
	p, err := os.FindProcess(pid)
	if err != nil {
		return nil, err
	}
	lock := syscall.Flock_t{Type: syscall.F_RDLCK}
	if err := syscall.FcntlFlock(file.Fd(), syscall.F_GETLK, &lock); err != nil {
		return nil, err
	}
	if lock.Type == syscall.F_UNLCK {
		return nil, ErrDown
	}
	return p, nil
}

// end kills a lab's QEMU that another process started.
func (l *Lab) end() error {
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		p, err := l.process()
		if errors.Is(err, ErrDown) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("end QEMU, process %d: %w", p.Pid, err)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("process %d does not end", p.Pid)
		}
	}
}

// version returns QEMU's version: a saved state is tied to it and to the machine.
func version(ctx context.Context) ([]byte, error) {
	return exec.CommandContext(ctx, qemu, "--version").Output()
}
