// Package task is what package carrier tells the init in the ramdisk.
package task

import (
	"fmt"
	"strconv"
	"strings"
)

// The places in the ramdisk.
const (
	File      = "/task.json"
	Kernel    = "/kernel"
	Modules   = "/modules"
	Libraries = "/lib"
)

// The words in Args in whose place init puts the address that DHCP gives.
const (
	Address = "{address}" // with its network's length, as 10.0.2.15/24
	Gateway = "{gateway}"
)

// Task is what init is to do. It is in the ramdisk as JSON.
type Task struct {
	// Tender is the path of a Solo5 kernel's tender, "" for a Linux program.
	Tender string `json:"tender,omitempty"`
	// Args are the kernel's arguments.
	Args []string `json:"args,omitempty"`
	// Interfaces is the number of network interfaces that the machine has for the kernel.
	Interfaces int `json:"interfaces,omitempty"`
	// Networks are the names of a Solo5 kernel's network devices, in the order of the
	// machine's interfaces; Blocks those of its block devices, in the order of the disks.
	Networks []string `json:"networks,omitempty"`
	Blocks   []string `json:"blocks,omitempty"`
	// Respawn is whether the kernel is started again when it ends.
	Respawn bool `json:"respawn,omitempty"`
}

// Network is what init has found for the kernel.
type Network struct {
	Address, Gateway string // "" if DHCP was not asked
	Taps             []Tap
}

// Tap is the tap for one network device.
type Tap struct{ Name, MAC string }

// AsksAddress reports whether init asks DHCP for an address: for a Linux program always,
// for a Solo5 kernel if its arguments have a place for it.
func (t Task) AsksAddress() bool {
	if t.Tender == "" {
		return true
	}
	all := strings.Join(t.Args, " ")
	return strings.Contains(all, Address) || strings.Contains(all, Gateway)
}

// Command returns the command line that runs the kernel. memory is in MiB.
func (t Task) Command(n Network, disks []string, memory int) []string {
	command := []string{Kernel}
	if t.Tender != "" {
		command = []string{t.Tender, "--mem=" + strconv.Itoa(memory)}
		for i, name := range t.Networks {
			command = append(command, fmt.Sprintf("--net:%s=%s", name, n.Taps[i].Name), fmt.Sprintf("--net-mac:%s=%s", name, n.Taps[i].MAC))
		}
		for i, name := range t.Blocks {
			command = append(command, fmt.Sprintf("--block:%s=%s", name, disks[i]))
		}
		command = append(command, "--", Kernel)
	}
	fill := strings.NewReplacer(Address, n.Address, Gateway, n.Gateway)
	for _, a := range t.Args {
		command = append(command, fill.Replace(a))
	}
	return command
}
