// Package qemu runs unikernels in QEMU on the worker's own host. The kernel is
// loaded directly (-kernel), or GRUB loads it from the disk that clouds get, by
// BIOS or UEFI. Its console is the first serial port. Its network is QEMU's user
// network, for which nobody needs root, or tap devices.
//
// A machine is kept as package machine keeps it: a folder under State/qemu, its
// process a QEMU that outlives the worker. To those files come
//
//	kernel        via kernel: the kernel, verified and not compressed
//	disk.raw      via bios, uefi: the disk it boots from, sparse
//	disk0.raw     the data disks that have a size, by their index
//	vars.fd       via uefi: its variables, made anew at each start
//	manifest.json the devices of a Solo5 kernel
//	qmp.sock      QEMU's control socket
//	qemu.log      what QEMU itself printed
//
// and its modules under their own names. A tap is open in QEMU alone, and so is
// gone with it.
//
// QEMU locks its pid file, and removes it when it ends by itself. So a machine
// without one that has printed something ran to its end and is not started
// again.
//
// Of a console at least the first 64 MiB are kept. QEMU itself has no limit for
// it: it is the limit of a process's files (RLIMIT_FSIZE), and so as large as the
// machine's largest disk if that is larger.
//
// # Ports
//
// The user network is started without forwards; they are added through QMP
// when the machine is ready, after the machine of an earlier generation that
// holds them has let go. So clients see the old machine or one that is ready,
// and Destroy of a generation that failed returns the ports to the one before.
//
// # Solo5
//
// A Solo5 virtio kernel gets the devices of its manifest, in the manifest's
// order, and no other: the first virtio device of a type is the first of that
// type in the manifest, and it aborts at one it does not expect. So the boot
// disk of via bios and uefi is IDE or AHCI, which it does not look at.
package qemu

import (
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// Kind is the name of this kind of target: its folder, task queue and activity prefix.
const Kind = "qemu"

// The files of a machine's folder, beside those of package machine.
const (
	kernelFile   = "kernel"
	packedDisk   = "disk.tar" // in the store; unpacked by Register
	bootDisk     = "disk.raw"
	varsFile     = "vars.fd"
	manifestFile = "manifest.json"
	qmpFile      = "qmp.sock"
	logFile      = "qemu.log"
)

// Target is the qemu target. It keeps nothing in memory between calls.
type Target struct {
	site     step.Site
	machines *machine.Machines
}

var _ step.Target = (*Target)(nil)

// New makes the target of a worker at site.
func New(site step.Site) *Target { return &Target{site, machine.In(site, Kind)} }
