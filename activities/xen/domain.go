package xen

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/morgana-deploy/morgana/image"
	"github.com/morgana-deploy/morgana/image/disk"
	"github.com/morgana-deploy/morgana/step"
)

// start is how a kernel starts: the type of its domain, and its ABI, "" if that is
// not known.
type start struct{ Type, abi string }

// chooseStart picks the domain type and the ABI for a kernel with these ABIs.
// preferred is the type that an xl.in asks for, "" if none does.
func (s *settings) chooseStart(abis []string, preferred string) (start, error) {
	if s.disk() {
		return s.chooseDiskStart(abis)
	}
	abi, err := image.Supports(Kind, abis)
	if err != nil {
		return start{}, err
	}
	unknown := abi == "" || abi == image.LinuxBzImage // the notes of a bzImage are compressed; Linux has those of PV and PVH
	pv, pvh := unknown || slices.Contains(abis, image.XenPV), unknown || slices.Contains(abis, image.XenPVH)
	how := start{s.Type, abi}
	switch {
	case s.Type == typePV && !pv:
		return start{}, failedAt(step.Unsupported, "type", "type: pvh, or leave it out", "the kernel is PVH only: it has no PV notes")
	case s.Type == typePVH && !pvh:
		return start{}, failedAt(step.Unsupported, "type", "type: pv, or leave it out", "the kernel is PV only: it has no PVH note (18)")
	case s.Tool == toolXM && !pv:
		return start{}, failedAt(step.Unsupported, "tool", "tool: xl, on Xen 4.10 or later", "xm starts PV kernels, and this one is PVH only")
	case s.Type != typeAuto:
	case s.Tool == toolXM, !pvh, preferred == typePV && pv:
		how.Type = typePV
	default:
		how.Type = typePVH
	}
	if how.Type == typePV && !unknown {
		how.abi = image.XenPV
	}
	return how, nil
}

func (s *settings) chooseDiskStart(abis []string) (start, error) {
	abi, err := image.Supports("pv-grub", abis)
	how := start{typePV, abi}
	// Options layout and bootloader are only for pv domains.
	if s.Type == typeHVM || err != nil && s.Type == typeAuto && s.Layout == "" && s.Bootloader == "" {
		abi, err = image.Supports(image.GRUBOnXen, abis)
		how = start{typeHVM, abi}
	}
	if err == nil {
		return how, nil
	}
	var e *step.Error
	if _, plain := image.Supports(Kind, abis); plain == nil && errors.As(err, &e) {
		return start{}, failedAt(step.Unsupported, "via", "via: kernel", "%w", e.Err)
	}
	return start{}, err
}

// layout returns the layout of the boot disk of a domain of this type.
func (s *settings) layout(domainType string) disk.Layout {
	if domainType == typeHVM {
		return disk.BIOS
	}
	return disk.Layout(cmp.Or(s.Layout, string(disk.Whole)))
}

// domain configures a domain that starts so. Options win over the xl.in, and the xl.in wins
// over the defaults. in is nil if there is no xl.in.
func (s *settings) domain(how start, in *template) (d domain, err error) {
	if in == nil {
		in = &template{}
	}
	d = domain{Host: s.Host, Tool: s.Tool, Type: how.Type, XenConsole: how.abi == image.Solo5Xen, Args: cmp.Or(s.Args, in.args), Memory: cmp.Or(s.Memory, in.memory, defaultMemory),
		VCPUs: cmp.Or(s.VCPUs, in.vcpus, 1), OnCrash: cmp.Or(s.OnCrash, in.onCrash, "destroy")}
	if len(s.Modules) == 1 {
		d.Ramdisk = s.Modules[0]
	}
	switch {
	case !s.disk():
	case how.Type == typeHVM:
		// QEMU's IDE disks cannot be read-only, so the domain gets its own copy.
		d.Disks = []volume{{Disk: Disk{File: bootDisk, Vdev: "hda", Access: "w", Format: "raw"}}}
	default:
		d.Loader, d.Root = cmp.Or(s.Bootloader, pygrub), string(s.layout(how.Type))
		d.Disks = []volume{{Disk: Disk{File: bootDisk, Vdev: "xvda", Access: "r", Format: "raw"}}}
		if path.Base(d.Loader) == pygrub && len(s.Modules) > 1 {
			return d, step.Invalid("modules", "make one ramdisk of them, or name a pv-grub as bootloader", "pygrub gives a kernel one ramdisk, not %d", len(s.Modules))
		}
	}
	if d.Vif, err = s.bindVifs(in); err != nil {
		return d, err
	}
	disks, err := s.bindDisks(in)
	if err != nil {
		return d, err
	}
	d.Disks = append(d.Disks, disks...)
	if err := d.place(); err != nil {
		return d, err
	}
	for _, line := range in.extra {
		if !slices.ContainsFunc(s.extra, func(o setting) bool { return o.Key == line.Key }) {
			d.Extra = append(d.Extra, line.line())
		}
	}
	for _, line := range s.Extra {
		d.Extra = append(d.Extra, strings.TrimSpace(line))
	}
	return d, nil
}

// bindVifs returns the xl.in's devices with their bound options, then the other options.
func (s *settings) bindVifs(in *template) ([]device, error) {
	var all []device
	networks, _ := in.names()
	b := binding{what: "vif", placeholder: "NETWORK", example: "bridge: xenbr0", asked: networks}
	for _, v := range s.Vif {
		b.names = append(b.names, v.Name)
	}
	for _, v := range in.vif {
		i, err := b.find(v.Name)
		if err != nil {
			return nil, err
		}
		if i >= 0 {
			v = v.with(s.Vif[i])
		}
		all = append(all, v)
	}
	rest, err := b.rest()
	for _, i := range rest {
		all = append(all, device{}.with(s.Vif[i]))
	}
	return all, err
}

// with returns the device with the settings of o, which win over its own.
func (v device) with(o Vif) device {
	return device{Vif{MAC: cmp.Or(o.MAC, v.MAC), Bridge: cmp.Or(o.Bridge, v.Bridge), IP: cmp.Or(o.IP, v.IP),
		Script: cmp.Or(o.Script, v.Script), Model: cmp.Or(o.Model, v.Model)}, v.More}
}

// bindDisks returns the xl.in's disks with their bound options, then the other options.
func (s *settings) bindDisks(in *template) ([]volume, error) {
	var all []volume
	_, blocks := in.names()
	b := binding{what: "disks", placeholder: "BLOCK", example: "path: /dev/vg/data", asked: blocks}
	for _, d := range s.Disks {
		b.names = append(b.names, d.Name)
	}
	for _, v := range in.disks {
		i, err := b.find(v.Name)
		if err != nil {
			return nil, err
		}
		if i >= 0 {
			v = v.with(s.Disks[i])
		}
		if s.Tool == toolXM && len(v.More) > 0 {
			return nil, step.Invalid("tool", "tool: xl", "xm has no %s for a disk, which the xl.in has", v.More[0])
		}
		all = append(all, v)
	}
	rest, err := b.rest()
	for _, i := range rest {
		all = append(all, volume{}.with(s.Disks[i]))
	}
	return all, err
}

// with returns the volume with the settings of o, which win. File and path are o's alone.
func (v volume) with(o Disk) volume {
	return volume{Disk{File: o.File, Path: o.Path, Vdev: cmp.Or(o.Vdev, v.Vdev), Access: cmp.Or(o.Access, v.Access, "w"),
		Format: cmp.Or(o.Format, v.Format, "raw")}, v.More}
}

// place picks a vdev for each disk that has none. It refuses two disks with the same
// vdev, two disks with the same path if one of them is written to, and a read-only IDE
// disk.
func (d *domain) place() error {
	// In an hvm domain xvda, hda and sda are the same emulated disk.
	slot := func(vdev string) string {
		if letter := emulated(vdev); letter != "" && d.Type == typeHVM {
			return letter
		}
		return vdev
	}
	taken := map[string]int{}
	for i, v := range d.Disks {
		if v.Vdev == "" {
			continue
		}
		if _, twice := taken[slot(v.Vdev)]; twice {
			return step.Invalid("disks", "give one of them another vdev", "two disks are %s", v.Vdev)
		}
		taken[slot(v.Vdev)] = i
		if v.Access == "r" && emulated(v.Vdev) != "" && d.Type == typeHVM {
			return step.Invalid("disks", "vdev: xvde, or access: w", "%s of an hvm domain is an IDE disk too, which cannot be read-only", v.Vdev)
		}
	}
	next := 'a'
	if d.Type == typeHVM {
		next = 'e'
	}
	for i := range d.Disks {
		for ; d.Disks[i].Vdev == ""; next++ {
			vdev := "xvd" + string(next)
			if next > 'z' {
				return step.Invalid("disks", "give them a vdev", "more disks than letters")
			}
			if _, ok := taken[slot(vdev)]; !ok {
				d.Disks[i].Vdev = vdev
			}
		}
	}
	for i, v := range d.Disks {
		for _, o := range d.Disks[:i] {
			if v.Path != "" && path.Clean(o.Path) == path.Clean(v.Path) && v.Access+o.Access != "rr" {
				return step.Invalid("disks", "access: r on both, or another path", "two disks have %s", v.Path)
			}
		}
	}
	return nil
}

// emulated returns the letter of the IDE disk that QEMU emulates for a vdev of an hvm
// domain, "" if it emulates none.
func emulated(vdev string) string {
	for _, kind := range []string{"xvd", "hd", "sd"} {
		if letter, ok := strings.CutPrefix(vdev, kind); ok && len(letter) > 0 && letter[0] <= 'd' && (len(letter) == 1 || letter[1] <= '9') {
			return letter[:1]
		}
	}
	return ""
}

// binding binds the names in an xl.in to the elements of option vif or disks.
type binding struct {
	what        string   // the option
	placeholder string   // NETWORK or BLOCK
	example     string   // for the hint
	names       []string // of the options' elements
	asked       []string // by the xl.in
	used        map[int]bool
}

// find binds a placeholder's name to an element and returns the element's index. It takes
// the element of that name, or else the first unbound one without a name. For the name ""
// it returns -1.
func (b *binding) find(name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	i := slices.Index(b.names, name)
	for j, n := range b.names {
		if i < 0 && n == "" && !b.used[j] {
			i = j
		}
	}
	if i < 0 || b.used[i] {
		return 0, step.Invalid(b.what, fmt.Sprintf("write %s: [{name: %q, %s}] in the target's options", b.what, name, b.example),
			"@%s:%s@ of the xl.in is not bound", b.placeholder, name)
	}
	if b.used == nil {
		b.used = map[int]bool{}
	}
	b.used[i] = true
	return i, nil
}

// rest returns the indexes of the elements that no placeholder was bound to. If the xl.in
// has placeholders, such an element must not have a name.
func (b *binding) rest() (rest []int, err error) {
	for i, name := range b.names {
		if b.used[i] {
			continue
		}
		if name != "" && len(b.asked) > 0 {
			hint := "it asks for " + strings.Join(b.asked, ", ")
			if near := step.Nearest(name, b.asked); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			return nil, step.Invalid(fmt.Sprintf("%s[%d].name", b.what, i), hint, "the xl.in has no @%s:%s@", b.placeholder, name)
		}
		rest = append(rest, i)
	}
	return rest, nil
}
