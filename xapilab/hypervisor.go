package xapilab

import "context"

// Guest is the machine of a VM.
type Guest struct {
	// ID is the VM's uuid, and Name its name_label.
	ID, Name string
	// Type is "pv", "pvh" or "hvm".
	Type string
	// Bootloader and BootloaderArgs are the VM's PV_bootloader, such as "pygrub", and
	// PV_bootloader_args.
	Bootloader, BootloaderArgs string
	// Args is the VM's PV_args, which a pv or pvh guest gets.
	Args string
	// Memory is in bytes.
	Memory int64
	VCPUs  int
	// Disk is the path of the bootable VBD's raw disk, which is sparse. The guest may write to it.
	Disk string
	// MACs are the addresses of its network interfaces.
	MACs []string
}

// Hypervisor runs the VMs of a lab.
type Hypervisor interface {
	// Start makes a guest, which is paused. Its error is the boot loader's message if that
	// finds nothing to boot.
	Start(ctx context.Context, g Guest) (Running, error)
}

// Running is a guest that was made.
type Running interface {
	// Pause and Unpause stop and continue its processors.
	Pause() error
	Unpause() error
	// Console returns what the guest has printed so far.
	Console() ([]byte, error)
	// Ended reports whether the guest has ended by itself.
	Ended() bool
	// Stop ends the guest and removes what the hypervisor has of it.
	Stop() error
}
