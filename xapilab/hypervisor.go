package xapilab

import (
	"cmp"
	"context"
	"slices"
)

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

// guest describes the machine of a VM.
func (c *call) guest(vm *object, vbds []*object) (Guest, error) {
	g := Guest{ID: vm.text("uuid"), Name: vm.text("name_label"), Type: vm.text("domain_type"), Memory: vm.int("memory_static_max"), VCPUs: int(vm.int("VCPUs_at_startup"))}
	if g.Type == "pv" && c.config.NoPV {
		return g, fail("INTERNAL_ERROR", `xenopsd internal error: Xenctrl.Error("22: Invalid argument")`)
	}
	limits := []int64{vm.int("memory_static_min"), vm.int("memory_dynamic_min"), vm.int("memory_dynamic_max"), vm.int("memory_static_max")}
	if !slices.IsSorted(limits) || limits[0] < 0 || g.Memory == 0 || g.VCPUs == 0 {
		return g, fail("MEMORY_CONSTRAINT_VIOLATION", "Memory limits must satisfy: static_min <= dynamic_min <= dynamic_max <= static_max")
	}
	slices.SortFunc(vbds, func(a, b *object) int { return cmp.Compare(a.text("userdevice"), b.text("userdevice")) })
	for _, vbd := range vbds {
		if vdi := c.objects[vbd.text("VDI")]; vdi != nil && (vbd.is("bootable") || g.Type == "hvm") && g.Disk == "" {
			g.Disk = c.path(vdi)
		}
	}
	for _, vif := range c.with("VIF", "VM", vm.ref) {
		g.MACs = append(g.MACs, vif.text("MAC"))
	}
	if g.Type == "hvm" {
		return g, nil
	}
	g.Bootloader, g.BootloaderArgs = vm.text("PV_bootloader"), vm.text("PV_bootloader_args")
	switch {
	case g.Bootloader == "" && vm.text("PV_kernel") != "": // this host has no kernels
		return g, fail("INTERNAL_ERROR", "xenopsd internal error: No such file: "+vm.text("PV_kernel"))
	case g.Bootloader != "pygrub" && g.Bootloader != "eliloader":
		return g, fail("UNKNOWN_BOOTLOADER", vm.ref, g.Bootloader)
	case g.Disk == "":
		return g, fail("INTERNAL_ERROR", "xenopsd internal error: Xenops_interface.Xenopsd_error([S(No_bootable_device)])")
	}
	g.Args = " " + vm.text("PV_legacy_args") + " " + vm.text("PV_args")
	return g, nil
}
