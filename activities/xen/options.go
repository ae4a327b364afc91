package xen

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/step"
)

// Options are a xen target's options in morgana.yaml. All may be left out. They
// have the names that xl.cfg(5) gives them, where it has one.
type Options struct {
	// Host is the Xen host, its dom0, as "ssh://root@xen1" or
	// "ssh://root@xen1:2222": any worker that can log in there by ssh, as your own
	// ssh does it, will do. Left out, it is the worker's own host.
	Host string `json:"host,omitempty"`
	// Tool is Xen's tool there: "xl", or "xm" before Xen 4.1; "xl".
	Tool string `json:"tool" jsonschema:"enum=xl,enum=xm"`
	// Type of the domain: "pv", "pvh", "hvm", or "auto": what the kernel can be,
	// of pvh and pv in this order (pv first with tool xm or via disk, and hvm if it
	// is neither); "auto". An hvm domain boots from a disk.
	Type string `json:"type" jsonschema:"enum=auto,enum=pv,enum=pvh,enum=hvm"`
	// Via is how the kernel is started: "kernel", by Xen itself, or "disk", from a
	// disk, the same that clouds get: by Bootloader in a pv domain, by GRUB on the
	// disk in an hvm one; "kernel".
	Via string `json:"via" jsonschema:"enum=kernel,enum=disk"`
	// Layout of the disk that a pv domain boots from: "hd0", a file system from
	// its first sector on, or "hd0,0", one in the first partition; "hd0". A pv-grub
	// boots only the one that it was made for. Only with via disk.
	Layout string `json:"layout,omitempty" jsonschema:"enum=hd0,enum=hd0\\,0"`
	// Size of the boot disk, as "64MiB" or "1GiB"; as small as it may be. Only
	// with via disk.
	Size string `json:"size,omitempty"`
	// Bootloader starts the kernel that is on the disk of a pv domain: "pygrub",
	// which runs in dom0, or the path of a pv-grub on the Xen host, as
	// "/usr/lib/xen/boot/pv-grub-x86_64.gz", which runs in the domain; "pygrub".
	// Only with via disk.
	Bootloader string `json:"bootloader,omitempty"`
	// Memory in MiB; what an xl.in that came with the kernel says, else 128.
	Memory int `json:"memory,omitempty"`
	// VCPUs is the number of virtual processors; the xl.in's, else 1.
	VCPUs int `json:"vcpus,omitempty"`
	// Args is the kernel's command line; the xl.in's extra, else empty.
	Args string `json:"args,omitempty"`
	// Modules are files that came with the kernel, by name, as "initrd.img": its
	// ramdisk; with via disk there may be several.
	Modules []string `json:"modules,omitempty"`
	// Vif are the domain's network devices, in this order. If an xl.in came with
	// the kernel its devices come first, and each is bound to the vif that has its
	// name, or else to the first without one.
	Vif []Vif `json:"vif,omitempty"`
	// Disks are its disks beside the one it boots from, in this order; an xl.in's
	// come first, bound as those of Vif.
	Disks []Disk `json:"disks,omitempty"`
	// OnCrash says what becomes of the domain when it crashes: "destroy",
	// "preserve" or "coredump-destroy"; the xl.in's, else "destroy". A domain is
	// not started again by Xen, behind the deployment's back.
	OnCrash string `json:"on_crash,omitempty" jsonschema:"enum=destroy,enum=preserve,enum=coredump-destroy"`
	// Extra are further lines of xl.cfg(5), as "cpus = \"2-3\"". They win over an
	// xl.in's, and cannot set what the other options or Morgana itself set.
	Extra []string `json:"extra,omitempty"`
	// Expect is a regular expression (RE2) that the console matches when the
	// domain is ready. It sees "\n" for "\r\n", and the last 64 KiB. Without it
	// the domain is ready once it has printed a byte or run for a second; with via
	// disk it must be given, for boot loaders print as well.
	Expect string `json:"expect,omitempty"`
	// Timeout is how long it may take to be ready, as "90s"; "60s".
	Timeout string `json:"timeout"`
}

// Vif is one network device, and the bridge of the Xen host that it is on.
type Vif struct {
	// Name binds it to @NETWORK:name@ of an xl.in.
	Name string `json:"name,omitempty"`
	// Bridge is a bridge of the Xen host; xl's own default, which is xenbr0.
	Bridge string `json:"bridge,omitempty"`
	// MAC is the device's address, as "00:16:3e:12:34:56"; one is made up in
	// Xen's range 00:16:3e, another one for each rollout.
	MAC string `json:"mac,omitempty"`
	// IP is the address that the domain will have, for scripts that let no other
	// through (vif-route, antispoof). It does not configure the kernel: Args do.
	IP string `json:"ip,omitempty"`
	// Script is the hotplug script, a path on the Xen host or a name in
	// /etc/xen/scripts, as "vif-openvswitch"; xl's own default, which is vif-bridge.
	Script string `json:"script,omitempty"`
	// Model is the network card that an hvm domain sees beside its Xen device, as
	// "e1000"; rtl8139.
	Model string `json:"model,omitempty"`
}

// Disk is one further disk.
type Disk struct {
	// Name binds it to @BLOCK:name@ of an xl.in.
	Name string `json:"name,omitempty"`
	// File is a file that came with the kernel, by name, as "data.img". It is
	// brought to the Xen host. With access w the domain has a copy of its own,
	// which every rollout has anew and destroy removes.
	File string `json:"file,omitempty"`
	// Path is an image or a block device that is on the Xen host, as
	// "/dev/vg/data", instead of File. It is never removed.
	Path string `json:"path,omitempty"`
	// Vdev is where the domain sees it, as "xvdb"; that of the xl.in, else the
	// next one that is free, of xvda, xvdb, ...; from xvde on in an hvm domain,
	// where the first four are emulated IDE disks too.
	Vdev string `json:"vdev,omitempty"`
	// Access is "r" or "w", read and write; that of the xl.in, else "w".
	Access string `json:"access,omitempty" jsonschema:"enum=r,enum=w"`
	// Format is "raw", "qcow", "qcow2", "vhd" or "qed"; that of the xl.in, else "raw".
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

// restarts reports whether a line of xl.cfg makes Xen start the domain again, as a
// new one, which would be nobody's.
func restarts(s setting) bool {
	return strings.HasPrefix(s.Key, "on_") && strings.Contains(s.Value.Text, "restart")
}

// settings are Options that have been read: complete, sane, parsed. What an
// xl.in may still say is left empty.
type settings struct {
	Options
	extra   []setting
	expect  *regexp.Regexp // nil if none
	timeout time.Duration
	size    int64 // of the boot disk, 0 as small as may be
}

// read decodes options, fills in the defaults and refuses what cannot be
// without looking at the host. Reading the result's own JSON gives the same.
func read(options json.RawMessage) (settings, error) {
	s := settings{Options: Options{Tool: toolXL, Type: typeAuto, Via: viaKernel, Timeout: "60s"}}
	if err := step.Decode(options, &s.Options); err != nil {
		return s, err
	}
	switch {
	case s.Tool != toolXL && s.Tool != toolXM:
		return s, invalid("tool", oneOf(s.Tool, toolXL, toolXM), "unknown tool %q", s.Tool)
	case s.Memory < 0 || s.Memory > 1<<24:
		return s, invalid("memory", "memory is in MiB, as 128", "%d is no size of memory", s.Memory)
	case s.VCPUs < 0 || s.VCPUs > 512:
		return s, invalid("vcpus", "1 to 512", "%d processors", s.VCPUs)
	case strings.ContainsRune(s.Args, 0):
		return s, invalid("args", "", "a command line cannot hold a NUL")
	case s.OnCrash != "" && !slices.Contains(crashActions, s.OnCrash):
		return s, invalid("on_crash", oneOf(s.OnCrash, crashActions...), "unknown action %q", s.OnCrash)
	}
	var err error
	for _, read := range []func() error{s.readType, s.readVia, s.readModules, s.readVifs, s.readDisks, s.readExtra} {
		if err = read(); err != nil {
			return s, err
		}
	}
	if s.Expect != "" {
		if s.expect, err = regexp.Compile(s.Expect); err != nil {
			return s, &step.Error{Kind: step.InvalidSpec, Field: "expect", Err: err,
				Hint: "a regular expression as in https://github.com/google/re2/wiki/Syntax"}
		}
	}
	if s.timeout, err = time.ParseDuration(s.Timeout); err != nil || s.timeout <= 0 {
		return s, invalid("timeout", `a number with its unit, as "90s" or "5m"`, "%q is no duration", s.Timeout)
	}
	return s, nil
}

// normal is the JSON of the options with their defaults filled in.
func (s settings) normal() (json.RawMessage, error) { return json.Marshal(s.Options) }

// disk reports whether the domain boots from a disk.
func (s *settings) disk() bool { return s.Via == viaDisk }

func (s *settings) readType() error {
	switch s.Type {
	case typeAuto, typePV, typePVH, typeHVM:
	default:
		return invalid("type", oneOf(s.Type, typeAuto, typePV, typePVH, typeHVM), "unknown type of domain %q", s.Type)
	}
	switch {
	case s.Type == typeHVM && s.Via == viaKernel:
		return invalid("via", "via: disk, or type: pvh", "an hvm domain boots from a disk")
	case s.Type == typePVH && s.disk():
		return invalid("via", "via: kernel, or type: pv or hvm", "a pvh domain does not boot from a disk")
	case s.Type == typePVH && s.Tool == toolXM:
		return invalid("type", "tool: xl on Xen 4.10 or later, or type: pv", "xm knows no pvh domains")
	}
	return nil
}

func (s *settings) readVia() (err error) {
	switch {
	case s.Via != viaKernel && s.Via != viaDisk:
		return invalid("via", oneOf(s.Via, viaKernel, viaDisk), "unknown way to boot %q", s.Via)
	case !s.disk() && s.Size != "":
		return invalid("size", "via: disk, or leave it out", "via kernel has no boot disk")
	case !s.disk() && s.Layout != "":
		return invalid("layout", "via: disk, or leave it out", "via kernel has no boot disk")
	case !s.disk() && s.Bootloader != "":
		return invalid("bootloader", "via: disk, or leave it out", "via kernel has no boot loader: Xen starts the kernel itself")
	case !s.disk():
		return nil
	case s.Expect == "":
		return invalid("expect", `what the kernel prints when it is ready, as "listening"`, "needed with via disk: boot loaders print as well")
	case s.Type == typeHVM && s.Layout != "":
		return invalid("layout", "leave it out", "the disk of an hvm domain is a BIOS disk")
	case s.Type == typeHVM && s.Bootloader != "":
		return invalid("bootloader", "leave it out, or type: pv", "an hvm domain boots by the GRUB on its disk")
	case s.Layout != "" && s.Layout != string(disk.Whole) && s.Layout != string(disk.Partition):
		return invalid("layout", oneOf(s.Layout, string(disk.Whole), string(disk.Partition)), "unknown layout %q", s.Layout)
	case s.Bootloader != "" && s.Bootloader != pygrub && !plainPath(s.Bootloader):
		return invalid("bootloader", "pygrub, or the path of a pv-grub on the Xen host", "%q is neither pygrub nor a path", s.Bootloader)
	}
	if s.Size != "" {
		s.size, err = disk.ParseSize("size", s.Size)
	}
	return err
}
