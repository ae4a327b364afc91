package ec2lab

import "context"

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
