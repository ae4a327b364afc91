package xenserver

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/step"
)

// Forecast lists the calls of register and boot that create or change something. Their
// permissions are those of a session, by the names that the pool gives them.
func (t *Target) Forecast(ctx context.Context, spec step.Spec) (all []step.Action, err error) {
	s, err := read(spec.Options)
	if err != nil {
		return nil, step.During("forecast xenserver target", err)
	}
	add := func(call, why, permission string) {
		all = append(all, step.Action{Call: call, Why: why, Permission: permission})
	}
	sr, vm := "SR "+s.SR, "a "+s.Type+" VM"
	if s.SR == "" {
		sr = t.defaultName(ctx, s)
	}
	size := "at least 1 MiB"
	switch {
	case s.Size != "":
		size = s.Size
	case s.Type == typeHVM:
		size = "at least 2 MiB"
	}
	nics := "1 network interface"
	if n := len(s.networks); n > 1 {
		nics = fmt.Sprintf("%d network interfaces", n)
	}
	if s.Type == auto {
		vm = "a VM of type " + strings.Join(s.Types, " or ")
	}
	const unless = ", unless a rollout of this deployment has made the same disk"
	add("VDI.create", "make the boot disk of "+size+" in "+sr+unless, "vdi.create")
	add("PUT /import_raw_vdi", "send the disk"+unless, "http/put_import_raw_vdi")
	add("VDI.add_to_other_config", "mark the disk as complete, and as this rollout's", "vdi.add_to_other_config")
	add("VM.create", fmt.Sprintf("make %s with %d MiB", vm, s.Memory), "vm.create")
	add("VBD.create", "give it the boot disk", "vbd.create")
	if s.Network != noNetwork {
		add("VIF.create", "give it "+nics, "vif.create")
	}
	add("VM.start", "start it, paused", "vm.start")
	add("VM.unpause", "let it run, for at most "+s.Timeout+" until it is ready", "vm.unpause")
	return all, nil
}

// defaultName names the SR of a rollout without option sr. Check has asked the pool just before,
// so an error is none here.
func (t *Target) defaultName(ctx context.Context, s settings) string {
	const name = "the pool's default SR"
	p, err := t.connect(ctx, s)
	if err != nil {
		return name
	}
	sr, err := p.defaultSR(ctx)
	if err != nil {
		return name
	}
	rec, err := one[srRecord](ctx, p, "SR", sr)
	if err != nil {
		return name
	}
	return name + ", " + rec.Name
}

// Needs lists the credentials and the tools that make boot disks. It asks no pool.
func (t *Target) Needs(ctx context.Context) []step.Need {
	keys := step.Need{For: "log in to a pool", What: "user and password",
		Fix: "put server=, username= and password= into ~/.xe or ~/.xe.d/<profile>, each in a line, and chmod 600"}
	var found []string
	if c, _ := environment(); c.password != "" { // it never fails
		found = append(found, c.from)
	}
	if home, err := os.UserHomeDir(); err == nil {
		for _, pattern := range []string{".xe", filepath.Join(".xe.d", "*")} {
			paths, _ := filepath.Glob(filepath.Join(home, pattern)) // the pattern is well-formed
			found = append(found, paths...)
		}
	}
	keys.Found = strings.Join(found, ", ")
	if keys.Found != "" {
		keys.Fix = ""
	}
	needs := []step.Need{keys}
	for _, l := range []disk.Layout{disk.Whole, disk.BIOS} {
		needs = append(needs, disk.Needs(ctx, l)...)
	}
	return needs
}
