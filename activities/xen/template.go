package xen

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/morgana-deploy/morgana/step"
)

// template is a parsed xl.in, which MirageOS writes for a kernel: the domain's devices,
// and defaults for the other settings.
type template struct {
	kind    string // pv or pvh, "" if it does not say
	memory  int    // MiB; 0 if it does not say
	vcpus   int
	args    string
	onCrash string
	vif     []device
	disks   []volume
	extra   []setting
}

// names returns the names that options must be bound to.
func (t *template) names() (networks, blocks []string) {
	for _, v := range t.vif {
		if v.Name != "" {
			networks = append(networks, v.Name)
		}
	}
	for _, v := range t.disks {
		if v.Name != "" {
			blocks = append(blocks, v.Name)
		}
	}
	return networks, blocks
}

// domainType returns the type that the xl.in asks for, "" if none; t may be nil.
func (t *template) domainType() string {
	if t == nil {
		return ""
	}
	return t.kind
}

var (
	placeholderForm = regexp.MustCompile(`@[A-Z]+(:[^@]*)?@`)
	networkForm     = regexp.MustCompile(`^@NETWORK:([^@]+)@$`)
	blockForm       = regexp.MustCompile(`^@BLOCK:([^@]+)@$`)
)

// bareForm matches a placeholder for a number, as memory = @MEMORY@. MirageOS writes it
// without quotes, which is not xl.cfg(5).
var bareForm = regexp.MustCompile(`(?m)^([ \t]*[a-z_]+[ \t]*=[ \t]*)(@[A-Z]+@)([ \t]*)$`)

func readTemplate(src string) (*template, error) {
	all, err := parse(bareForm.ReplaceAllString(src, `$1"$2"$3`))
	if err != nil {
		return nil, inTemplate("%w", err)
	}
	t := &template{}
	for _, s := range all {
		if err := t.set(s); err != nil {
			return nil, inTemplate("line %d: %w", s.Line, err)
		}
	}
	return t, nil
}

func inTemplate(format string, args ...any) error {
	return step.Invalid("", "it came with the kernel, from its build; see xl.cfg(5)", "the xl.in: "+format, args...)
}

// set reads one setting. Settings that Morgana makes itself are skipped.
func (t *template) set(s setting) (err error) {
	switch s.Key {
	case "name", "uuid", "kernel", "builder", "serial", "boot":
		return nil
	case "vif":
		return each(s, &t.vif, parseDevice)
	case "disk":
		return each(s, &t.disks, parseVolume)
	case "ramdisk", "bootloader", "root":
		return fmt.Errorf("%s is not taken from here: use the target's options", s.Key)
	}
	if restarts(s) {
		return nil // usual in an xl.in, and skipped: the domain is not restarted
	}
	if _, known := ours[s.Key]; known && s.Value.IsList {
		return fmt.Errorf("%s is a list", s.Key)
	}
	switch s.Key {
	case "type":
		t.kind = s.Value.Text
	case "memory":
		t.memory, err = s.number("@MEMORY@")
	case "vcpus":
		t.vcpus, err = s.number("@VCPUS@")
	case "extra", "cmdline":
		if t.args = s.Value.Text; strings.ContainsRune(t.args, 0) {
			return fmt.Errorf("a command line cannot hold a NUL")
		}
	case "on_crash":
		if t.onCrash = s.Value.Text; !slices.Contains(crashActions, t.onCrash) {
			return fmt.Errorf("on_crash is %q, not %s", t.onCrash, step.OneOf(t.onCrash, crashActions...))
		}
	default:
		if found := placeholderForm.FindString(s.line()); found != "" {
			return fmt.Errorf("%s is not known", found)
		}
		if _, err := parseLine(s.line()); err != nil {
			return err
		}
		t.extra = append(t.extra, s)
	}
	return err
}

// number returns a number above 0, or 0 if the value is the placeholder unset.
func (s setting) number(unset string) (int, error) {
	if s.Value.Text == unset {
		return 0, nil
	}
	n, err := strconv.ParseUint(s.Value.Text, 0, 24)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%s is %q, not a whole number above 0", s.Key, s.Value.Text)
	}
	return int(n), nil
}

// each parses the strings of a list. They replace the strings in into, or are appended to
// them if the setting has +=.
func each[T any](s setting, into *[]T, parse func(string) (T, error)) error {
	if !s.Value.IsList {
		return fmt.Errorf("%s is no list", s.Key)
	}
	if !s.Add {
		*into = nil
	}
	for _, v := range s.Value.List {
		if v.IsList {
			return fmt.Errorf("%s has a list in its list", s.Key)
		}
		e, err := parse(v.Text)
		if err != nil {
			return fmt.Errorf("%s %q: %w", s.Key, v.Text, err)
		}
		*into = append(*into, e)
	}
	return nil
}

// parseDevice reads an element of vif: key=value, separated by commas.
func parseDevice(spec string) (v device, err error) {
	for p := range strings.SplitSeq(spec, ",") {
		p = strings.TrimSpace(p)
		key, val, ok := strings.Cut(p, "=")
		into := map[string]*string{"mac": &v.MAC, "bridge": &v.Bridge, "ip": &v.IP, "script": &v.Script, "model": &v.Model}[key]
		switch {
		case p == "":
		case !ok:
			return v, fmt.Errorf("%q is not key=value", p)
		case key == "bridge" && networkForm.MatchString(val):
			v.Name = networkForm.FindStringSubmatch(val)[1]
		case placeholderForm.MatchString(p):
			return v, fmt.Errorf("%s is not known here", placeholderForm.FindString(p))
		case into != nil:
			*into = val
		default:
			v.More = append(v.More, p)
		}
	}
	return v, nil
}

// flags are the words of an element of disk that have no value.
var flags = []string{"cdrom", "direct-io-safe", "discard", "no-discard", "trusted", "untrusted"}

// parseVolume reads an element of disk. Like xl it takes key=value separated by commas,
// target last; or target,format,vdev,access; or file:target,vdev,access, as for xm.
func parseVolume(spec string) (v volume, err error) {
	target, access, place := "", "", 0
	for rest := spec; rest != ""; {
		rest = strings.TrimLeft(rest, " \t\n")
		if after, ok := strings.CutPrefix(rest, "target="); ok {
			target, rest = strings.TrimSuffix(after, ","), ""
			continue
		}
		var p string
		p, rest, _ = strings.Cut(rest, ",")
		key, val, ok := strings.Cut(strings.TrimSpace(p), "=")
		switch {
		case key == "" && !ok && place == 0:
		case ok && key == "format":
			v.Format = val
		case ok && key == "vdev":
			v.Vdev = val
		case ok && key == "access":
			access = val
		case ok || slices.Contains(flags, key):
			v.More = append(v.More, strings.TrimSpace(p))
		default:
			if place == 0 && target == "" {
				for _, old := range []string{"file:", "phy:"} {
					if after, ok := strings.CutPrefix(key, old); ok {
						key, v.Format = after, "raw"
						place++ // no format follows
					}
				}
			}
			if place >= 4 {
				return v, fmt.Errorf("%q is too much", key)
			}
			// The order is target, format, vdev, access; file: and phy: have no format.
			switch slot := place; {
			case target == "":
				target = key
			case slot == 1:
				v.Format = key
			case slot == 2:
				v.Vdev = key
			case slot == 3:
				access = key
			}
			place++
		}
	}
	return v, v.finish(target, access)
}

func (v *volume) finish(target, access string) error {
	switch access {
	case "r", "ro":
		v.Access = "r"
	case "", "w", "rw":
		v.Access = "w"
	default:
		return fmt.Errorf("unknown access %q", access)
	}
	if v.Format != "" && !slices.Contains(formats, v.Format) {
		return fmt.Errorf("unknown format %q", v.Format)
	}
	if v.Format == "" {
		v.Format = "raw"
	}
	if v.Vdev != "" && !vdevForm.MatchString(v.Vdev) {
		return fmt.Errorf("%q is no virtual device", v.Vdev)
	}
	if found := blockForm.FindStringSubmatch(target); found != nil {
		v.Name = found[1]
	} else if !plainPath(target) {
		return fmt.Errorf("%q is neither @BLOCK:name@ nor a path of the Xen host", target)
	} else {
		v.Path = target
	}
	for _, p := range v.More {
		if found := placeholderForm.FindString(p); found != "" {
			return fmt.Errorf("%s is not known here", found)
		}
	}
	return nil
}
