package ec2lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/xenlab"
)

// xenMemory is the most memory of a Xen guest in MiB: Xen gives all of it at once, and the
// lab has little.
const xenMemory = 128

// createDomain makes a domain NAME whose kernel is a pv-grub, in a folder of its own. The
// disk comes as an archive on stdin.
const createDomain = `set -e
name=$1 grub=$2 memory=$3
mkdir -p "/root/$name"
cd "/root/$name"
tar -xS
printf '%s\n' "name='$name'" "type='pv'" "kernel='$grub'" "memory=$memory" "disk=['$PWD/disk.raw,raw,xvda,w']" >cfg
xl create cfg >&2`

// followConsole prints the console of domain NAME until the domain has ended.
const followConsole = `tail -c +1 -s 0.5 --pid=$$ -F "/var/log/xen/console/guest-$1.log" &
while xl domid "$1" >/dev/null 2>&1; do sleep 1; done`

// destroyDomain removes what there is of domain NAME.
const destroyDomain = `xl domid "$1" >/dev/null 2>&1 && xl destroy "$1"
rm -rf "/root/$1" "/var/log/xen/console/guest-$1.log" "/var/log/xen/xl-$1.log"`

// startXen starts a guest through the pv-grub of its layout.
func (m *Machines) startXen(ctx context.Context, p *process, g Guest) error {
	m.mu.Lock() // libxl's hotplug scripts wait for each other, ten seconds at most
	defer m.mu.Unlock()
	if err := m.openXen(ctx); err != nil {
		return err
	}
	grub := xenlab.PVGrubHD0
	if g.Layout == string(disk.Partition) {
		grub = xenlab.PVGrubHD00
	}
	xen := m.xen
	p.domain = func() error {
		_, err := xen.Run(context.WithoutCancel(ctx), "sh", "-c", destroyDomain, "sh", g.ID)
		return err
	}
	create := xen.Command(ctx, "sh", "-c", createDomain, "sh", g.ID, grub, strconv.Itoa(min(g.Memory, xenMemory)))
	packed, w := io.Pipe()
	go func() { w.CloseWithError(disk.Pack(ctx, w, g.Disk)) }()
	var said strings.Builder
	create.Stdin, create.Stderr = packed, &said
	err := create.Run()
	_ = packed.Close() // ends Pack
	if err != nil {
		err = fmt.Errorf("create domain %s: %w: %s", g.ID, err, strings.TrimSpace(said.String()))
	} else {
		err = p.start(xen.Command(context.WithoutCancel(ctx), "sh", "-c", followConsole, "sh", g.ID))
	}
	if err != nil {
		return errors.Join(err, p.domain())
	}
	return nil
}

// openXen starts Xen, unless it runs.
func (m *Machines) openXen(ctx context.Context) error {
	if m.xen != nil {
		return nil
	}
	xen, err := xenlab.Start(context.WithoutCancel(ctx), filepath.Join(m.dir, "xen"))
	if err != nil {
		return err
	}
	if err := xen.MakePVGrubs(ctx); err != nil {
		return errors.Join(err, xen.Close())
	}
	m.xen = xen
	return nil
}
