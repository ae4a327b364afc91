// Package qemu runs unikernels in QEMU on the worker's own host: the kernel is
// loaded directly (-kernel), its console is the first serial port, its network
// is QEMU's user network. Nothing of it needs root.
//
// A machine is kept as package machine keeps it: a folder under State/qemu, its
// process a QEMU that outlives the worker. To those files come
//
//	kernel        the kernel, verified
//	qmp.sock      QEMU's control socket
//	qemu.log      what QEMU itself printed
//
// QEMU locks its pid file, and removes it when it ends by itself. So a machine
// without one that has printed something ran to its end and is not started
// again.
//
// # Ports
//
// The user network is started without forwards; they are added through QMP
// when the machine is ready, after the machine of an earlier generation that
// holds them has let go. So clients see the old machine or one that is ready,
// and Destroy of a generation that failed returns the ports to the one before.
package qemu

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/machine"
	"github.com/morgana-deploy/morgana/step"
)

// Kind is the name of this kind of target: the room, task queue and activity prefix.
const Kind = "qemu"

// The files of a machine's folder, beside those of package machine.
const (
	kernelFile = "kernel"
	qmpFile    = "qmp.sock"
	logFile    = "qemu.log"
)

const defaultQEMU = "qemu-system-x86_64"

// Options are a qemu target's options in morgana.yaml. All may be left out.
type Options struct {
	// Memory in MiB; 128.
	Memory int `json:"memory"`
	// CPUs is the number of virtual processors; 1.
	CPUs int `json:"cpus"`
	// Args is the kernel's command line; empty.
	Args string `json:"args,omitempty"`
	// Accel is "kvm", "tcg" (emulation) or "auto", which is kvm if it works on
	// this host and tcg if not; "auto". Works means: it has run a kernel that
	// uses SSE.
	Accel string `json:"accel"`
	// CPU is QEMU's -cpu; "host" with kvm, "max" with tcg.
	CPU string `json:"cpu,omitempty"`
	// Ports are forwarded from the host to the machine, written as for docker:
	// [address:]hostPort:guestPort[/tcp|/udp], as "8080:80", "127.0.0.1:5353:53/udp".
	// The address is an IPv4 address of the host, 127.0.0.1 if left out. The
	// guest must have 10.0.2.15, which QEMU's DHCP gives it; its gateway is 10.0.2.2.
	Ports []string `json:"ports,omitempty"`
	// Network is "user", a virtio-net device on QEMU's user network, or "none":
	// some unikernels refuse to start with a device they did not ask for.
	// "user" if Ports or ExpectPort are given, else "none".
	Network string `json:"network"`
	// Expect is a regular expression (RE2) that the console matches when the
	// machine is ready. It sees "\n" for "\r\n", and the last 64 KiB.
	Expect string `json:"expect,omitempty"`
	// ExpectPort is a TCP port of the guest that answers when the machine is
	// ready; it need not be in Ports. With Expect both must hold. With neither
	// the machine is ready once it has printed a byte or run for a second.
	ExpectPort int `json:"expectPort,omitempty"`
	// Timeout is how long it may take to be ready, as "90s"; "60s".
	Timeout string `json:"timeout"`
	// QEMU is the program; "qemu-system-x86_64", looked for in PATH.
	QEMU string `json:"qemu"`
}

// Target is the qemu target. It keeps nothing in memory between calls.
type Target struct {
	site step.Site
	room *machine.Room
}

var _ step.Target = (*Target)(nil)

// New makes the target of a worker at site.
func New(site step.Site) *Target { return &Target{site, machine.In(site, Kind)} }

// settings are Options that have been read: complete, sane, parsed.
type settings struct {
	Options
	forwards []forward
	expect   *regexp.Regexp // nil if none
	timeout  time.Duration
}

var cpuForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.+=,-]*$`)

// read decodes options, fills in the defaults and refuses what cannot be
// without looking at the host. Reading the result's own JSON gives the same.
func read(options json.RawMessage) (settings, error) {
	s := settings{Options: Options{Memory: 128, CPUs: 1, Accel: "auto", Timeout: "60s", QEMU: defaultQEMU}}
	if err := step.Decode(options, &s.Options); err != nil {
		return s, err
	}
	switch {
	case s.Memory < 1:
		return s, invalid("memory", "memory is in MiB, as 128", "%d is too little", s.Memory)
	case s.CPUs < 1 || s.CPUs > 255:
		return s, invalid("cpus", "1 to 255", "%d processors", s.CPUs)
	case strings.ContainsRune(s.Args, 0):
		return s, invalid("args", "", "a command line cannot hold a NUL")
	case s.Accel != "auto" && s.Accel != "kvm" && s.Accel != "tcg":
		return s, invalid("accel", oneOf(s.Accel, "auto", "kvm", "tcg"), "unknown accelerator %q", s.Accel)
	case s.CPU != "" && !cpuForm.MatchString(s.CPU):
		return s, invalid("cpu", "a name that qemu-system-x86_64 -cpu help prints", "%q is no processor", s.CPU)
	case s.CPU == "host" && s.Accel == "tcg":
		return s, invalid("cpu", "with accel tcg: max, or leave it out", `"host" needs accel kvm`)
	case s.ExpectPort < 0 || s.ExpectPort > 65535:
		return s, invalid("expectPort", "1 to 65535", "%d is no port", s.ExpectPort)
	case s.QEMU == "":
		return s, invalid("qemu", "leave it out for qemu-system-x86_64", "no program given")
	}
	if err := s.readNetwork(); err != nil {
		return s, err
	}
	var err error
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

func (s *settings) readNetwork() error {
	for i, p := range s.Ports {
		f, err := parseForward(p)
		if err != nil {
			return invalid(fmt.Sprintf("ports[%d]", i), `[address:]hostPort:guestPort[/tcp|/udp], as "8080:80"`, "%q: %w", p, err)
		}
		for _, other := range s.forwards {
			if f.overlaps(other) {
				return invalid(fmt.Sprintf("ports[%d]", i), "", "%s is forwarded twice", f.at())
			}
		}
		s.forwards = append(s.forwards, f)
	}
	s.Ports = nil
	for _, f := range s.forwards {
		s.Ports = append(s.Ports, f.String())
	}
	needed := len(s.forwards) > 0 || s.ExpectPort > 0
	switch s.Network {
	case "":
		s.Network = "none"
		if needed {
			s.Network = "user"
		}
	case "user":
	case "none":
		if needed {
			return invalid("network", "network: user, or leave it out", `"none" does not go with ports or expectPort`)
		}
	default:
		return invalid("network", oneOf(s.Network, "user", "none"), "unknown network %q", s.Network)
	}
	return nil
}

// normal is the JSON of the options with all defaults filled in.
func (s settings) normal() (json.RawMessage, error) { return json.Marshal(s.Options) }
