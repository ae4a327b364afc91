package ec2lab

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/morgana-deploy/morgana/qmp"
	"github.com/morgana-deploy/morgana/xenlab"
)

// Machines is a [Hypervisor] of real machines: QEMU runs hvm guests, and Xen runs
// paravirtual ones. All of them end with this process.
type Machines struct {
	dir string
	xen *xenlab.Domains
}

// NewMachines returns the hypervisor. It keeps its files in dir. Xen itself is started with
// the first paravirtual guest.
func NewMachines(dir string) *Machines {
	return &Machines{dir, xenlab.NewDomains(dir, func(ctx context.Context, l *xenlab.Lab) error { return l.MakePVGrubs(ctx) })}
}

// Start implements [Hypervisor].
func (m *Machines) Start(ctx context.Context, g Guest) (_ Running, err error) {
	if g.Virtualization == "paravirtual" && g.Linux == nil {
		return m.startXen(ctx, g)
	}
	p := &qmp.Process{Dir: filepath.Join(m.dir, g.ID)}
	if err := os.Mkdir(p.Dir, 0o700); err != nil {
		return nil, err
	}
	var r Running = p
	if g.Linux != nil {
		r, err = startLinux(ctx, p, g)
	} else {
		err = startQEMU(p, g)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(p.Dir))
	}
	return r, nil
}

// Close ends Xen, and so its guests.
func (m *Machines) Close() error { return m.xen.Close() }
