package xen

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/remote"
	"github.com/morgana-deploy/morgana/step"
)

// Check asks the host, creates nothing, and refuses:
//   - wrong options (InvalidSpec)
//   - a host with an unknown key, or one that refuses our login (Unauthorized)
//   - a host that is no dom0, or cannot run a kernel of this kind (Unsupported)
//   - a host that does not answer; a missing bridge, disk or boot loader (NotFound)
//   - too little memory, a disk that another deployment's domain writes to, or a foreign
//     domain of our name (Conflict)
func (t *Target) Check(ctx context.Context, spec step.Spec) (_ step.Spec, err error) {
	defer step.SetOp("check xen target", &err)
	name, id, err := identify(spec.Tags)
	if err != nil {
		return spec, err
	}
	s, err := complete(spec.Options)
	if err != nil {
		return spec, err
	}
	how, err := s.chooseStart(spec.Origin.ABIs, "")
	if err != nil {
		return spec, err
	}
	if err := s.checkDevices(spec.Origin); err != nil {
		return spec, err
	}
	if s.disk() {
		if err := disk.Missing(ctx, s.layout(how.Type)); err != nil {
			return spec, err
		}
	}
	d, err := t.dom0(s.Host, s.Tool)
	if err != nil {
		return spec, err
	}
	step.Report(ctx, step.Progress{Note: "asking " + d.host.String()})
	bridges, paths := s.wants(spec.Origin.Kernel != nil)
	f, err := d.insist(ctx, name, id, values(bridges), values(paths))
	if err != nil {
		return spec, err
	}
	for i, ok := range f.bridges {
		if !ok {
			return spec, &step.Error{Kind: step.NotFound, Field: bridges[i].field, Err: fmt.Errorf("%s has no bridge %s", d.host, bridges[i].value),
				Hint: "name one that ip link show type bridge lists there"}
		}
	}
	for i, is := range f.paths {
		if is.kind != "file" && is.kind != "block" {
			return spec, &step.Error{Kind: step.NotFound, Field: paths[i].field, Err: fmt.Errorf("%s has no file or block device %s", d.host, paths[i].value),
				Hint: "correct the path, or make it there"}
		}
		// A domain of this deployment may write to the disk: an unchanged rollout keeps
		// that domain. Boot checks again.
		if paths[i].writes && is.writer != "" && !sameTarget(spec, is.writer) {
			return spec, writtenBy(paths[i].field, paths[i].value, is.writer)
		}
	}
	if len(spec.Origin.ABIs) > 0 || s.Type != typeAuto { // else the type is not known before the build
		if err := f.runs(d, how.Type); err != nil {
			return spec, err
		}
	}
	// An xl.in may ask for less memory than the default, so only the option is checked.
	runs := slices.ContainsFunc(f.domains, func(name string) bool { return sameTarget(spec, name) })
	if err := f.checkMemory(d, s.Memory, cmp.Or(s.VCPUs, 1), runs); err != nil {
		return spec, err
	}
	if d.host.Local() {
		spec.Host = t.site.Host
	}
	spec.Alone = !slices.ContainsFunc(slices.Concat(f.domains, f.folders), func(name string) bool {
		tags, ok := step.ParseFolder(name)
		return ok && sameTarget(spec, name) && tags.Life != spec.Life
	})
	spec.Options, err = json.Marshal(s.Options)
	return spec, err
}

// checkDevices refuses options without the devices that the xl.in will ask for, as far as
// the source tells them.
func (s *settings) checkDevices(from step.Origin) error {
	in := &template{}
	for _, name := range from.Networks {
		in.vif = append(in.vif, device{Vif: Vif{Name: name}})
	}
	for _, name := range from.Blocks {
		in.disks = append(in.disks, volume{Disk: Disk{Name: name}})
	}
	_, err := s.bindVifs(in)
	if err == nil {
		_, err = s.bindDisks(in)
	}
	return err
}

// sameTarget reports whether a domain's name is one of the spec's app and target, in any
// generation.
func sameTarget(spec step.Spec, name string) bool {
	tags, ok := step.ParseFolder(name)
	return ok && tags.App == spec.App && tags.Target == spec.Target
}

// insist asks a host that does not answer up to three times. Then the error is final: the
// user is waiting, and no work is lost yet.
func (d *dom0) insist(ctx context.Context, name, uuid string, bridges, paths []string) (f facts, err error) {
	const tries, pause = 3, 2 * time.Second
	const patience = 30 * time.Second // a try without an answer may take long
	began := time.Now()
	for i := range tries {
		if f, err = d.facts(ctx, name, uuid, bridges, paths); err == nil || ctx.Err() != nil {
			return f, err
		}
		if step.KindOf(err) != "" {
			return f, d.blame(err)
		}
		if i+1 == tries || time.Since(began) > patience {
			break
		}
		step.Report(ctx, step.Progress{Note: fmt.Sprintf("asking %s again: %v", d.host, err)})
		if err := step.Pause(ctx, pause); err != nil {
			return f, err
		}
	}
	byHand := d.host.ByHand("xl", "list")
	var exit *remote.Exit
	if errors.As(err, &exit) {
		return f, &step.Error{Kind: step.Unsupported, Field: "host", Err: err, Hint: "see what " + byHand + " says"}
	}
	e := &step.Error{Kind: step.NotFound, Err: err}
	var told *step.Error
	if errors.As(err, &told) {
		e.Err, e.Hint = told.Err, told.Hint
	}
	e.Hint = cmp.Or(e.Hint, fmt.Sprintf("see that %s works by hand, then deploy again", byHand))
	return f, d.blame(e)
}

// blame sets Field to "host" in an Unauthorized or NotFound error of the connection.
func (d *dom0) blame(err error) error {
	var e *step.Error
	if !errors.As(err, &e) || e.Field != "" || e.Kind != step.Unauthorized && e.Kind != step.NotFound {
		return err
	}
	return &step.Error{Kind: e.Kind, Field: "host", Hint: e.Hint, Err: fmt.Errorf("%s: %w", d.host, e.Err)}
}

// wanted is a bridge or path that must be on the host, and the option that names it.
type wanted struct {
	field, value string
	writes       bool // the domain writes to this disk
}

func values(all []wanted) []string {
	v := make([]string, 0, len(all))
	for _, w := range all {
		v = append(v, w.value)
	}
	return v
}

// wants lists the bridges and paths that the options name. A disk without option access
// counts as written to if ready is set: the kernel is ready-made. Otherwise the .xl.in
// that comes with the kernel may make the disk read-only.
func (s *settings) wants(ready bool) (bridges, paths []wanted) {
	for i, v := range s.Vif {
		if v.Bridge != "" {
			bridges = append(bridges, wanted{field: fmt.Sprintf("vif[%d].bridge", i), value: v.Bridge})
		}
	}
	for i, d := range s.Disks {
		if d.Path != "" {
			paths = append(paths, wanted{fmt.Sprintf("disks[%d].path", i), d.Path, d.Access == "w" || d.Access == "" && ready})
		}
	}
	if s.Bootloader != "" {
		paths = append(paths, wanted{field: "bootloader", value: s.Bootloader})
	}
	return bridges, paths
}

// Interfaces that xl info lists as xen_caps.
const (
	capPV  = "xen-3.0-x86_64"
	capHVM = "hvm-3.0-x86_64"
)

// runs returns Unsupported if the host cannot run domains of a type.
func (f facts) runs(d *dom0, kind string) error {
	major, minor := f.version()
	unsupported := func(hint, format string, args ...any) error {
		return &step.Error{Kind: step.Unsupported, Field: "type", Hint: hint, Err: fmt.Errorf(format, args...)}
	}
	switch {
	case kind == typePVH && (major < 4 || major == 4 && minor < 10):
		return unsupported("a host with Xen 4.10 or newer, or a PV kernel", "%s has Xen %d.%d, and PVH needs 4.10", d.host, major, minor)
	case kind == typeHVM && (major < 4 || major == 4 && minor < 10):
		return unsupported("a host with Xen 4.10 or newer, or via: kernel", "%s has Xen %d.%d, and hvm domains are made for 4.10 or newer", d.host, major, minor)
	case (kind == typePVH || kind == typeHVM) && !f.has(capHVM):
		return unsupported("a host whose processor has VT-x or AMD-V, switched on in its firmware, or a PV kernel",
			"%s cannot run %s domains: its xen_caps are %s", d.host, strings.ToUpper(kind), f.info["xen_caps"])
	case kind == typePV && !f.has(capPV):
		return unsupported("a host whose Xen is built with PV, or a PVH kernel", "%s cannot run PV domains: its xen_caps are %s", d.host, f.info["xen_caps"])
	}
	return nil
}

// overhead returns the memory in MiB that a domain needs besides its own: video memory,
// and the shadow pool. libxl sizes the pool as 256 pages of 4 KiB for each processor and
// two for each MiB.
func overhead(mib, vcpus int) int { return 10 + 4*(256*vcpus+2*mib)/1024 }

// checkMemory refuses more memory than the host has. If Xen was started with dom0_mem,
// checkMemory also refuses more than is free, unless a domain of this target runs.
// Without dom0_mem, dom0 gives up memory for a new domain.
func (f facts) checkMemory(d *dom0, mib, vcpus int, runs bool) error {
	conflict := func(hint, format string, args ...any) error {
		return &step.Error{Kind: step.Conflict, Field: "memory", Hint: hint, Err: fmt.Errorf(format, args...)}
	}
	free, total := f.number("free_memory"), f.number("total_memory")
	switch {
	case mib > total:
		return conflict("less memory, or a larger host", "%d MiB is more than %s has: %d MiB", mib, d.host, total)
	case mib > 0 && !runs && mib+overhead(mib, vcpus) > free && strings.Contains(f.info["xen_commandline"], "dom0_mem="):
		return conflict("less memory, or destroy a domain that is there", "%d MiB is more than %s has free: %d MiB", mib, d.host, free)
	}
	return nil
}
