package mirari

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// vif is a network device, volume a disk, as the options of a target xen have them.
type (
	vif    struct{ mac, bridge, ip, script string }
	volume struct{ path, vdev, access, format string }
)

func (v vif) String() string {
	return flow("mac", v.mac, "bridge", v.bridge, "ip", v.ip, "script", v.script)
}

func (v volume) String() string {
	return flow("path", v.path, "vdev", v.vdev, "access", v.access, "format", v.format)
}

// What the options take.
var (
	bridgeForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$`)
	scriptForm = regexp.MustCompile(`^[A-Za-z0-9_/][A-Za-z0-9_./+-]*$`)
	vdevForm   = regexp.MustCompile(`^((xvd|sd)[a-z]{1,2}|hd[a-h])[0-9]{0,2}$`)
	formats    = []string{"raw", "qcow", "qcow2", "vhd", "qed"}
)

func (p *parser) vifs(l Line) {
	var lost []string
	for i, spec := range p.specs(l) {
		v, without := parseVif(spec)
		if v.mac != "" && slices.ContainsFunc(p.xen.vifs, func(o vif) bool { return o.mac == v.mac }) {
			without = append(without, "a MAC address that another one has")
			v.mac = ""
		}
		if len(without) > 0 {
			lost = append(lost, fmt.Sprintf("vif %d is without %s", i+1, strings.Join(without, ", ")))
		}
		p.xen.vifs = append(p.xen.vifs, v)
	}
	if len(lost) > 0 {
		p.Note(l.Number, l.Key, "no option can express all of it: %s", strings.Join(lost, "; "))
	}
}

// parseVif reads key=value parted by commas. What no option takes is returned:
// the device is of use without.
func parseVif(spec string) (v vif, without []string) {
	for param := range strings.SplitSeq(spec, ",") {
		param = strings.TrimSpace(param)
		key, val, _ := strings.Cut(param, "=")
		taken := false
		switch key {
		case "":
			taken = param == ""
		case "mac":
			mac, err := net.ParseMAC(val)
			if taken = err == nil && len(mac) == 6 && mac[0]&1 == 0; taken {
				v.mac = mac.String()
			}
		case "bridge":
			if taken = bridgeForm.MatchString(val); taken {
				v.bridge = val
			}
		case "ip": // of which xl takes several, and nets
			a, err := netip.ParseAddr(val)
			if taken = err == nil && a.Zone() == ""; taken {
				v.ip = val
			}
		case "script":
			if taken = scriptForm.MatchString(val); taken {
				v.script = val
			}
		}
		if !taken { // model and type among them: the card of an hvm domain
			without = append(without, strconv.Quote(param))
		}
	}
	return v, without
}

func (p *parser) disks(l Line) {
	var lost []string
	for i, spec := range p.specs(l) {
		d, why := parseDisk(spec)
		for _, o := range p.xen.disks {
			switch {
			case why != "":
			case o.vdev != "" && o.vdev == d.vdev:
				why = "another is " + d.vdev
			case o.path == d.path && o.access+d.access != "rr":
				why = "another has its path"
			}
		}
		if why != "" {
			lost = append(lost, fmt.Sprintf("disk %d (%s)", i+1, why))
			continue
		}
		p.xen.disks = append(p.xen.disks, d)
	}
	if len(lost) > 0 {
		p.Note(l.Number, l.Key, "left out, write it as an element of disks: %s", strings.Join(lost, "; "))
	}
}

// prefixes say how a disk was reached in the days of xm; xl finds out by itself.
// Behind one of them no format follows.
var prefixes = []string{"file:", "phy:", "tap:", "tap2:", "tapdisk:", "aio:"}

// parseDisk reads key=value parted by commas, target last; or
// target,format,vdev,access; or, behind a prefix, target,vdev,access. If an
// option cannot express some of it why says what: a disk that is attached in
// another way than it was meant may be damaged.
func parseDisk(spec string) (d volume, why string) {
	target, access := "", ""
	places := []*string{&target, &d.format, &d.vdev, &access} // of words without a key
	for rest := strings.TrimSpace(spec); rest != ""; rest = strings.TrimLeft(rest, " \t") {
		if after, ok := strings.CutPrefix(rest, "target="); ok {
			target = strings.TrimSuffix(after, ",") // the rest, commas and all
			break
		}
		var word string
		word, rest, _ = strings.Cut(rest, ",")
		word = strings.TrimSpace(word)
		key, val, keyed := strings.Cut(word, "=")
		into := map[string]*string{"format": &d.format, "vdev": &d.vdev, "access": &access}[key]
		switch {
		case keyed && into != nil:
			*into = val
		case keyed || len(places) == 0:
			return d, fmt.Sprintf("no option for %q", word)
		case word == "" && places[0] == &target:
		default:
			if places[0] == &target {
				var old bool
				if word, d.format, old = cutPrefixes(word, d.format); old {
					places = slices.Delete(places, 1, 2)
				}
			}
			*places[0] = word
			places = places[1:]
		}
	}
	return d, d.finish(target, access)
}

func cutPrefixes(word, format string) (rest, as string, old bool) {
	for {
		before, after, ok := strings.Cut(word, ":")
		switch {
		case ok && slices.Contains(formats, before):
			format = before
		case !ok || !slices.Contains(prefixes, before+":"):
			return word, format, old
		}
		word, old = after, true
	}
}

// finish checks what was read, and says what cannot be.
func (d *volume) finish(target, access string) string {
	d.vdev = strings.TrimSuffix(d.vdev, ":disk")
	if d.format == "" {
		d.format = "raw"
	}
	switch access {
	case "", "w", "rw":
		d.access = "w"
	case "r", "ro":
		d.access = "r"
	default:
		return fmt.Sprintf("no access %q", access)
	}
	printable := !strings.ContainsFunc(target, func(r rune) bool { return r < ' ' })
	switch {
	case !path.IsAbs(target) || !printable:
		return fmt.Sprintf("%q is no absolute path on the Xen host", target)
	case !slices.Contains(formats, d.format):
		return fmt.Sprintf("no format %q", d.format)
	case d.vdev != "" && !vdevForm.MatchString(d.vdev):
		return fmt.Sprintf("no virtual device %q", d.vdev)
	}
	d.path = path.Clean(target)
	return ""
}
