package xen

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// Options are a xen target's options in morgana.yaml. All may be left out. An option that
// xl.cfg(5) has too has the same name there. docs/schema writes the comments into the
// table of docs/targets/xen.md.
type Options struct {
	// Host is the Xen host's dom0, as "ssh://root@xen1" or "ssh://root@xen1:2222".
	// Any worker that can log in there with its ssh serves it. Default: the
	// worker's own host.
	Host string `json:"host,omitempty"`
	// Tool is Xen's tool on the host: "xl", or "xm" before Xen 4.1.
	Tool string `json:"tool" jsonschema:"enum=xl,enum=xm"`
	// Type is the domain's type: "pv", "pvh", "hvm" (from a disk only), or "auto". Via
	// kernel, auto is pv with tool xm or if the xl.in asks for pv; else pvh if the kernel
	// boots as PVH; else pv. Via disk, auto is pv if the kernel boots as PV, else hvm.
	Type string `json:"type" jsonschema:"enum=auto,enum=pv,enum=pvh,enum=hvm"`
	// Via is how the kernel is started: "kernel" by Xen itself, "disk" from a boot
	// disk, the disk that a cloud would get: by bootloader in a pv domain, by GRUB
	// on the disk in an hvm domain.
	Via string `json:"via" jsonschema:"enum=kernel,enum=disk"`
	// Layout is where the file system of a pv domain's boot disk begins: "hd0" at
	// its first sector, "hd0,0" in its first partition. A pv-grub is built for one
	// of them. Only with via disk. Default: "hd0".
	Layout string `json:"layout,omitempty" jsonschema:"enum=hd0,enum=hd0\\,0"`
	// Size is the size of the boot disk, as "64MiB" or "1GiB"; only with via disk.
	// Default: as small as its files allow.
	Size string `json:"size,omitempty" example:"1GiB"`
	// Bootloader is the boot loader of a pv domain's disk: "pygrub", which runs in dom0,
	// or the path of a pv-grub on the Xen host, as "/usr/lib/xen/boot/pv-grub-x86_64.gz",
	// which runs in the domain. Only with via disk. Default: "pygrub".
	Bootloader string `json:"bootloader,omitempty"`
	// Memory is the domain's memory in MiB. Default: the xl.in's, else 128.
	Memory int `json:"memory,omitempty"`
	// VCPUs is the number of virtual processors. Default: the xl.in's, else 1.
	VCPUs int `json:"vcpus,omitempty"`
	// Args is the kernel's command line. Default: the xl.in's extra, else empty.
	Args string `json:"args,omitempty"`
	// Modules are names of files that came with the kernel, as "initrd.img": its
	// ramdisk. There may be several with via disk only.
	Modules []string `json:"modules,omitempty"`
	// Vif are the domain's network devices, in this order. If an xl.in came with
	// the kernel, its devices come first; each is bound to the vif of its name, or
	// else to the first vif without a name.
	Vif []Vif `json:"vif,omitempty"`
	// Disks are the domain's disks beside its boot disk, in this order. If an
	// xl.in came with the kernel, its disks come first, bound by name as in vif.
	Disks []Disk `json:"disks,omitempty"`
	// OnCrash is Xen's action for a crashed domain: "destroy", "preserve" or
	// "coredump-destroy". Restart is not offered: the deployment would not know the new
	// domain. Default: the xl.in's, else "destroy".
	OnCrash string `json:"on_crash,omitempty" jsonschema:"enum=destroy,enum=preserve,enum=coredump-destroy"`
	// Extra are further lines of xl.cfg(5), as "cpus = \"2-3\"". They win over the
	// xl.in's. A line for a setting of Morgana's or of another option is refused; xl
	// ignores unknown keys.
	Extra []string `json:"extra,omitempty"`
	// Expect is a regular expression (RE2). The domain is ready when its console
	// matches: the last 64 KiB, in which "\r\n" is "\n". Without it the domain is
	// ready when it has printed a byte or run for a second. Required with via disk,
	// because boot loaders print too.
	Expect string `json:"expect,omitempty"`
	// Timeout is how long the domain may take to be ready, as "90s".
	Timeout string `json:"timeout" example:"90s"`
}

// Defaults returns the options of a target that sets none.
func Defaults() Options {
	return Options{Tool: toolXL, Type: typeAuto, Via: viaKernel, Timeout: "60s"}
}

// Vif is one network device and the bridge of the Xen host that it is on.
type Vif struct {
	// Name is the name that @NETWORK:name@ of an xl.in asks for.
	Name string `json:"name,omitempty"`
	// Bridge is a bridge of the Xen host. Default: the xl.in's, else xl's own,
	// which is xenbr0.
	Bridge string `json:"bridge,omitempty"`
	// MAC is the device's address, as "00:16:3e:12:34:56". Default: the xl.in's,
	// else a new one in Xen's range 00:16:3e for each rollout.
	MAC string `json:"mac,omitempty"`
	// IP is the address that hotplug scripts let through (vif-route, antispoof).
	// It does not configure the kernel; args do.
	IP string `json:"ip,omitempty"`
	// Script is the hotplug script: a path on the Xen host, or a name in
	// /etc/xen/scripts, as "vif-openvswitch". Default: the xl.in's, else xl's own,
	// which is vif-bridge.
	Script string `json:"script,omitempty"`
	// Model is the network card that an hvm domain sees beside its Xen device, as
	// "e1000". Default: rtl8139.
	Model string `json:"model,omitempty"`
}

// Disk is one further disk; either File or Path is given.
type Disk struct {
	// Name is the name that @BLOCK:name@ of an xl.in asks for.
	Name string `json:"name,omitempty"`
	// File is the name of a file that came with the kernel, as "data.img"; it is
	// copied to the Xen host. With access w each rollout makes a copy of its own,
	// and destroy removes it.
	File string `json:"file,omitempty"`
	// Path is an image or a block device on the Xen host, as "/dev/vg/data",
	// instead of file. It is never removed.
	Path string `json:"path,omitempty"`
	// Vdev is the device's name in the domain, as "xvdb". Default: the xl.in's,
	// else the next free one of xvda, xvdb, ...; in an hvm domain from xvde on,
	// because its first four are emulated IDE disks too.
	Vdev string `json:"vdev,omitempty"`
	// Access is the domain's access: "r" to read, "w" to read and write. Default:
	// the xl.in's, else "w".
	Access string `json:"access,omitempty" jsonschema:"enum=r,enum=w"`
	// Format is the image's format. Default: the xl.in's, else "raw".
	Format string `json:"format,omitempty" jsonschema:"enum=raw,enum=qcow,enum=qcow2,enum=vhd,enum=qed"`
}

// The values of Options.Tool, Type and Via.
const (
	toolXL = "xl"
	toolXM = "xm"

	typeAuto = "auto"
	typePV   = "pv"
	typePVH  = "pvh"
	typeHVM  = "hvm"

	viaKernel = "kernel"
	viaDisk   = "disk"
)

const pygrub = "pygrub"

const defaultMemory = 128 // MiB

var crashActions = []string{"destroy", "preserve", "coredump-destroy"}

// restarts reports whether a setting makes Xen restart the domain. No deployment would
// know the new domain.
func restarts(s setting) bool {
	return strings.HasPrefix(s.Key, "on_") && strings.Contains(s.Value.Text, "restart")
}

// settings are Options that have been read and parsed. A setting that an xl.in may
// still give is left empty.
type settings struct {
	Options
	extra   []setting
	expect  *regexp.Regexp // nil if none
	timeout time.Duration
	size    int64 // of the boot disk in bytes; 0: as small as its files allow
}

// complete reads options as a user wrote them, for Check.
func complete(options json.RawMessage) (settings, error) { return readOver(Defaults(), options) }

// read reads options that Check has completed.
func read(options json.RawMessage) (settings, error) { return readOver(Options{}, options) }

// readOver decodes options into a copy of under, and refuses wrong ones without asking the host.
func readOver(under Options, options json.RawMessage) (settings, error) {
	s := settings{Options: under}
	if err := step.Decode(options, &s.Options); err != nil {
		return s, err
	}
	switch {
	case s.Tool != toolXL && s.Tool != toolXM:
		return s, step.Invalid("tool", step.OneOf(s.Tool, toolXL, toolXM), "unknown tool %q", s.Tool)
	case s.Memory < 0 || s.Memory > 1<<24:
		return s, step.Invalid("memory", "memory is in MiB, as 128", "%d is no size of memory", s.Memory)
	case s.VCPUs < 0 || s.VCPUs > 512:
		return s, step.Invalid("vcpus", "1 to 512", "%d processors", s.VCPUs)
	case strings.ContainsRune(s.Args, 0):
		return s, step.Invalid("args", "", "a command line cannot hold a NUL")
	case s.OnCrash != "" && !slices.Contains(crashActions, s.OnCrash):
		return s, step.Invalid("on_crash", step.OneOf(s.OnCrash, crashActions...), "unknown action %q", s.OnCrash)
	}
	var err error
	for _, read := range []func() error{s.readType, s.readVia, s.readModules, s.readVifs, s.readDisks, s.readExtra} {
		if err = read(); err != nil {
			return s, err
		}
	}
	s.expect, s.timeout, err = machine.ReadReady(s.Expect, s.Timeout)
	return s, err
}

// disk reports whether the domain boots from a disk.
func (s *settings) disk() bool { return s.Via == viaDisk }

func (s *settings) readType() error {
	switch s.Type {
	case typeAuto, typePV, typePVH, typeHVM:
	default:
		return step.Invalid("type", step.OneOf(s.Type, typeAuto, typePV, typePVH, typeHVM), "unknown type of domain %q", s.Type)
	}
	switch {
	case s.Type == typeHVM && s.Via == viaKernel:
		return step.Invalid("via", "via: disk, or type: pvh", "an hvm domain boots from a disk")
	case s.Type == typePVH && s.disk():
		return step.Invalid("via", "via: kernel, or type: pv or hvm", "a pvh domain does not boot from a disk")
	case s.Type == typePVH && s.Tool == toolXM:
		return step.Invalid("type", "tool: xl on Xen 4.10 or later, or type: pv", "xm knows no pvh domains")
	}
	return nil
}

func (s *settings) readVia() (err error) {
	switch {
	case s.Via != viaKernel && s.Via != viaDisk:
		return step.Invalid("via", step.OneOf(s.Via, viaKernel, viaDisk), "unknown way to boot %q", s.Via)
	case !s.disk() && s.Size != "":
		return step.Invalid("size", "via: disk, or leave it out", "via kernel has no boot disk")
	case !s.disk() && s.Layout != "":
		return step.Invalid("layout", "via: disk, or leave it out", "via kernel has no boot disk")
	case !s.disk() && s.Bootloader != "":
		return step.Invalid("bootloader", "via: disk, or leave it out", "via kernel has no boot loader: Xen starts the kernel itself")
	case !s.disk():
		return nil
	case s.Expect == "":
		return step.Invalid("expect", `what the kernel prints when it is ready, as "listening"`, "needed with via disk: boot loaders print as well")
	case s.Type == typeHVM && s.Layout != "":
		return step.Invalid("layout", "leave it out", "the disk of an hvm domain is a BIOS disk")
	case s.Type == typeHVM && s.Bootloader != "":
		return step.Invalid("bootloader", "leave it out, or type: pv", "an hvm domain boots by the GRUB on its disk")
	case s.Layout != "" && s.Layout != string(disk.Whole) && s.Layout != string(disk.Partition):
		return step.Invalid("layout", step.OneOf(s.Layout, string(disk.Whole), string(disk.Partition)), "unknown layout %q", s.Layout)
	case s.Bootloader != "" && s.Bootloader != pygrub && !plainPath(s.Bootloader):
		return step.Invalid("bootloader", "pygrub, or the path of a pv-grub on the Xen host", "%q is neither pygrub nor a path", s.Bootloader)
	}
	if s.Size != "" {
		s.size, err = disk.ParseSize("size", s.Size)
	}
	return err
}
