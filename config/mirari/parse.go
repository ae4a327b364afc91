package mirari

import (
	"bytes"
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

// MaxBytes is how large a .conf may be.
const MaxBytes = 8 << 10

// keys are mirari's keys, for hints. Keys that begin with fs- or xl- take any name.
var keys = []string{"ip-use-dhcp", "ip-address", "ip-netmask", "ip-gateway", "http-port", "http-address",
	"main-http", "main-ip", "main-noip", "depends", "packages", "compiler"}

var (
	fsForm       = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]*$`) // as in filesystem_NAME.ml
	functionForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$`)
	packageForm  = regexp.MustCompile(`^[A-Za-z0-9_+-]+(\.[A-Za-z0-9_.~+-]+)?$`)
)

// brought are the libraries and packages that come with the devices of config.ml.
var brought = []string{"mirage", "mirage-net", "mirage-fs", "mirage-unix", "mirage-xen", "tcpip", "lwt"}

const (
	lineHint = `a line is "key: value", or begins with #`
	mainHint = "give exactly one of main-http, main-ip and main-noip"
)

// Parse reads a .conf. shown is its name for errors and notes. An error is
// InvalidSpec with "shown:line" as Op and the key as Field.
func Parse(shown string, data []byte) (*Conf, error) {
	p := parser{Conf: &Conf{shown: shown, subs: map[string][]string{}}, first: map[string]int{}, ip: map[string]netip.Addr{}}
	if len(data) > MaxBytes {
		return nil, p.invalid(1, "", "", "more than %d KiB", MaxBytes>>10)
	}
	number := 0
	for content := range bytes.Lines(data) {
		number++
		if err := p.line(number, string(content)); err != nil {
			return nil, err
		}
	}
	return p.Conf, p.finish()
}

type parser struct {
	*Conf
	first map[string]int        // line numbers by key
	ip    map[string]netip.Addr // ip-address, ip-netmask, ip-gateway
}

// line is a line of a .conf that is no comment.
type line struct {
	number     int
	key, value string
}

func (p *parser) invalid(number int, key, hint, format string, args ...any) error {
	return &step.Error{Kind: step.InvalidSpec, Op: p.at(number), Field: key, Hint: hint, Err: fmt.Errorf(format, args...)}
}

func (l line) invalid(p *parser, hint, format string, args ...any) error {
	return p.invalid(l.number, l.key, hint, format, args...)
}

func (p *parser) line(number int, content string) error {
	text := strings.TrimSpace(content)
	if text == "" || text[0] == '#' && utf8.ValidString(text) {
		return nil
	}
	// The text goes into comments and strings of the written files, on one line each.
	for _, r := range text {
		if r == utf8.RuneError || r != '\t' && !unicode.IsPrint(r) {
			return p.invalid(number, "", "", "an unprintable character, %U", r)
		}
	}
	key, value, cut := strings.Cut(text, ":")
	l := line{number, strings.TrimSpace(key), strings.TrimSpace(value)}
	switch {
	case !cut:
		return p.invalid(number, "", lineHint, "no colon in %q", text)
	case l.key == "" || strings.ContainsAny(l.key, " \t"):
		return p.invalid(number, "", lineHint, "%q is no key", l.key)
	case l.value == "":
		return l.invalid(p, "", "no value")
	}
	if twin, twice := p.first[l.key]; twice && l.key != "depends" && l.key != "packages" {
		return l.invalid(p, "", "given twice, first at %s", p.at(twin))
	}
	p.first[l.key] = number
	return p.take(l)
}

// take reads one line; finish checks several against each other.
func (p *parser) take(l line) (err error) {
	prefix, name, _ := strings.Cut(l.key, "-")
	switch {
	case prefix == "main" && slices.Contains(keys, l.key):
		if p.kind != "" {
			return l.invalid(p, mainHint, "a second main function, the first is at %s", p.at(p.mainLine))
		}
		if p.kind, p.main, p.mainLine = name, l.value, l.number; !functionForm.MatchString(p.main) {
			return l.invalid(p, `as "Dispatch.main"`, "%q is not the name of a function", p.main)
		}
		p.Note(l.number, l.key, "write it as `start` of a module Unikernel, in unikernel.ml: MirageOS 4 gives it its devices as arguments")
	case prefix == "ip" && slices.Contains(keys, l.key):
		return p.address(l)
	case l.key == "http-port":
		n, err := strconv.ParseUint(l.value, 10, 16)
		if err != nil || n == 0 {
			return l.invalid(p, "1 to 65535", "%q is no port", l.value)
		}
		p.httpPort = uint16(n)
	case l.key == "http-address":
		p.Note(l.number, l.key, "no counterpart: the unikernel serves on every address it has")
	case l.key == "depends", l.key == "packages":
		return p.names(l)
	case l.key == "compiler":
		p.Note(l.number, l.key, "no counterpart: the worker's current opam switch builds it, or the option switch of the toolchain")
	case prefix == "fs" && name != "":
		if !fsForm.MatchString(name) {
			return l.invalid(p, "letters, digits, _ and -", "%q is no name for a filesystem", name)
		}
		p.FS = append(p.FS, FS{name, l.value, l.number})
	case prefix == "xl" && name != "":
		return p.xl(l, name)
	default:
		near := ""
		if n := step.Nearest(l.key, keys); n != "" {
			near = " (" + n + "?)"
		}
		p.Note(l.number, l.key, "left out: mirari did not know it either%s", near)
	}
	return nil
}

func (p *parser) address(l line) error {
	if l.key == "ip-use-dhcp" {
		if l.value != "true" && l.value != "false" {
			return l.invalid(p, "", "want true or false, not %q", l.value)
		}
		if p.dhcp = l.value == "true"; p.dhcp {
			p.Note(l.number, l.key, "MirageOS asks for an address by itself since 4.10.5; give an older one the key `dhcp: true`")
		}
		return nil
	}
	a, err := netip.ParseAddr(l.value)
	if err != nil || !a.Is4() {
		return l.invalid(p, "", "%q is no IPv4 address", l.value)
	}
	if l.key == "ip-netmask" {
		if _, bits := net.IPMask(a.AsSlice()).Size(); bits == 0 {
			return l.invalid(p, "as 255.255.255.0", "%q is no netmask", l.value)
		}
	}
	p.ip[l.key] = a
	p.Note(l.number, l.key, "an argument at boot now: see the args and comments of the targets; not used with DHCP")
	return nil
}

// names reads a comma-separated list of libraries (a.b: library b of package a) or
// packages (a.1.0: package a in version 1.0).
func (p *parser) names(l line) error {
	for name := range strings.SplitSeq(l.value, ",") {
		name = strings.TrimSpace(name)
		whole, part, _ := strings.Cut(name, ".")
		switch {
		case name == "":
			continue
		case !packageForm.MatchString(name):
			return l.invalid(p, "as in: "+l.key+": cohttp, re", "%q is no name", name)
		case slices.Contains(brought, whole) && (part == "" || l.key == "packages"):
			p.Note(l.number, l.key, "%s is left out: it comes with the devices of config.ml", name)
			continue
		case part == "syntax":
			p.Note(l.number, l.key, "%s was for camlp4, which is gone: %s is asked for, its syntax needs a ppx", name, whole)
		case part != "" && l.key == "packages":
			p.Note(l.number, l.key, "%s is asked for without its version, which is of 2013", whole)
		case part != "":
			p.subs[whole] = appendNew(p.subs[whole], part)
		}
		p.packages = appendNew(p.packages, whole)
	}
	return nil
}

func (p *parser) finish() error {
	switch {
	case p.kind == "":
		return &step.Error{Kind: step.InvalidSpec, Op: p.shown, Hint: mainHint, Err: errors.New("no main function")}
	case p.kind == "http" && p.httpPort == 0:
		return p.invalid(p.mainLine, "main-http", "give http-port", "a server without a port")
	}
	_, said := p.first["ip-use-dhcp"]
	switch {
	case !p.networked() && (said || len(p.ip) > 0 || p.httpPort != 0):
		p.httpPort = 0
		p.Note(p.mainLine, "main-noip", "has no network: what the lines ip- and http- say is left out")
	case !p.dhcp && (said || len(p.ip) > 0):
		p.static = p.fixed()
	}
	return nil
}

// fixed returns the static address of the ip- lines, with mirari's defaults.
func (p *parser) fixed() *static {
	for key, byDefault := range map[string]string{"ip-address": "10.0.0.2", "ip-netmask": "255.255.255.0", "ip-gateway": "10.0.0.1"} {
		if !p.ip[key].IsValid() {
			p.ip[key] = netip.MustParseAddr(byDefault)
		}
	}
	ones, _ := net.IPMask(p.ip["ip-netmask"].AsSlice()).Size()
	return &static{netip.PrefixFrom(p.ip["ip-address"], ones), p.ip["ip-gateway"]}
}

func appendNew(list []string, name string) []string {
	if slices.Contains(list, name) {
		return list
	}
	return append(list, name)
}
