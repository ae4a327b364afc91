package qemu

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/carrier"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// Options are a qemu target's options in morgana.yaml. All may be left out. docs/schema
// writes the comments into the table of docs/targets/qemu.md.
type Options struct {
	// Via is how the kernel is started: "kernel" by QEMU's own loader, "bios" or
	// "uefi" by GRUB from a boot disk, the disk that a cloud would get.
	Via string `json:"via" jsonschema:"enum=kernel,enum=bios,enum=uefi"`
	// Size is the size of the boot disk, as "64MiB" or "1GiB"; only with via bios
	// or uefi. Default: as small as its files allow.
	Size string `json:"size,omitempty" example:"1GiB"`
	// Firmware is the UEFI code, a file on the worker's host, as
	// "/usr/share/OVMF/OVMF_CODE_4M.fd"; only with via uefi. The file with VARS for CODE
	// in its name, if there is one, has the initial variables. Default: the file that the
	// host's distribution installs.
	Firmware string `json:"firmware,omitempty"`
	// Machine is QEMU's machine type: "pc", "q35", a version of either as
	// "pc-q35-7.2", or "microvm". A microvm boots PVH and Linux kernels only, and
	// only with via kernel. Default: QEMU's own, which is pc.
	Machine string `json:"machine,omitempty"`
	// Memory is the machine's memory in MiB.
	Memory int `json:"memory"`
	// CPUs is the number of virtual processors, 1 to 255.
	CPUs int `json:"cpus"`
	// Args is the kernel's command line. GRUB interprets quotes and backslashes:
	// with via bios or uefi a command line that GRUB would change is refused.
	Args string `json:"args,omitempty"`
	// Modules are names of files that came with the kernel, as "initrd.img". A
	// multiboot kernel gets them as modules, in this order; a Linux or PVH kernel
	// takes one, as its ramdisk.
	Modules []string `json:"modules,omitempty"`
	carrier.Carriage
	// Accel is the accelerator: "kvm", "tcg" (emulation), or "auto": kvm if it
	// works on the worker's host, else tcg. To find out, a program that uses
	// SSE is run under KVM.
	Accel string `json:"accel" jsonschema:"enum=auto,enum=kvm,enum=tcg"`
	// CPU is QEMU's -cpu. Default: "host" with kvm, "max" with tcg.
	CPU string `json:"cpu,omitempty"`
	// Disks are data disks (virtio-blk), in this order. The boot disk of via bios
	// or uefi is not one of them and is never a virtio device.
	Disks []Disk `json:"disks,omitempty"`
	// Ports are the host's ports that lead to the machine, written as for docker:
	// [address:]hostPort:guestPort[/tcp|/udp], as "8080:80" or
	// "127.0.0.1:5353:53/udp". The address is an IPv4 address of the host,
	// 127.0.0.1 if left out. Ports lead into the first network of kind user. The
	// guest must have the address 10.0.2.15 there, which QEMU's DHCP gives it; its
	// gateway is 10.0.2.2.
	Ports []string `json:"ports,omitempty"`
	// Network is the machine's one virtio-net device: "user" on QEMU's user
	// network, "tap" on a tap device of the host, or "none": some unikernels
	// refuse to start with a device that they did not ask for. For several
	// devices, or for more options, see networks. Default: "tap" if bridge is
	// given, else "user" if ports or expectPort are, else "none".
	Network string `json:"network,omitempty" jsonschema:"enum=user,enum=tap,enum=none"`
	// Bridge is the bridge of the host that the tap of network joins.
	Bridge string `json:"bridge,omitempty"`
	// Networks are the machine's virtio-net devices, in this order, instead of
	// network and bridge.
	Networks []Network `json:"networks,omitempty"`
	// Expect is a regular expression (RE2). The machine is ready when its console
	// matches: the last 64 KiB, in which "\r\n" is "\n".
	Expect string `json:"expect,omitempty"`
	// ExpectPort is a TCP port of the guest. The machine is ready when it answers;
	// it need not be in ports. With expect, both must hold. With neither, the
	// machine is ready when it has printed a byte or run for a second. With via
	// bios or uefi one of the two is required, because firmware and GRUB print too.
	ExpectPort int `json:"expectPort,omitempty"`
	// Timeout is how long the machine may take to be ready, as "90s".
	Timeout string `json:"timeout" example:"90s"`
	// QEMU is the program: a name in PATH or a path.
	QEMU string `json:"qemu"`
}

// Defaults are the options of a target that sets none.
func Defaults() Options {
	return Options{Via: viaKernel, Memory: 128, CPUs: 1, Accel: "auto", Timeout: "60s", QEMU: defaultQEMU}
}

// The values of Options.Via.
const (
	viaKernel = "kernel"
	viaBIOS   = "bios"
	viaUEFI   = "uefi"
)

// leastDisk is the size of a boot disk for the smallest kernel, mostDisk the largest
// that package disk makes.
var leastDisk = map[string]int64{viaBIOS: 2 << 20, viaUEFI: 33 << 20} // a FAT32 has 65525 clusters

const mostDisk = 8 << 40

// microvm is the machine type without a PCI bus and without firmware that
// boots from disks.
const microvm = "microvm"

const defaultQEMU = "qemu-system-x86_64"

// settings are options that have been checked and parsed.
type settings struct {
	Options
	networks []Network // from Network or Networks
	forwards []forward
	expect   *regexp.Regexp // nil if none
	timeout  time.Duration
	size     int64 // of the boot disk, 0 for the least
}

var (
	cpuForm     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.+=,-]*$`)
	machineForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
	moduleForm  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}$`)
)

// complete decodes the user's options and fills in the defaults. It refuses the same
// options as read.
func complete(options json.RawMessage) (settings, error) {
	s := settings{Options: Defaults()}
	if err := step.Decode(options, &s.Options); err != nil {
		return s, err
	}
	s.fillNetworks()
	return s.parse()
}

// read decodes options that complete has completed, and refuses those that are wrong
// on any host. It knows no defaults.
func read(options json.RawMessage) (settings, error) {
	var s settings
	if err := step.Decode(options, &s.Options); err != nil {
		return s, err
	}
	return s.parse()
}

func (s settings) parse() (settings, error) {
	switch {
	case s.CPUs < 1 || s.CPUs > 255:
		return s, step.Invalid("cpus", "1 to 255", "%d processors", s.CPUs)
	case strings.ContainsRune(s.Args, 0):
		return s, step.Invalid("args", "", "a command line cannot hold a NUL")
	case s.Accel != "auto" && s.Accel != "kvm" && s.Accel != "tcg":
		return s, step.Invalid("accel", step.OneOf(s.Accel, "auto", "kvm", "tcg"), "unknown accelerator %q", s.Accel)
	case s.CPU != "" && !cpuForm.MatchString(s.CPU):
		return s, step.Invalid("cpu", "a name that qemu-system-x86_64 -cpu help prints", "%q is no processor", s.CPU)
	case s.CPU == "host" && s.Accel == "tcg":
		return s, step.Invalid("cpu", "with accel tcg: max, or leave it out", `"host" needs accel kvm`)
	case s.ExpectPort < 0 || s.ExpectPort > 65535:
		return s, step.Invalid("expectPort", "1 to 65535", "%d is no port", s.ExpectPort)
	case s.QEMU == "":
		return s, step.Invalid("qemu", "leave it out for qemu-system-x86_64", "no program given")
	case s.Machine != "" && !machineForm.MatchString(s.Machine):
		return s, step.Invalid("machine", "pc, q35 or microvm", "%q is no machine type", s.Machine)
	}
	var err error
	for _, read := range []func() error{s.Read, s.readVia, s.readModules, s.readDisks, s.readPorts, s.readNetworks} {
		if err = read(); err != nil {
			return s, err
		}
	}
	s.expect, s.timeout, err = machine.ReadReady(s.Expect, s.Timeout)
	return s, err
}

// disk reports whether the machine boots from a disk.
func (s *settings) disk() bool { return s.Via != viaKernel }

// loader is the program that starts the kernel, as package image names it.
func (s *settings) loader() string {
	switch {
	case s.Carried():
		return carrier.Loader
	case s.disk():
		return "grub"
	}
	return Kind
}

// boots returns the command line and the modules of what is booted: the kernel, or its
// carrier.
func (s *settings) boots() (args string, modules []string) {
	if s.Carried() {
		return carrier.CommandLine, []string{carrier.Ramdisk}
	}
	return s.Args, s.Modules
}

func (s *settings) readVia() (err error) {
	switch {
	case s.Via != viaKernel && s.Via != viaBIOS && s.Via != viaUEFI:
		return step.Invalid("via", step.OneOf(s.Via, viaKernel, viaBIOS, viaUEFI), "unknown way to boot %q", s.Via)
	case s.disk() && s.Machine == microvm:
		return step.Invalid("machine", "via: kernel, or machine: pc or q35", "a microvm does not boot from a disk")
	case s.disk() && s.Expect == "" && s.ExpectPort == 0:
		return step.Invalid("expect", `what the kernel prints when it is ready, as "listening", or expectPort`,
			"needed with via %s: firmware and GRUB print as well", s.Via)
	case s.Memory < leastMemory[s.Via]:
		return step.Invalid("memory", fmt.Sprintf("a number of MiB as 128; at least %d with via %s", leastMemory[s.Via], s.Via), "%d MiB is too little", s.Memory)
	case s.Carried() && s.Memory < carrierMemory[s.Via]:
		return step.Invalid("memory", fmt.Sprintf("at least %d with a carrier and via %s", carrierMemory[s.Via], s.Via), "%d MiB is too little for the carrier's Linux", s.Memory)
	case s.Carried() && len(s.Modules) > 0:
		return step.Invalid("modules", "leave out modules, or carrier", "a carrier has a ramdisk of its own, and its kernel takes none")
	case s.Size != "" && !s.disk():
		return step.Invalid("size", "via: bios or uefi, or leave it out", "via kernel has no boot disk")
	case s.Firmware != "" && s.Via != viaUEFI:
		return step.Invalid("firmware", "via: uefi, or leave it out", "via %s has no UEFI firmware", s.Via)
	case s.Firmware != "" && !filepath.IsAbs(s.Firmware):
		return step.Invalid("firmware", "an absolute path on the worker's host", "%q is no absolute path", s.Firmware)
	}
	if s.Size != "" {
		if s.size, err = disk.ParseSize("size", s.Size); err == nil && (s.size < leastDisk[s.Via] || s.size > mostDisk) {
			err = step.Invalid("size", fmt.Sprintf("%d MiB to 8 TiB, or leave it out for as small as it may be", leastDisk[s.Via]>>20), "%s is no size of a disk with via %s", s.Size, s.Via)
		}
	}
	return err
}

// readModules checks that a module can be a file in the machine's folder and a word on
// QEMU's command line.
func (s *settings) readModules() error {
	for i, name := range s.Modules {
		field := fmt.Sprintf("modules[%d]", i)
		switch {
		case !moduleForm.MatchString(name) || own(name):
			return step.Invalid(field, `the plain name of a file that comes with the kernel, as "initrd.img"`, "%q cannot be a module's name", name)
		case slices.Contains(s.Modules[:i], name):
			return step.Invalid(field, "", "%q is given twice", name)
		}
	}
	return nil
}

// own reports whether the machine's folder has a file of that name for another purpose.
func own(name string) bool {
	return slices.Contains([]string{kernelFile, packedDisk, bootDisk, varsFile, manifestFile, qmpFile, logFile, eventsFile,
		machine.RecordFile, machine.PidFile, machine.ConsoleFile, "ready", "lock"}, name) || dataDiskForm.MatchString(name)
}
