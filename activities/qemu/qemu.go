// Package qemu runs unikernels in QEMU on the worker's own host. The kernel is loaded
// directly (-kernel), or GRUB loads it from the disk that clouds get, by BIOS or UEFI.
// Its console is the first serial port. Its network is QEMU's user network, which needs
// no root, or tap devices.
//
// Package machine keeps a machine in a folder under State/qemu. Its process is a QEMU
// that outlives the worker. This target adds
//
//	kernel        via kernel: the kernel, verified and not compressed
//	disk.raw      via bios, uefi: the boot disk, sparse
//	disk0.raw     the data disks that have a size, by their index
//	vars.fd       via uefi: the firmware's variables, made anew at each start
//	manifest.json the devices of a Solo5 kernel
//	qmp.sock      QEMU's control socket
//	qemu.log      QEMU's own messages
//	qmp.events    QEMU's events
//
// and the modules under their own names. Only QEMU has a tap open, so the tap is gone
// when QEMU ends.
//
// QEMU locks its pid file, and removes it when it ends by itself. So a machine that has
// printed something and has no pid file ran to its end. It is not started again. A second
// control channel on QEMU's standard input and output writes its events to a file: the
// event SHUTDOWN tells a reset or a signal from a power off, when nobody is there to ask.
//
// At least the first 64 MiB of the console are kept. QEMU has no limit of its own for the
// console; the limit is that of all files of the process (RLIMIT_FSIZE), which is the
// size of the machine's largest disk if that is more.
//
// # Ports
//
// The user network starts without forwards. When the machine is ready, Boot takes its
// ports from the machine of an earlier generation and adds them here, through QMP. So
// clients always reach a machine that is ready: the old one or the new one. Destroy of a
// generation that failed returns the ports to the generation before it.
//
// # Solo5
//
// A Solo5 virtio kernel gets exactly the devices of its manifest, in the manifest's
// order: it takes the first virtio device of a type for the first of that type in the
// manifest, and aborts at a device that it does not expect. It does not look at IDE and
// AHCI disks, so the boot disk of via bios and uefi is one of these.
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
	eventsFile   = "qmp.events"
)

// Target is the qemu target. It keeps nothing in memory between calls.
type Target struct {
	site     step.Site
	machines *machine.Machines
}

var _ step.Target = (*Target)(nil)

// New makes the target of a worker at site.
func New(site step.Site) *Target { return &Target{site, machine.In(site, Kind)} }
