package xenserver

import "github.com/morgana-deploy/morgana/step"

// newVM has the fields of a VM for VM.create. Those that it lacks have defaults.
type newVM struct {
	NameLabel        string            `xmlrpc:"name_label"`
	NameDescription  string            `xmlrpc:"name_description"`
	UserVersion      int               `xmlrpc:"user_version"`
	IsATemplate      bool              `xmlrpc:"is_a_template"`
	Affinity         ref               `xmlrpc:"affinity"`
	MemoryStaticMax  int64             `xmlrpc:"memory_static_max"`
	MemoryDynamicMax int64             `xmlrpc:"memory_dynamic_max"`
	MemoryDynamicMin int64             `xmlrpc:"memory_dynamic_min"`
	MemoryStaticMin  int64             `xmlrpc:"memory_static_min"`
	VCPUsParams      map[string]string `xmlrpc:"VCPUs_params"`
	VCPUsMax         int               `xmlrpc:"VCPUs_max"`
	VCPUsAtStartup   int               `xmlrpc:"VCPUs_at_startup"`
	AfterShutdown    string            `xmlrpc:"actions_after_shutdown"`
	AfterReboot      string            `xmlrpc:"actions_after_reboot"`
	AfterCrash       string            `xmlrpc:"actions_after_crash"`
	PVBootloader     string            `xmlrpc:"PV_bootloader"`
	PVKernel         string            `xmlrpc:"PV_kernel"`
	PVRamdisk        string            `xmlrpc:"PV_ramdisk"`
	PVArgs           string            `xmlrpc:"PV_args"`
	PVBootloaderArgs string            `xmlrpc:"PV_bootloader_args"`
	PVLegacyArgs     string            `xmlrpc:"PV_legacy_args"`
	HVMBootPolicy    string            `xmlrpc:"HVM_boot_policy"`
	HVMBootParams    map[string]string `xmlrpc:"HVM_boot_params"`
	Platform         map[string]string `xmlrpc:"platform"`
	PCIBus           string            `xmlrpc:"PCI_bus"`
	OtherConfig      map[string]string `xmlrpc:"other_config"`
	Recommendations  string            `xmlrpc:"recommendations"`
	Tags             []string          `xmlrpc:"tags"`
	DomainType       string            `xmlrpc:"domain_type"`
}

// vm returns the VM of a rollout with these settings.
func (s *settings) vm(t step.Tags, digest string, affinity ref) newVM {
	memory := int64(s.Memory) << 20
	vm := newVM{
		NameLabel: nameOf(t), NameDescription: "made by morgana", UserVersion: 1, Affinity: affinity,
		OtherConfig: s.otherConfig(t, digest), Tags: s.tags(),
		MemoryStaticMax: memory, MemoryDynamicMax: memory, MemoryDynamicMin: memory, MemoryStaticMin: memory,
		VCPUsMax: s.VCPUs, VCPUsAtStartup: s.VCPUs, DomainType: s.Type,
		// As on other targets a reset ends the machine: it could reset for ever.
		AfterShutdown: "destroy", AfterReboot: "destroy",
		// A crashed VM stays paused. Halted it would look like one that shut itself down.
		AfterCrash: "preserve",
		// A PVH kernel of MirageOS needs them.
		Platform: map[string]string{"nx": "true", "pae": "true"},
	}
	if s.AutoPoweron {
		vm.OtherConfig["auto_poweron"] = "true"
	}
	if s.Type == typeHVM {
		vm.HVMBootPolicy, vm.HVMBootParams = "BIOS order", map[string]string{"order": "c"}
		vm.Platform["acpi"], vm.Platform["apic"] = "true", "true"
	} else {
		// Without these arguments pygrub would read the disk's grub.cfg, which it does not
		// understand. The command line cannot be among them: xapi splits them at blanks.
		vm.PVBootloader, vm.PVBootloaderArgs, vm.PVArgs = "pygrub", "--kernel=/boot/kernel", s.Args
		for _, name := range s.Modules { // see checkRamdisk
			vm.PVBootloaderArgs += " --ramdisk=/boot/" + name
		}
	}
	return vm
}

// newVBD has the fields of a VBD for VBD.create.
type newVBD struct {
	VM          ref               `xmlrpc:"VM"`
	VDI         ref               `xmlrpc:"VDI"`
	UserDevice  string            `xmlrpc:"userdevice"`
	Bootable    bool              `xmlrpc:"bootable"`
	Mode        string            `xmlrpc:"mode"`
	Type        string            `xmlrpc:"type"`
	Unpluggable bool              `xmlrpc:"unpluggable"`
	Empty       bool              `xmlrpc:"empty"`
	OtherConfig map[string]string `xmlrpc:"other_config"`
	QoSType     string            `xmlrpc:"qos_algorithm_type"`
	QoSParams   map[string]string `xmlrpc:"qos_algorithm_params"`
}

// vbd returns the boot disk of a VM.
func (s *settings) vbd(vm, vdi ref) newVBD {
	// Two generations may have one VDI, which only one VM can write to. An hvm VM's disk is
	// an IDE disk of QEMU's, which cannot be read-only.
	mode := "RO"
	if s.Type == typeHVM {
		mode = "RW"
	}
	return newVBD{VM: vm, VDI: vdi, UserDevice: "0", Bootable: true, Mode: mode, Type: "Disk"}
}

// newVIF has the fields of a VIF for VIF.create.
type newVIF struct {
	Device      string            `xmlrpc:"device"`
	Network     ref               `xmlrpc:"network"`
	VM          ref               `xmlrpc:"VM"`
	MAC         string            `xmlrpc:"MAC"` // xapi makes one for ""
	MTU         int64             `xmlrpc:"MTU"`
	OtherConfig map[string]string `xmlrpc:"other_config"`
	QoSType     string            `xmlrpc:"qos_algorithm_type"`
	QoSParams   map[string]string `xmlrpc:"qos_algorithm_params"`
}
