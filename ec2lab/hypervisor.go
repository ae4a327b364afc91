package ec2lab

import (
	"context"

	"github.com/morgana-deploy/morgana/ec2lab/linux"
)

// Guest is the machine of an instance.
type Guest struct {
	// ID is the instance's id.
	ID string
	// Disk is the path of the instance's own raw disk, which is sparse.
	Disk string
	// Virtualization is "hvm" or "paravirtual".
	Virtualization string
	// BootMode is "legacy-bios" or "uefi", for an hvm guest.
	BootMode string
	// Layout is the layout that the pv-grub of the instance's AKI boots, "hd0" or
	// "hd0,0", for a paravirtual guest.
	Layout string
	// Memory is in MiB.
	Memory int
	// Linux is for an instance of Amazon Linux: its disk has nothing to boot.
	Linux *Linux
}

// Linux is what the machine of an instance of Amazon Linux gets.
type Linux struct {
	linux.Login
	// Root is the volume that Guest.Disk has.
	Root Disk
	// Nitro is whether the disks are NVMe.
	Nitro bool
	// Ready is called when the sshd listens.
	Ready func()
}

// Disk is a volume of a guest.
type Disk struct {
	Volume string // its id
	Path   string // of the file that has its bytes
	Device string // as AttachVolume has it, "/dev/sdh"
}

// Hypervisor runs the instances of a lab.
type Hypervisor interface {
	// Start starts a guest. It returns as soon as the guest runs.
	Start(ctx context.Context, g Guest) (Running, error)
}

// Running is a guest that was started.
type Running interface {
	// Console returns what the guest has printed so far.
	Console() ([]byte, error)
	// Ended reports whether the guest has ended by itself.
	Ended() bool
	// Stop ends the guest and removes what the hypervisor has of it.
	Stop() error
}

// RunningLinux is a guest with [Linux], whose disks come and go while it runs.
type RunningLinux interface {
	Running
	// Admit lets connections to port 22 of an address on loopback come to the sshd, or ends that.
	Admit(address string, open bool) error
	// Plug gives the guest a disk and waits until the guest has its device.
	Plug(d Disk) error
	// Unplug takes a disk. Without force it waits until nothing of it is mounted.
	Unplug(d Disk, force bool) error
}
