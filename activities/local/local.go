// Package local runs unikernels as processes on the worker's own host: a
// MirageOS program (-t unix), or a Solo5 kernel (-t spt or hvt) under its
// tender. They run as the worker's user, with no rights added. The tender's seccomp
// filter keeps an spt kernel to its devices; KVM keeps an hvt kernel to them.
//
// Package machine keeps a machine in a folder under State/local. This target adds
//
//	kernel          the program or kernel, unpacked
//	block-NAME      a block device: a file, or a link to the user's
//	NAME            a link to it, for a MirageOS program
//	status          how the program ended; absent until it has
//	supervisor.log  errors of the supervisor; mostly empty
//
// # The supervisor
//
// The worker may die while the machine runs, so the program is the child of a
// small supervisor: the worker's own binary, started anew (see [Supervise]). The
// supervisor is the machine's process in the words of package machine. It has the
// lock and the pid file, passes SIGTERM on, keeps the first 64 MiB that the program
// prints, and writes down how the program ended. When the program ends, the
// supervisor kills its children, whatever session they are in.
//
// If the supervisor is killed, the kernel kills the program as well. Boot and
// Destroy then find the program's children by MORGANA_MACHINE in their environment,
// or by the machine's lock and folder, and kill them. A daemon that has cleared its
// environment and left the folder is not found and lives on: machines have no
// cgroups.
//
// A program that ends is not started again. A program whose supervisor or host was
// killed is.
//
// # Networks
//
// A program gets a tap by its name or as a file descriptor. A tap that it gets by name
// stays until Destroy, which finds it by its alias. A tap that it gets as a descriptor is
// gone with the program. See [machine.TapConfig].
package local

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// Kind is the name of this kind of target: its folder, task queue and activity prefix.
const Kind = "local"

// Options are a local target's options in morgana.yaml. All may be left out. docs/schema
// writes the comments into the table of docs/targets/local.md.
type Options struct {
	// Args are the program's arguments, or the words of the Solo5 kernel's command
	// line. In args and env, {tap:NAME} stands for the tap of network NAME (its
	// interface name, or the number of its file descriptor) and {block:NAME} for
	// the path of block device NAME.
	Args []string `json:"args,omitempty"`
	// Env are variables for the program. Of the worker's own environment it has
	// PATH, HOME, TMPDIR, LANG, LC_ALL, TZ and LD_LIBRARY_PATH only. Env is stored
	// where all who see the deployment can read it: it is not for secrets.
	Env map[string]string `json:"env,omitempty"`
	// Networks are the machine's network devices. A Solo5 kernel must be given
	// exactly the devices of its manifest.
	Networks []Network `json:"networks,omitempty"`
	// Blocks are the machine's block devices. A Solo5 kernel must be given exactly
	// the devices of its manifest. A program finds each as the file of its name in
	// its working folder, where MirageOS's unix programs open it.
	Blocks []Block `json:"blocks,omitempty"`
	// Memory is a Solo5 kernel's memory in MiB. Default: the tender's, 512.
	Memory int `json:"memory,omitempty"`
	// Tender is the program that runs a Solo5 kernel: a name in PATH or in the
	// opam switch, or an absolute path. Default: "solo5-spt" or "solo5-hvt", as the kernel needs.
	Tender string `json:"tender,omitempty"`
	// Expect is a regular expression (RE2). The machine is ready when its console
	// matches, and it runs on or ends with status 0. The console is its last 64 KiB,
	// in which "\r\n" is "\n". Without Expect the machine is ready when it has
	// printed something and runs on, has run for a second, or has ended with status 0.
	Expect string `json:"expect,omitempty"`
	// Timeout is how long the machine may take to be ready, as "90s".
	Timeout string `json:"timeout" example:"90s"`
}

// Defaults are the options of a target that sets none.
func Defaults() Options { return Options{Timeout: "60s"} }

// Network is a network device of the machine.
type Network struct {
	// Name is the device's name: in a Solo5 kernel's manifest, and in {tap:NAME}.
	Name string `json:"name" jsonschema:"required"`
	// Tap is the name of a tap device, or "auto" for a tap that Morgana makes and names.
	// An existing device is used as it is, and must belong to the worker's user. A
	// missing one is made. A named tap belongs to one machine at a time: destroy the old
	// machine before you deploy a change. Default: "auto".
	Tap string `json:"tap"`
	// By is how the program gets the tap: its "name", or "fd", an open file
	// descriptor. A tap made for fd is gone as soon as the program is. A Solo5 kernel
	// gets every tap by its name, because tenders refuse a descriptor since Solo5
	// 0.10.0. Default: "name".
	By string `json:"by" jsonschema:"enum=name,enum=fd"`
	// Bridge is a bridge of the host that the tap joins.
	Bridge string `json:"bridge,omitempty"`
	// Address is the address of the host's end of the tap, as "10.0.0.1/24"; not
	// with bridge.
	Address string `json:"address,omitempty"`
}

// Block is a block device of the machine; either Path or Size is given.
type Block struct {
	// Name is the device's name: in a Solo5 kernel's manifest, or the file that a
	// MirageOS unix program opens, as "disk.img"; and in {block:NAME}.
	Name string `json:"name" jsonschema:"required"`
	// Path is the absolute path of a file or block device on the worker's host. It
	// belongs to one machine at a time: destroy the old machine before you deploy a
	// change.
	Path string `json:"path,omitempty"`
	// Size is the size in MiB of a new file of zeros, instead of path. Each
	// rollout makes a new one; destroy removes it.
	Size int `json:"size,omitempty"`
}

// Target is the local target. It keeps nothing in memory between calls.
type Target struct {
	site     step.Site
	machines *machine.Machines
	patience
}

var (
	_ step.Target     = (*Target)(nil)
	_ step.Needer     = (*Target)(nil)
	_ step.Observer   = (*Target)(nil)
	_ step.Lister     = (*Target)(nil)
	_ step.Forecaster = (*Target)(nil)
)

// New makes the target of a worker at site. The worker's main must call
// [Supervise] first.
func New(site step.Site) *Target { return &Target{site, machine.In(site, Kind), usual} }

// settings are options that have been checked and parsed.
type settings struct {
	Options
	// ABI is the ABI by which the kernel is started; empty until it is packaged.
	ABI string `json:"abi,omitempty"`

	expect  *regexp.Regexp // nil if none
	timeout time.Duration
}

const autoTap = "auto"

var (
	deviceForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,66}$`)  // a name of Solo5's or the user's
	blockForm  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,66}$`) // or the name of a file
	envForm    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// complete decodes the user's options and fills in the defaults. It refuses the same
// options as readOptions.
func complete(options json.RawMessage) (settings, error) {
	s := settings{Options: Defaults()}
	if err := step.Decode(options, &s.Options); err != nil {
		return s, err
	}
	for i := range s.Networks {
		if s.Networks[i].Tap == "" {
			s.Networks[i].Tap = autoTap
		}
		if s.Networks[i].By == "" {
			s.Networks[i].By = byName
		}
	}
	return s, s.parse()
}

// readOptions decodes options that complete has completed, and refuses those that are
// wrong on any host and for any kernel. It knows no defaults.
func readOptions(options json.RawMessage) (s settings, err error) {
	err = step.Decode(options, &s.Options, s.parse)
	return s, err
}

// readRecord decodes the options in a machine's record.
func readRecord(options json.RawMessage) (s settings, err error) {
	err = step.Decode(options, &s, s.parse)
	return s, err
}

func (s *settings) parse() error {
	if err := s.checkDevices(); err != nil {
		return err
	}
	if err := s.checkWords(); err != nil {
		return err
	}
	var err error
	if s.expect, s.timeout, err = machine.ReadReady(s.Expect, s.Timeout); err != nil {
		return err
	}
	if s.Memory < 0 || s.Memory > 1<<20 {
		return step.Invalid("memory", "memory is in MiB, as 512", "%d is no size", s.Memory)
	}
	if strings.Contains(s.Tender, "/") && !strings.HasPrefix(s.Tender, "/") {
		return step.Invalid("tender", "a name in the worker's PATH or opam switch, or an absolute path", "%q is a relative path", s.Tender)
	}
	return nil
}

func (s *settings) checkDevices() error {
	seen := map[string]bool{}
	for i, n := range s.Networks {
		field := fmt.Sprintf("networks[%d]", i)
		switch {
		case !deviceForm.MatchString(n.Name):
			return step.Invalid(field+".name", "the device's name in the kernel's manifest: letters and digits", "%q is no name", n.Name)
		case seen["tap:"+n.Name]:
			return step.Invalid(field+".name", "", "there are two networks %q", n.Name)
		case n.Tap != autoTap && seen["device:"+n.Tap]:
			return step.Invalid(field+".tap", "tap: auto, or another name", "two networks have the tap %s", n.Tap)
		case n.By != byName && n.By != byFD:
			return step.Invalid(field+".by", "name or fd", "a tap is not handed over by %q", n.By)
		}
		if _, err := n.address(); err != nil {
			return step.Invalid(field+".address", `an address of the host with the network's prefix length, as "10.0.0.1/24"`, "%q is no address: %w", n.Address, err)
		}
		seen["tap:"+n.Name], seen["device:"+n.Tap] = true, true
	}
	for i, b := range s.Blocks {
		field := fmt.Sprintf("blocks[%d]", i)
		switch {
		case !blockForm.MatchString(b.Name):
			return step.Invalid(field+".name", "the device's name in the kernel's manifest, or the file that the program opens: letters, digits and \"._-\"", "%q is no name", b.Name)
		case seen["block:"+b.Name]:
			return step.Invalid(field+".name", "", "there are two block devices %q", b.Name)
		case (b.Path == "") == (b.Size == 0):
			return step.Invalid(field, "path is a file of the worker's host, size is in MiB and makes an empty one", "want one of path and size")
		case b.Size < 0 || b.Size > 1<<24:
			return step.Invalid(field+".size", "size is in MiB, as 64", "%d is no size", b.Size)
		case b.Path != "" && !strings.HasPrefix(b.Path, "/"):
			return step.Invalid(field+".path", "an absolute path on the worker's host", "%q is a relative path", b.Path)
		}
		seen["block:"+b.Name] = true
	}
	return nil
}

// checkWords checks the program's arguments and environment.
func (s *settings) checkWords() error {
	for i, a := range s.Args {
		if err := s.checkWord(fmt.Sprintf("args[%d]", i), a); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Env)) {
		if !envForm.MatchString(name) {
			return step.Invalid("env", `a variable's name, as "OCAMLRUNPARAM"`, "%q is no name of a variable", name)
		}
		if err := s.checkWord("env."+name, s.Env[name]); err != nil {
			return err
		}
	}
	return nil
}

func (s *settings) checkWord(field, word string) error {
	if strings.ContainsRune(word, 0) {
		return step.Invalid(field, "", "it cannot hold a NUL")
	}
	for _, p := range placeholder.FindAllStringSubmatch(word, -1) {
		known := s.names(p[1])
		if !slices.Contains(known, p[2]) {
			return step.Invalid(field, deviceHint(p[2], known, p[1]), "%s is none of the target's", p[0])
		}
	}
	return nil
}

// names returns the names of the networks ("tap") or of the block devices ("block").
func (s *settings) names(what string) (names []string) {
	if what == "tap" {
		for _, n := range s.Networks {
			names = append(names, n.Name)
		}
		return names
	}
	for _, b := range s.Blocks {
		names = append(names, b.Name)
	}
	return names
}

func (n Network) address() (netip.Prefix, error) {
	if n.Address == "" {
		return netip.Prefix{}, nil
	}
	return netip.ParsePrefix(n.Address)
}

// taps returns the networks' taps, for package machine.
func (s *settings) taps(tags step.Tags) []machine.TapConfig {
	var taps []machine.TapConfig
	for i, n := range s.Networks {
		address, _ := n.address() // complete has read it
		tap := machine.TapConfig{Tags: tags, Index: i, Bridge: n.Bridge, Address: address, Option: fmt.Sprintf("networks[%d]", i)}
		if n.Tap != autoTap {
			tap.Name = n.Tap
		}
		taps = append(taps, tap)
	}
	return taps
}
