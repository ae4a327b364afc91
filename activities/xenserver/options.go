package xenserver

import (
	"encoding/json"
	"regexp"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// Options are a xenserver target's options in morgana.yaml. docs/schema makes the table of
// docs/targets/xenserver.md of the comments.
type Options struct {
	// Host is the URL of the pool's master, as "https://xen1.example.org". Default: that
	// of the profile, else XENSERVER_HOST of the worker, else the server of its ~/.xe.
	Host string `json:"host,omitempty" example:"https://xen1.example.org"`
	// Profile is the name of a file with the server, the user and the password in ~/.xe.d of
	// the worker's user, as "prod". Default: XENSERVER_HOST, XENSERVER_USERNAME and
	// XENSERVER_PASSWORD of the worker, else its ~/.xe.
	Profile string `json:"profile,omitempty"`
	// Fingerprint is the SHA-256 of the master's certificate, as "3F:A2:...". Those of
	// further hosts of the pool follow it, with blanks between them. Default: the
	// certificates are verified by ca.
	Fingerprint string `json:"fingerprint,omitempty"`
	// CA is the path, on the worker, of the certificates (PEM) that sign those of the
	// hosts. Default: the system's.
	CA string `json:"ca,omitempty"`
	// SR is the name or the UUID of the storage repository of the disk. Default: the
	// pool's default SR.
	SR string `json:"sr,omitempty"`
	// Network is the name or the UUID of the network of the VM's one interface, or "none"
	// for no interface. Default: the pool's only network with a physical interface.
	Network string `json:"network,omitempty"`
	// Networks are the VM's interfaces, in this order, instead of network.
	Networks []Network `json:"networks,omitempty"`
	// Type is the type of the VM: "pv" or "pvh", which pygrub starts from the disk, or
	// "hvm", which GRUB starts by BIOS. "auto" is the first of types that boots the kernel.
	Type string `json:"type" jsonschema:"enum=auto,enum=pv,enum=pvh,enum=hvm"`
	// Types are the types that auto chooses from. Default: those of pvh, pv and hvm that the
	// pool runs.
	Types []string `json:"types,omitempty"`
	// Via is how the kernel is started: "disk", from the boot disk.
	Via string `json:"via" jsonschema:"enum=disk"`
	// Size is the size of the boot disk, as "1GiB". Default: as small as its files allow.
	Size string `json:"size,omitempty" example:"1GiB"`
	// Format is how the disk is sent: "vhd" without the blocks of 2 MiB that are zero, "raw"
	// with them, or "auto": the one with fewer bytes.
	Format string `json:"format" jsonschema:"enum=auto,enum=vhd,enum=raw"`
	// Memory is the VM's memory in MiB.
	Memory int `json:"memory"`
	// VCPUs is the number of virtual processors.
	VCPUs int `json:"vcpus"`
	// Args is the kernel's command line.
	Args string `json:"args,omitempty"`
	// Modules are names of files that came with the kernel, as "initrd.img": its ramdisk
	// or multiboot modules.
	Modules []string `json:"modules,omitempty"`
	// Affinity is the name or the UUID of the host that the VM prefers.
	Affinity string `json:"affinity,omitempty"`
	// Folder is the folder of the VM and the disk in XenCenter, as "/web/prod".
	Folder string `json:"folder,omitempty"`
	// Tags are further tags of the VM and the disk.
	Tags []string `json:"tags,omitempty"`
	// AutoPoweron is whether the VM starts with the pool's hosts.
	AutoPoweron bool `json:"auto_poweron,omitempty"`
	// Address is the IP address or the name of the VM, if it is known: without guest tools
	// the pool does not know it.
	Address string `json:"address,omitempty"`
	// Expect is a regular expression (RE2). The VM is ready when its console matches: the
	// last 64 KiB, in which "\r\n" is "\n". An hvm VM has no console of text.
	Expect string `json:"expect,omitempty"`
	// ExpectPort is a TCP port of address. The VM is ready when the worker can connect to
	// it. With expect, both must hold. With neither it is ready when it runs.
	ExpectPort int `json:"expectPort,omitempty"`
	// Timeout is how long the VM may take to be ready, as "90s".
	Timeout string `json:"timeout" example:"90s"`
}

// Network is one network interface of the VM.
type Network struct {
	// Network is the name or the UUID of the network.
	Network string `json:"network"`
	// MAC is the interface's address, as "00:16:3e:12:34:56". Default: a new one for each
	// rollout.
	MAC string `json:"mac,omitempty"`
}

// The values of Options.Type, Via and Format.
const (
	auto = "auto"

	typePV  = "pv"
	typePVH = "pvh"
	typeHVM = "hvm"

	viaDisk = "disk"

	formatVHD = "vhd"
	formatRaw = "raw"
)

// noNetwork is the value of Options.Network for a VM without an interface.
const noNetwork = "none"

// Defaults returns the options of a target that sets none.
func Defaults() Options {
	return Options{Type: auto, Via: viaDisk, Format: auto, Memory: 128, VCPUs: 1, Timeout: "2m"}
}

// settings are Options that have been read and parsed.
type settings struct {
	Options
	networks     []Network // of Network or Networks; nil for none, and before Check for the default
	fingerprints [][32]byte
	expect       *regexp.Regexp // nil if none
	timeout      time.Duration
	size         int64 // of the boot disk in bytes; 0: as small as its files allow
}

// complete reads options as a user wrote them, for Check.
func complete(options json.RawMessage) (settings, error) { return readOver(Defaults(), options) }

// read reads options that Check has completed: Host is set, and after Package Type is not
// auto.
func read(options json.RawMessage) (settings, error) { return readOver(Options{}, options) }

// readOver decodes options over under, and refuses wrong ones without asking the pool.
func readOver(under Options, options json.RawMessage) (s settings, err error) {
	s.Options = under
	err = step.Decode(options, &s.Options, s.readPlace, s.readBoot, s.readFiles, s.readNetworks, s.readTexts, s.readVM, s.readReady)
	return s, err
}
