package mirari

import (
	"slices"
	"strconv"
	"strings"
)

// domain is what the xl- lines say, in the options of a target xen. What they do
// not say is empty.
type domain struct {
	memory  uint64 // MiB
	vcpus   uint64
	args    string
	vifs    []vif
	disks   []volume
	onCrash string
	extra   []string // the other lines, as "key = value"
}

// decided are the lines of an .xl file that a deploy decides by itself.
var decided = map[string]string{
	"name":            "a machine is named after app, target and generation",
	"kernel":          "it is the kernel that was built",
	"builder":         "the kernel's notes say how it boots",
	"type":            "the kernel's notes say how it boots",
	"bootloader":      "the kernel is booted directly",
	"bootloader_args": "the kernel is booted directly",
	"boot":            "the kernel is booted directly",
	"serial":          "the console is Xen's",
	"uuid":            "each machine has its own",
}

// maxDevices bounds what is made of a line.
const maxDevices = 100

// What a deployment's domain may do when it crashes: it is not started again.
var crashActions = []string{"destroy", "preserve", "coredump-destroy"}

// xl reads the lines that mirari copied into the .xl file.
func (p *parser) xl() error {
	kernelArgs := map[string]Line{}
	for _, l := range p.all {
		name, ok := strings.CutPrefix(l.Key, "xl-")
		if !ok {
			continue
		}
		if !xlForm.MatchString(name) {
			return p.invalid(l.Number, l.Key, "", "%q is no key of xl.cfg(5)", name)
		}
		if p.xen == nil {
			p.xen = &domain{}
		}
		if why, ok := decided[name]; ok {
			p.Note(l.Number, l.Key, "left out, Morgana sets it: %s", why)
			continue
		}
		var err error
		switch name {
		case "memory":
			p.xen.memory, err = p.count(l, 1<<20)
		case "vcpus":
			p.xen.vcpus, err = p.count(l, 255)
		case "extra", "cmdline", "root":
			if text, ok := p.text(l); ok {
				kernelArgs[name] = Line{l.Number, l.Key, text}
			}
		case "ramdisk":
			p.Note(l.Number, l.Key, "left out: a ramdisk is a file that comes with the kernel; name it in the target's modules")
		case "vif":
			p.vifs(l)
		case "disk":
			p.disks(l)
		case "on_crash":
			p.onCrash(l)
		default:
			p.other(l, name)
		}
		if err != nil {
			return err
		}
	}
	p.args(kernelArgs)
	return nil
}

// count reads a whole number as xl does: 0x20 and 040 are 32.
func (p *parser) count(l Line, most uint64) (uint64, error) {
	v, ok := readValue(l.Value)
	n, err := strconv.ParseUint(v.text, 0, 64)
	if !ok || err != nil || n == 0 || n > most {
		return 0, p.invalid(l.Number, l.Key, "", "want a whole number from 1 to %d, not %q", most, l.Value)
	}
	return n, nil
}

// text reads a string. Without quotes xl refused it; what was meant is clear.
func (p *parser) text(l Line) (string, bool) {
	v, ok := readValue(l.Value)
	switch {
	case !ok:
		p.Note(l.Number, l.Key, "xl.cfg(5) wants it in quotes; taken as it stands")
		return l.Value, true
	case v.isList:
		p.Note(l.Number, l.Key, "left out: xl.cfg(5) wants a string, not a list")
	}
	return v.text, ok && !v.isList
}

// args makes the command line as xl does: cmdline, or else "root=ROOT EXTRA".
func (p *parser) args(of map[string]Line) {
	cmdline, whole := of["cmdline"]
	if whole {
		p.xen.args = cmdline.Value
	}
	for _, name := range []string{"root", "extra"} {
		l, ok := of[name]
		switch {
		case !ok:
		case whole:
			p.Note(l.Number, l.Key, "left out, as xl does: there is xl-cmdline")
		case name == "root":
			p.xen.args = "root=" + l.Value
		default:
			p.xen.args = strings.TrimSpace(p.xen.args + " " + l.Value)
		}
	}
}

func (p *parser) onCrash(l Line) {
	action, ok := p.text(l)
	switch {
	case !ok:
	case slices.Contains(crashActions, action):
		p.xen.onCrash = action
	default:
		p.Note(l.Number, l.Key, "left out: %q is not among %s, what a deployment's domain may do", action, strings.Join(crashActions, ", "))
	}
}

// other takes over a line that no option has.
func (p *parser) other(l Line, name string) {
	value := l.Value
	if strings.HasPrefix(name, "on_") && strings.Contains(value, "restart") {
		p.Note(l.Number, l.Key, "left out: a deployment's domain is not started again behind its back")
		return
	}
	if _, ok := readValue(value); !ok {
		if strings.ContainsAny(value, `'"[]\#;`) {
			p.Note(l.Number, l.Key, "left out: xl.cfg(5) wants a number, a string in quotes or a list of them")
			return
		}
		p.Note(l.Number, l.Key, "xl.cfg(5) wants it in quotes; it has them now")
		value = `"` + value + `"`
	}
	p.xen.extra = append(p.xen.extra, name+" = "+value)
}

// specs are the strings of a list.
func (p *parser) specs(l Line) (all []string) {
	v, ok := readValue(l.Value)
	ok = ok && v.isList && len(v.list) <= maxDevices && !slices.ContainsFunc(v.list, func(e value) bool { return e.isList })
	if !ok {
		p.Note(l.Number, l.Key, "left out: xl.cfg(5) wants a list of strings, and %d at most make sense", maxDevices)
		return nil
	}
	for _, e := range v.list {
		all = append(all, e.text)
	}
	return all
}
