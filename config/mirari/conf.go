// Package mirari reads the configuration of mirari, the tool that built
// MirageOS applications in 2013, and writes a morgana.yaml and a sketch of a
// config.ml for MirageOS 4.
//
// A .conf is lines of "key: value", cut at the first colon, and comments:
//
//	ip-use-dhcp: true           or ip-address, ip-netmask, ip-gateway
//	fs-static: ../files         a folder, compiled in as a key-value store
//	http-port: 80               with http-address, "*" for any
//	main-http: Dispatch.main    exactly one of main-http, main-ip, main-noip
//	depends: cohttp.syntax, re  ocamlfind libraries; may be repeated
//	packages: cow               opam packages; may be repeated
//	compiler: 4.01.0+mirage-xen an opam switch
//	xl-memory: 32               copied into the .xl file; now of a target xen
//
// mirari ignored unknown keys. Here every line is in a file that is written, is
// in [Conf.Notes], or is an error.
package mirari

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// Conf is the content of a .conf.
type Conf struct {
	// FS are the folders that are compiled in, in the file's order.
	FS []FS
	// Notes are about lines that have no counterpart today, or one that differs,
	// in the file's order.
	Notes []Note

	shown    string // the file's name
	kind     string // of the main function: http, ip or noip
	main     string // OCaml's name of it, as "Dispatch.main"
	mainLine int
	dhcp     bool
	static   *static // nil if no address is given
	httpPort uint16  // 0 if none is given
	packages []string
	subs     map[string][]string // the libraries of a package
	xen      *domain             // nil if there are no xl- lines
}

// static is a fixed address.
type static struct {
	address netip.Prefix
	gateway netip.Addr
}

// FS is a folder of files.
type FS struct {
	Name string
	// Dir is relative to the .conf's folder, or absolute.
	Dir  string
	Line int
}

// Note tells how a line was translated, or why it was not.
type Note struct {
	// At is the place, as "app.conf:7".
	At   string `json:"at"`
	Key  string `json:"key"`
	Text string `json:"note"`

	line int
}

func (n Note) String() string { return fmt.Sprintf("%s: %s: %s", n.At, n.Key, n.Text) }

// Note adds a note about a line, after the notes about that line and those before it.
func (c *Conf) Note(line int, key, format string, args ...any) {
	n := Note{At: c.at(line), Key: key, Text: fmt.Sprintf(format, args...), line: line}
	i, _ := slices.BinarySearchFunc(c.Notes, line+1, func(have Note, line int) int { return cmp.Compare(have.line, line) })
	c.Notes = slices.Insert(c.Notes, i, n)
}

func (c *Conf) at(line int) string { return fmt.Sprintf("%s:%d", c.shown, line) }

func (c *Conf) networked() bool { return c.kind != "noip" }
