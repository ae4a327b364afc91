package xapilab

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/morgana-deploy/morgana/xenlab"
)

// xenMemory is the most memory of a guest in MiB: Xen gives all of it at once, and the lab
// has little.
const xenMemory = 128

// Machines is a [Hypervisor] of domains in a real Xen, which is started with the first one. It
// runs the bytes of the VDIs. All end with this process.
type Machines struct{ xen *xenlab.Domains }

// NewMachines returns the hypervisor. It keeps its files in dir.
func NewMachines(dir string) *Machines { return &Machines{xenlab.NewDomains(dir, nil)} }

// MachinesOf returns a hypervisor of domains in a Xen that runs.
func MachinesOf(domains *xenlab.Domains) *Machines { return &Machines{domains} }

// Start implements [Hypervisor]. A guest's interfaces are all on the bridge xenbr0.
func (m *Machines) Start(ctx context.Context, g Guest) (Running, error) {
	config := []string{"type=" + quote(g.Type), fmt.Sprintf("memory=%d", min(max(g.Memory>>20, 1), xenMemory)), fmt.Sprintf("vcpus=%d", g.VCPUs)}
	device := "xvda"
	if g.Type == "hvm" {
		device = "hda"
		config = append(config, "hdtype='ahci'", "vga='none'", "serial='pty'") // others take minutes in an emulated Xen
	} else {
		arguments := strings.Split(g.BootloaderArgs, " ")
		config = append(config, "bootloader="+quote(g.Bootloader), "bootloader_args="+list(arguments), "extra="+quote(g.Args))
	}
	var vifs []string
	for _, mac := range g.MACs {
		vifs = append(vifs, "mac="+mac)
	}
	config = append(config, "vif="+list(vifs))
	if strings.ContainsAny(strings.Join(config, ""), "\n\r\x00") {
		return nil, errors.New("a line break in the configuration")
	}
	return m.xen.Start(ctx, xenlab.Domain{Name: g.ID, Disk: g.Disk, Device: device, Config: config, Paused: true})
}

// Close ends Xen, and so its guests.
func (m *Machines) Close() error { return m.xen.Close() }

// quote returns a string of an xl.cfg.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func list(all []string) string {
	var quoted []string
	for _, s := range all {
		quoted = append(quoted, quote(s))
	}
	return "[" + strings.Join(quoted, ",") + "]"
}
