package mirari

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/morgana-deploy/morgana/step"
)

// MaxBytes is how large a .conf may be; it keeps what is made of it within what
// package config reads. The files of the time are a tenth of that.
const MaxBytes = 8 << 10

// maxLines bounds the lines that are no comments, for the same reason.
const maxLines = 200

// keys are mirari's own, for hints; the prefixes fs- and xl- take any name.
var keys = []string{"ip-use-dhcp", "ip-address", "ip-netmask", "ip-gateway", "http-port", "http-address",
	"main-http", "main-ip", "main-noip", "depends", "packages", "compiler"}

// The defaults that mirari filled in, once any ip-* was there.
const (
	defaultAddress = "10.0.0.2"
	defaultNetmask = "255.255.255.0"
	defaultGateway = "10.0.0.1"
)

// noNetwork is what becomes of the lines about a network that nobody uses.
const noNetwork = "left out: main-noip has no network"

var (
	// fsForm is what could stand in "filesystem_NAME.ml".
	fsForm       = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]*$`)
	functionForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$`)
	libraryForm  = regexp.MustCompile(`^[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*$`)
	packageForm  = regexp.MustCompile(`^([A-Za-z0-9_+-]+)(\.[A-Za-z0-9_.~+-]+)?$`)
	xlForm       = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
)

// Parse reads a .conf. shown is its name for errors and notes, which are
// InvalidSpec with "shown:line" as Op and the key as Field.
func Parse(shown string, data []byte) (*Conf, error) {
	p := parser{Conf: &Conf{shown: shown}, first: map[string]Line{}}
	if len(data) > MaxBytes {
		return nil, p.invalid(1, "", "", "more than %d KiB", MaxBytes>>10)
	}
	if err := p.lines(data); err != nil {
		return nil, err
	}
	for _, read := range []func() error{p.main, p.network, p.http, p.folders, p.depends, p.packages, p.compiler, p.xl, p.unknown} {
		if err := read(); err != nil {
			return nil, err
		}
	}
	return p.Conf, nil
}

type parser struct {
	*Conf
	all   []Line
	first map[string]Line // by key
}

func (p *parser) invalid(number int, key, hint, format string, args ...any) error {
	return &step.Error{Kind: step.InvalidSpec, Op: p.at(number), Field: key, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// lines cuts the file into keys and values.
func (p *parser) lines(data []byte) error {
	number := 0
	for content := range bytes.Lines(data) {
		number++
		if !utf8.Valid(content) {
			return p.invalid(number, "", "", "not UTF-8")
		}
		line := strings.TrimSpace(string(content))
		if line == "" || line[0] == '#' {
			continue
		}
		// Both files that are made of it hold its text; what does not print
		// could end a line there.
		if i := strings.IndexFunc(line, func(r rune) bool { return r != '\t' && !unicode.IsPrint(r) }); i >= 0 {
			r, _ := utf8.DecodeRuneInString(line[i:])
			return p.invalid(number, "", "", "an unprintable character, %U", r)
		}
		key, value, cut := strings.Cut(line, ":")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		switch {
		case !cut:
			return p.invalid(number, "", `a line is "key: value", or begins with #`, "no colon in %q", line)
		case key == "":
			return p.invalid(number, "", `a line is "key: value", or begins with #`, "no key before the colon")
		case strings.ContainsAny(key, " \t"):
			return p.invalid(number, "", `a line is "key: value", or begins with #`, "a key with a space, %q", key)
		case value == "":
			return p.invalid(number, key, "", "no value")
		case len(p.all) == maxLines:
			return p.invalid(number, "", "", "more than %d keys", maxLines)
		}
		if twin, twice := p.first[key]; twice && key != "depends" && key != "packages" {
			return p.invalid(number, key, "", "given twice, first at %s", p.at(twin.Number))
		} else if !twice {
			p.first[key] = Line{number, key, value}
		}
		p.all = append(p.all, Line{number, key, value})
	}
	return nil
}

// main finds the one entry.
func (p *parser) main() error {
	var found []Line
	for _, kind := range []string{"http", "ip", "noip"} {
		if l, ok := p.first["main-"+kind]; ok {
			found = append(found, l)
			p.Main = Main{Kind: kind, Function: l.Value}
		}
	}
	slices.SortFunc(found, func(a, b Line) int { return cmp.Compare(a.Number, b.Number) })
	const hint = "give exactly one of main-http, main-ip and main-noip"
	switch {
	case len(found) == 0:
		return &step.Error{Kind: step.InvalidSpec, Op: p.shown, Hint: hint, Err: errors.New("no main function")}
	case len(found) > 1:
		return p.invalid(found[1].Number, found[1].Key, hint, "a second main function, the first is at %s", p.at(found[0].Number))
	case !functionForm.MatchString(p.Main.Function):
		return p.invalid(found[0].Number, found[0].Key, `as "Dispatch.main"`, "%q is not the name of a function", p.Main.Function)
	}
	p.Note(found[0].Number, found[0].Key, "write it as `start` of a module Unikernel, in unikernel.ml: MirageOS 4 gives it its devices as arguments")
	return nil
}

// network reads ip-*: DHCP if it says true, else an address, with mirari's
// defaults for what is left out.
func (p *parser) network() error {
	var fixed []Line
	values := map[string]string{"ip-address": defaultAddress, "ip-netmask": defaultNetmask, "ip-gateway": defaultGateway}
	dhcp, said := p.first["ip-use-dhcp"]
	if said && dhcp.Value != "true" && dhcp.Value != "false" {
		return p.invalid(dhcp.Number, dhcp.Key, "", "want true or false, not %q", dhcp.Value)
	}
	p.DHCP = dhcp.Value == "true" && p.networked()
	for _, l := range p.all {
		if _, ours := values[l.Key]; !ours {
			continue
		}
		if a, err := netip.ParseAddr(l.Value); err != nil || !a.Is4() {
			return p.invalid(l.Number, l.Key, "", "%q is no IPv4 address", l.Value)
		}
		fixed = append(fixed, l)
		values[l.Key] = l.Value
	}
	if said && !p.networked() {
		p.Note(dhcp.Number, dhcp.Key, noNetwork)
	}
	where := "stands in comments: QEMU's user network has addresses of its own"
	if slices.ContainsFunc(p.all, func(l Line) bool { return strings.HasPrefix(l.Key, "xl-") }) {
		where = "is in the args of xen, else in comments: QEMU's user network has addresses of its own"
	}
	for _, l := range fixed {
		switch {
		case !p.networked():
			p.Note(l.Number, l.Key, noNetwork)
		case p.DHCP:
			p.Note(l.Number, l.Key, "left out, as ip-use-dhcp had mirari do")
		default:
			p.Note(l.Number, l.Key, "%s", where)
		}
	}
	switch {
	case !p.networked(), !said && len(fixed) == 0:
		return nil
	case p.DHCP:
		p.Note(dhcp.Number, dhcp.Key, "MirageOS asks for an address by itself since 4.10.5; give an older one the key `dhcp: true`")
		return nil
	}
	ones, bits := net.IPMask(netip.MustParseAddr(values["ip-netmask"]).AsSlice()).Size()
	if bits == 0 {
		return p.invalid(p.first["ip-netmask"].Number, "ip-netmask", "as 255.255.255.0", "%q is no netmask", values["ip-netmask"])
	}
	p.Static = &Static{Address: netip.PrefixFrom(netip.MustParseAddr(values["ip-address"]), ones),
		Gateway: netip.MustParseAddr(values["ip-gateway"])}
	return nil
}

func (p *parser) http() error {
	port, has := p.first["http-port"]
	address, hasAddress := p.first["http-address"]
	switch {
	case !has && hasAddress:
		return p.invalid(address.Number, address.Key, "give http-port as well", "an address without a port")
	case !has && p.Main.Kind == "http":
		l := p.first["main-http"]
		return p.invalid(l.Number, l.Key, "give http-port and http-address", "a server without a port")
	case !has:
		return nil
	}
	n, err := strconv.ParseUint(port.Value, 10, 16)
	if err != nil || n == 0 {
		return p.invalid(port.Number, port.Key, "1 to 65535", "%q is no port", port.Value)
	}
	p.HTTP = &HTTP{Port: uint16(n)}
	if hasAddress && address.Value != "*" {
		if p.HTTP.Address, err = netip.ParseAddr(address.Value); err != nil || !p.HTTP.Address.Is4() {
			return p.invalid(address.Number, address.Key, "an IPv4 address, or * for any", "%q is no address", address.Value)
		}
	}
	switch {
	case !p.networked():
		p.HTTP = nil
		p.Note(port.Number, port.Key, noNetwork)
		if hasAddress {
			p.Note(address.Number, address.Key, noNetwork)
		}
	case !hasAddress:
		p.Note(port.Number, port.Key, "mirari passed over it for want of http-address; it is taken as http-address: *")
	case address.Value == "*":
		p.Note(address.Number, address.Key, "needs no counterpart: the unikernel serves on every address it has")
	default:
		p.Note(address.Number, address.Key, "no counterpart: the unikernel serves on every address it has")
	}
	return nil
}

func (p *parser) folders() error {
	for _, l := range p.all {
		name, ok := strings.CutPrefix(l.Key, "fs-")
		if !ok {
			continue
		}
		if !fsForm.MatchString(name) {
			return p.invalid(l.Number, l.Key, "", "%q is no name for a filesystem", name)
		}
		p.FS = append(p.FS, FS{name, l.Value, l.Number})
	}
	return nil
}

func (p *parser) compiler() error {
	l, ok := p.first["compiler"]
	if !ok {
		return nil
	}
	p.Compiler = l.Value
	p.Note(l.Number, l.Key, "no counterpart: the opam switch that is current when the worker starts builds it; the kind of a target says what for")
	return nil
}

// unknown names the lines that mirari did not look at.
func (p *parser) unknown() error {
	for _, l := range p.all {
		if slices.Contains(keys, l.Key) || strings.HasPrefix(l.Key, "fs-") || strings.HasPrefix(l.Key, "xl-") {
			continue
		}
		if near := step.Nearest(l.Key, keys); near != "" {
			p.Note(l.Number, l.Key, "left out: mirari did not know it either (%s?)", near)
		} else {
			p.Note(l.Number, l.Key, "left out: mirari did not know it either")
		}
	}
	return nil
}
