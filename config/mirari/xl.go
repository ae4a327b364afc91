package mirari

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// domain holds the xl- lines as options of a xen target, which checks them.
type domain struct {
	memory, vcpus uint64 // 0 if not given
	args          string
	onCrash       string
	vifs, disks   []string // in YAML
	extra         []string // the other lines, in YAML
}

var (
	xlForm   = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	listForm = regexp.MustCompile(`^\[\s*(?:(?:'[^'\\]*'|"[^"\\]*")\s*(?:,\s*|(\])))*\]?$`)
	textForm = regexp.MustCompile(`'([^'\\]*)'|"([^"\\]*)"`)
	diskForm = regexp.MustCompile(`^(?:phy|file):(/[^,]+),([a-z0-9]+)(?:,([rw])[ow]?)?$`)
)

// elsewhere are the keys of an .xl file that extra cannot set.
var elsewhere = map[string]string{
	"name": "Morgana sets it", "uuid": "Morgana sets it", "kernel": "Morgana sets it", "builder": "Morgana sets it",
	"type": "Morgana sets it", "serial": "Morgana sets it", "boot": "Morgana sets it",
	"bootloader": "the kernel is booted directly", "bootloader_args": "the kernel is booted directly",
	"root": "write it in args", "cmdline": "write it in args", "ramdisk": "name the file in modules",
}

// xl reads a line that mirari copied into the .xl file.
func (p *parser) xl(l line, name string) (err error) {
	if !xlForm.MatchString(name) {
		return l.invalid(p, "", "%q is no key of xl.cfg(5)", name)
	}
	if p.xen == nil {
		p.xen = &domain{}
	}
	why, left := elsewhere[name]
	text, plain := unquoted(l.value)
	switch {
	case left:
		p.Note(l.number, l.key, "left out: %s", why)
	case name == "memory":
		p.xen.memory, err = p.count(l)
	case name == "vcpus":
		p.xen.vcpus, err = p.count(l)
	case name == "vif":
		p.xen.vifs = p.devices(l, "vif", vif)
	case name == "disk":
		p.xen.disks = p.devices(l, "disks", disk)
	case name == "extra" && plain:
		p.xen.args = text
	case name == "extra":
		p.Note(l.number, l.key, "left out: write it in args")
	case name == "on_crash" && slices.Contains([]string{"destroy", "preserve", "coredump-destroy"}, text):
		p.xen.onCrash = text
	case name == "on_crash" || strings.HasPrefix(name, "on_") && strings.Contains(text, "restart"):
		p.Note(l.number, l.key, "left out: Xen may not start a deployment's domain again")
	default:
		p.xen.extra = append(p.xen.extra, strconv.Quote(name+" = "+l.value))
	}
	return err
}

// count reads a whole number as xl does: 0x20 and 040 are 32.
func (p *parser) count(l line) (uint64, error) {
	n, err := strconv.ParseUint(l.value, 0, 16)
	if err != nil || n == 0 {
		return 0, l.invalid(p, "", "want a whole number from 1 to 65535, not %q", l.value)
	}
	return n, nil
}

// unquoted removes the quotes around a value, if there are any. If the value has other
// quotes, a backslash or a bracket, unquoted returns it unchanged, and false.
func unquoted(value string) (string, bool) {
	if m := textForm.FindStringSubmatch(value); m != nil && m[0] == value {
		return m[1] + m[2], true
	}
	return value, !strings.ContainsAny(value, `'"[\`)
}

// devices reads a list of strings, each a device. A device that no option can express is
// left out whole: a disk that is attached in another way than meant may be damaged.
func (p *parser) devices(l line, option string, read func(spec string) (string, bool)) (all []string) {
	if !listForm.MatchString(l.value) {
		p.Note(l.number, l.key, "left out, write it in %s: it is not a list of strings as xl.cfg(5) has it", option)
		return nil
	}
	for _, m := range textForm.FindAllStringSubmatch(l.value, -1) {
		spec := m[1] + m[2]
		if device, ok := read(spec); ok {
			all = append(all, device)
		} else {
			p.Note(l.number, l.key, "left out, write it in %s: %q", option, spec)
		}
	}
	return all
}

// vif reads "key=value,key=value". It refuses keys that the option vif does not have.
func vif(spec string) (string, bool) {
	var pairs []string
	for param := range strings.SplitSeq(spec, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(param), "=")
		if !ok || !slices.Contains([]string{"mac", "bridge", "ip", "script"}, key) || slices.Contains(pairs, key) {
			return "", false
		}
		pairs = append(pairs, key, value)
	}
	return flow(pairs...), true
}

// disk reads "phy:path,vdev,access", the form of mirari's time (2013).
func disk(spec string) (string, bool) {
	m := diskForm.FindStringSubmatch(spec)
	if m == nil {
		return "", false
	}
	return flow("path", m[1], "vdev", m[2], "access", m[3]), true
}
