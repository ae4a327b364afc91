package ec2lab

import (
	"context"
	"fmt"

	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/xenlab"
)

// xenMemory is the most memory of a Xen guest in MiB: Xen gives all of it at once, and the
// lab has little.
const xenMemory = 128

// startXen starts a guest through the pv-grub of its layout.
func (m *Machines) startXen(ctx context.Context, g Guest) (Running, error) {
	grub := xenlab.PVGrubHD0
	if g.Layout == string(disk.Partition) {
		grub = xenlab.PVGrubHD00
	}
	return m.xen.Start(ctx, xenlab.Domain{Name: g.ID, Disk: g.Disk, Device: "xvda",
		Config: []string{"type='pv'", "kernel='" + grub + "'", fmt.Sprint("memory=", min(g.Memory, xenMemory))}})
}
