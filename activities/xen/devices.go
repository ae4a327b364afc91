package xen

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/morgana-deploy/morgana/step"
)

var (
	fileForm   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}$`)
	nameForm   = regexp.MustCompile(`^[^@\x00-\x1f\x7f]{1,128}$`)
	bridgeForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$`)
	scriptForm = regexp.MustCompile(`^[A-Za-z0-9_/][A-Za-z0-9_./+-]*$`)
	modelForm  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*$`)
	vdevForm   = regexp.MustCompile(`^((xvd|sd)[a-z]{1,2}|hd[a-h])[0-9]{0,2}$`)
)

var formats = []string{"raw", "qcow", "qcow2", "vhd", "qed"}

const extraHint = `write it as in xl.cfg(5): a number, a string in quotes or a list of them, as cpus = "2-3"`

// plainPath reports whether p is an absolute path that xl can be given.
func plainPath(p string) bool {
	return path.IsAbs(p) && !strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// readModules checks the number and the names of the modules.
func (s *settings) readModules() error {
	if len(s.Modules) > 1 && !s.disk() {
		return step.Invalid("modules", "make one ramdisk of them, or use via: disk", "Xen gives a kernel one ramdisk, not %d", len(s.Modules))
	}
	for i, name := range s.Modules {
		if err := checkFile(fmt.Sprintf("modules[%d]", i), name, s.Modules[:i]); err != nil {
			return err
		}
	}
	return nil
}

// checkFile refuses a file name that is not plain, that is in before (given twice), or
// that Morgana itself uses in the folder of the image or the domain.
func checkFile(field, name string, before []string) error {
	reserved := []string{kernelFile, packedDisk, bootDisk, domainFile, "domain.cfg", "digest", "created", "ready",
		"console.log", "console.pid", "create.log", "writes", "unpacked"}
	switch {
	case !fileForm.MatchString(name) || slices.Contains(reserved, name) || strings.HasSuffix(name, ".new") || strings.HasSuffix(name, ".part"):
		return step.Invalid(field, `the plain name of a file that comes with the kernel, as "initrd.img"`, "%q cannot be the name of a file", name)
	case slices.Contains(before, name):
		return step.Invalid(field, "", "%q is given twice", name)
	}
	return nil
}

func (s *settings) readVifs() error {
	for i := range s.Vif {
		v, field := &s.Vif[i], fmt.Sprintf("vif[%d]", i)
		switch {
		case v.Name != "" && !nameForm.MatchString(v.Name):
			return step.Invalid(field+".name", "as in @NETWORK:name@ of the xl.in", "%q is no name of a device", v.Name)
		case v.Name != "" && slices.ContainsFunc(s.Vif[:i], func(o Vif) bool { return o.Name == v.Name }):
			return step.Invalid(field+".name", "", "there is another vif named %q", v.Name)
		case v.Bridge != "" && !bridgeForm.MatchString(v.Bridge):
			return step.Invalid(field+".bridge", `the name of a bridge of the Xen host, as "xenbr0"`, "%q is no name of a bridge", v.Bridge)
		case v.Script != "" && !scriptForm.MatchString(v.Script):
			return step.Invalid(field+".script", `a script of /etc/xen/scripts, as "vif-openvswitch", or a path`, "%q is no script's name", v.Script)
		case v.Model != "" && !modelForm.MatchString(v.Model):
			return step.Invalid(field+".model", "as rtl8139 or e1000", "%q is no model of a network card", v.Model)
		case v.Model != "" && (s.Type == typePV || s.Type == typePVH || !s.disk()):
			return step.Invalid(field+".model", "leave it out: the domain has Xen's own network device", "only an hvm domain has an emulated network card")
		}
		if v.IP != "" {
			a, err := netip.ParseAddr(v.IP)
			if err != nil || a.Zone() != "" {
				return step.Invalid(field+".ip", `an address, as "10.0.0.2"`, "%q is no address", v.IP)
			}
		}
		if v.MAC != "" {
			mac, err := net.ParseMAC(v.MAC)
			if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
				return step.Invalid(field+".mac", `an address of one station, as "00:16:3e:12:34:56"`, "%q is no MAC address", v.MAC)
			}
			v.MAC = mac.String()
			if slices.ContainsFunc(s.Vif[:i], func(o Vif) bool { return o.MAC == v.MAC }) {
				return step.Invalid(field+".mac", "", "there is another vif with %s", v.MAC)
			}
		}
	}
	return nil
}

func (s *settings) readDisks() error {
	for i := range s.Disks {
		d, field := &s.Disks[i], fmt.Sprintf("disks[%d]", i)
		switch {
		case d.Name != "" && !nameForm.MatchString(d.Name):
			return step.Invalid(field+".name", "as in @BLOCK:name@ of the xl.in", "%q is no name of a disk", d.Name)
		case (d.Path == "") == (d.File == ""):
			return step.Invalid(field, "path: /dev/vg/data of the Xen host, or file: data.img that comes with the kernel", "a disk has either a path or a file")
		case d.Path != "" && !plainPath(d.Path):
			return step.Invalid(field+".path", "an absolute path on the Xen host", "%q is no absolute path", d.Path)
		case s.Tool == toolXM && strings.Contains(d.Path, ","):
			return step.Invalid(field+".path", "another path: xm cannot quote it", "%q has a comma", d.Path)
		case d.Vdev != "" && !vdevForm.MatchString(d.Vdev):
			return step.Invalid(field+".vdev", "as xvdb", "%q is no virtual device", d.Vdev)
		case d.Access != "" && d.Access != "r" && d.Access != "w":
			return step.Invalid(field+".access", step.OneOf(d.Access, "r", "w"), "unknown access %q", d.Access)
		case d.Format != "" && !slices.Contains(formats, d.Format):
			return step.Invalid(field+".format", step.OneOf(d.Format, formats...), "unknown format %q", d.Format)
		}
		if d.File != "" {
			if err := checkFile(field+".file", d.File, nil); err != nil {
				return err
			}
		}
		if d.Path != "" {
			d.Path = path.Clean(d.Path)
		}
		for j, other := range s.Disks[:i] {
			readOnly := d.Access == "r" && other.Access == "r"
			switch {
			case d.Name != "" && d.Name == other.Name:
				return step.Invalid(field+".name", "", "there is another disk named %q", d.Name)
			case d.Vdev != "" && d.Vdev == other.Vdev:
				return step.Invalid(field+".vdev", "", "disks[%d] is %s too", j, d.Vdev)
			case d.Path != "" && d.Path == other.Path && !readOnly:
				return step.Invalid(field+".path", "access: r on both, or another path", "disks[%d] has this path too", j)
			case d.File != "" && d.File == other.File && !readOnly:
				return step.Invalid(field+".file", "access: r on both, or another file", "disks[%d] has this file too", j)
			}
		}
	}
	return nil
}

// readExtra parses extra. It refuses settings that Morgana or another option makes.
func (s *settings) readExtra() error {
	s.extra = nil
	for i, line := range s.Extra {
		field := fmt.Sprintf("extra[%d]", i)
		set, err := parseLine(line)
		if err != nil {
			return step.Invalid(field, extraHint, "%w", err)
		}
		option, ok := ours[set.Key]
		switch {
		case ok && option != "":
			return step.Invalid(field, "use the option "+option, "%s is not set by a line of its own", set.Key)
		case ok:
			return step.Invalid(field, "leave it out", "%s is set by Morgana", set.Key)
		case restarts(set):
			return step.Invalid(field, "destroy or preserve", "Xen would start the domain again behind the deployment's back")
		case !set.Add && slices.ContainsFunc(s.extra, func(o setting) bool { return o.Key == set.Key }):
			return step.Invalid(field, "", "%s is given twice", set.Key)
		}
		s.extra = append(s.extra, set)
	}
	return nil
}
