package ec2lab

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/morgana-deploy/morgana/qmp"
	"github.com/morgana-deploy/morgana/xenlab"
)

// Machines is a [Hypervisor] of real machines: QEMU runs hvm guests, and Xen runs
// paravirtual ones. All of them end with this process.
type Machines struct {
	dir string

	mu  sync.Mutex // held while a Xen guest is created
	xen *xenlab.Lab
}

// NewMachines returns the hypervisor. It keeps its files in dir. Xen itself is started with
// the first paravirtual guest.
func NewMachines(dir string) *Machines { return &Machines{dir: dir} }

// Start implements [Hypervisor].
func (m *Machines) Start(ctx context.Context, g Guest) (_ Running, err error) {
	p := &process{dir: filepath.Join(m.dir, g.ID)}
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		return nil, err
	}
	var r Running = p
	switch {
	case g.Linux != nil:
		r, err = startLinux(ctx, p, g)
	case g.Virtualization == "paravirtual":
		err = m.startXen(ctx, p, g)
	default:
		err = p.startQEMU(g)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(p.dir))
	}
	return r, nil
}

// Close ends Xen, and so its guests.
func (m *Machines) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.xen == nil {
		return nil
	}
	return m.xen.Close()
}

// process is a process that lasts as long as a guest and prints its console.
type process struct {
	dir    string // removed by Stop
	kill   func() error
	ended  chan struct{}
	domain func() error // removes the guest from Xen
}

func (p *process) console() string { return filepath.Join(p.dir, "console") }

// start starts cmd.
func (p *process) start(cmd *exec.Cmd) error {
	console, err := os.Create(p.console())
	if err != nil {
		return err
	}
	defer func() { _ = console.Close() }() // cmd has its own
	log, err := os.Create(filepath.Join(p.dir, "log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // likewise
	cmd.Stdout, cmd.Stderr = console, log
	if p.ended, err = qmp.Start(cmd); err != nil {
		return err
	}
	p.kill = cmd.Process.Kill
	return nil
}

// Console implements [Running].
func (p *process) Console() ([]byte, error) { return os.ReadFile(p.console()) }

// Ended implements [Running].
func (p *process) Ended() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// Stop implements [Running].
func (p *process) Stop() error {
	var removed error
	if p.domain != nil {
		removed = p.domain()
	}
	if err := p.kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return errors.Join(removed, err)
	}
	<-p.ended
	return errors.Join(removed, os.RemoveAll(p.dir))
}
