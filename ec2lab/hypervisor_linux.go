package ec2lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/ec2lab/linux"
	"github.com/morgana-deploy/morgana/qmp"
)

// norandmaps makes QEMU's emulation three times faster, see package xenlab. An emulated
// processor does not speculate.
const linuxArgs = "console=ttyS0,115200 quiet panic=-1 norandmaps mitigations=off random.trust_cpu=on"

// linuxGuest is a guest with [Linux].
type linuxGuest struct {
	*qmp.Process
	ctx     context.Context
	nitro   bool
	monitor *qmp.Client
	init    net.Conn      // to the init of package linux
	here    chan struct{} // closed when the init listens

	mu    sync.Mutex
	slots map[string]string        // PCI slots by the id of the volume
	next  int                      // slot
	waits map[string]chan struct{} // for a line of the init, or for QEMU's end of a device
}

// MissingLinux returns an error that names what this host lacks for instances of Amazon Linux.
func MissingLinux(ctx context.Context) error {
	for _, tool := range []string{"qemu-system-x86_64", "apt-get", "ssh", "ssh-keygen"} {
		if _, err := exec.LookPath(tool); err != nil {
			return err
		}
	}
	var config net.ListenConfig
	port, err := config.Listen(ctx, "tcp", "127.255.255.254:22")
	if err != nil {
		return fmt.Errorf("port 22 of loopback addresses is for root or taken (sysctl net.ipv4.ip_unprivileged_port_start=22): %w", err)
	}
	return port.Close()
}

// startLinux starts a guest with Linux.
func startLinux(ctx context.Context, p *qmp.Process, g Guest) (*linuxGuest, error) {
	image, err := linux.Build(ctx)
	if err != nil {
		return nil, fmt.Errorf("make a Linux: %w", err)
	}
	ramdisk := filepath.Join(p.Dir, "ramdisk")
	if err := writeRamdisk(ramdisk, image.Ramdisk, g.Linux.Login); err != nil {
		return nil, err
	}
	l := &linuxGuest{Process: p, ctx: ctx, nitro: g.Linux.Nitro, here: make(chan struct{}), slots: map[string]string{}, next: 8, waits: map[string]chan struct{}{}}
	cmd := exec.Command("qemu-system-x86_64", "-no-user-config", "-nodefaults", "-display", "none", "-accel", "tcg", "-cpu", "max", "-m", "512M", //nolint:noctx // it outlives the call; Stop ends it
		"-kernel", image.Kernel, "-initrd", ramdisk, "-append", linuxArgs, "-no-reboot", "-S", "-serial", "stdio",
		"-chardev", "socket,id=init,fd=3", "-serial", "chardev:init", "-chardev", "socket,id=qmp,fd=4", "-mon", "chardev=qmp,mode=control",
		"-netdev", "user,id=net,restrict=on", "-device", "virtio-net-pci,netdev=net,romfile=")
	var ours [2]net.Conn
	for i := range ours {
		var theirs *os.File
		if ours[i], theirs, err = socketPair(); err != nil {
			return nil, err
		}
		defer theirs.Close() //nolint:errcheck // cmd has its own
		cmd.ExtraFiles = append(cmd.ExtraFiles, theirs)
	}
	l.init = ours[0]
	if err := p.Start(cmd); err != nil {
		return nil, errors.Join(err, ours[0].Close(), ours[1].Close())
	}
	l.monitor = qmp.New(ours[1], func(event string, data json.RawMessage) {
		var of struct{ Device string }
		if event == "DEVICE_DELETED" && json.Unmarshal(data, &of) == nil {
			l.wake("deleted " + of.Device)
		}
	})
	go func() {
		<-p.Done // which ends the conversations
		_, _ = ours[0].Close(), ours[1].Close()
	}()
	go l.listen(g.Linux)
	_, err = l.monitor.Execute("qmp_capabilities", nil)
	if err == nil {
		err = l.add(g.Linux.Root)
	}
	if err == nil {
		_, err = l.monitor.Execute("cont", nil)
	}
	if err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return l, nil
}

// writeRamdisk writes the ramdisk of a guest.
func writeRamdisk(path, image string, login linux.Login) (err error) {
	rest, err := login.Ramdisk()
	if err != nil {
		return err
	}
	from, err := os.Open(image)
	if err != nil {
		return err
	}
	defer from.Close() //nolint:errcheck // only read
	to, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if _, err := io.Copy(to, from); err != nil {
		return err
	}
	_, err = to.Write(rest)
	return err
}

// socketPair returns a connection and the file of its other end.
func socketPair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	file := os.NewFile(uintptr(fds[0]), "")
	ours, err = net.FileConn(file)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, nil, errors.Join(err, syscall.Close(fds[1]))
	}
	return ours, os.NewFile(uintptr(fds[1]), ""), nil
}

// listen reads the lines of the init.
func (l *linuxGuest) listen(o *Linux) {
	for lines := bufio.NewScanner(l.init); lines.Scan(); {
		switch line := strings.TrimSpace(lines.Text()); line {
		case "here":
			close(l.here)
			go func() { _ = l.announce(o.Root) }() // it fails when the guest has ended
		case "up":
			o.Ready()
		default:
			l.wake(line)
		}
	}
}

// wake ends the wait for a line.
func (l *linuxGuest) wake(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.waits[line]; c != nil {
		close(c)
		delete(l.waits, line)
	}
}

// await does something and waits for the line that it causes.
func (l *linuxGuest) await(line string, do func() error) error {
	l.mu.Lock()
	c := l.waits[line]
	if c == nil {
		c = make(chan struct{})
		l.waits[line] = c
	}
	l.mu.Unlock()
	if err := do(); err != nil {
		return err
	}
	select {
	case <-c:
		return nil
	case <-l.Done:
		return errors.New("the machine has ended")
	case <-l.ctx.Done():
		return l.ctx.Err()
	}
}

// tell tells the init about a disk, and waits for its answer.
func (l *linuxGuest) tell(verb, answer string, d Disk) error {
	select {
	case <-l.here:
	case <-l.Done:
		return errors.New("the machine has ended")
	case <-l.ctx.Done():
		return l.ctx.Err()
	}
	name := path.Base(d.Device)
	names := "sd" + strings.TrimPrefix(strings.TrimPrefix(name, "xvd"), "sd")
	if !l.nitro {
		names += " xv" + strings.TrimPrefix(names, "s")
	}
	l.mu.Lock()
	slot := l.slots[d.Volume]
	l.mu.Unlock()
	return l.await(answer+" "+slot, func() error {
		_, err := fmt.Fprintf(l.init, "%s %s %s\n", verb, slot, names)
		return err
	})
}

func (l *linuxGuest) announce(d Disk) error { return l.tell("plugged", "plugged", d) }

// add gives QEMU a disk.
func (l *linuxGuest) add(d Disk) error {
	l.mu.Lock()
	slot := fmt.Sprintf("%02x", l.next)
	l.slots[d.Volume] = slot
	l.next++
	l.mu.Unlock()
	device := map[string]any{"driver": "virtio-blk-pci", "id": d.Volume, "drive": d.Volume, "addr": slot}
	if l.nitro {
		device["driver"], device["serial"] = "nvme", strings.Replace(d.Volume, "-", "", 1)
	}
	file := map[string]any{"driver": "file", "filename": d.Path}
	if _, err := l.monitor.Execute("blockdev-add", map[string]any{"node-name": d.Volume, "driver": "raw", "file": file}); err != nil {
		return err
	}
	_, err := l.monitor.Execute("device_add", device)
	return err
}

// Plug implements [RunningLinux].
func (l *linuxGuest) Plug(d Disk) error {
	if err := l.add(d); err != nil {
		return err
	}
	return l.announce(d)
}

// Unplug implements [RunningLinux].
func (l *linuxGuest) Unplug(d Disk, force bool) error {
	l.mu.Lock()
	_, there := l.slots[d.Volume]
	l.mu.Unlock()
	if !there {
		return nil
	}
	if !force {
		if err := l.tell("unplug", "free", d); err != nil {
			return err
		}
	}
	err := l.await("deleted "+d.Volume, func() error {
		_, err := l.monitor.Execute("device_del", map[string]string{"id": d.Volume})
		return err
	})
	if err == nil {
		_, err = l.monitor.Execute("blockdev-del", map[string]string{"node-name": d.Volume})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.slots, d.Volume)
	return err
}

// Admit implements [RunningLinux].
func (l *linuxGuest) Admit(address string, open bool) error {
	if !open {
		_, err := l.monitor.Human("hostfwd_remove net tcp:" + address + ":22")
		return err
	}
	said, err := l.monitor.Human("hostfwd_add net tcp:" + address + ":22-:22")
	if err == nil && said != "" {
		err = errors.New(strings.TrimSpace(said))
	}
	return err
}
